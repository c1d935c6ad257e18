//! Events about Services, in a proxy's name. Pure: what is sent, and when, is the caller's business.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Service};

use super::build::{Said, reference};

const COMPONENT: &str = "orlop-dataplane";
/// What it is called when a service does not, or not wholly, stand in the maps.
pub const NOT_SERVED: &str = "FailedToServe";

/// A warning about a Service, as this node sees it.
#[must_use]
pub fn warning(service: &Service, node: &str, reason: &str, message: &str, at: Timestamp) -> Event {
    Said { component: COMPONENT, node, warning: true, reason, message, at }
        .about(reference("Service", &service.metadata))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn describe_finds_it_by_the_services_uid() {
        let meta = ObjectMeta {
            name: Some("web".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: Some("u1".to_owned()),
            ..ObjectMeta::default()
        };
        let service = Service { metadata: meta, ..Service::default() };
        let at = Timestamp::from_second(1).unwrap();
        let event = warning(&service, "node-a", NOT_SERVED, "the map is full", at);
        let about = event.involved_object;
        assert_eq!(
            [about.namespace, about.name, about.uid],
            ["shop", "web", "u1"].map(|word| Some(word.to_owned()))
        );
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.message.as_deref(), Some("the map is full"));
    }
}

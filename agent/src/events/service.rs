//! Events about Services, in a proxy's name. Pure: what is sent, and when, is the caller's business.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::build::{seconds, shortened};

const COMPONENT: &str = "orlop-dataplane";
/// What it is called when a service does not, or not wholly, stand in the maps.
pub const NOT_SERVED: &str = "FailedToServe";

/// A warning about a Service, as this node sees it.
#[must_use]
pub fn warning(service: &Service, node: &str, reason: &str, message: &str, at: Timestamp) -> Event {
    let meta = &service.metadata;
    let time = seconds(at);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", meta.name.as_deref().unwrap_or_default(), at.as_nanosecond())),
            namespace: meta.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            kind: Some("Service".to_owned()),
            api_version: Some("v1".to_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        },
        reason: Some(reason.to_owned()),
        message: Some(shortened(message)),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
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

//! An event as the API object upstream would write.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::worker::ports::PodEvent;

/// Where events about things without a namespace are kept.
pub(crate) const NAMESPACE: &str = "default";
/// Whose name the node speaks in.
pub(crate) const KUBELET: &str = "kubelet";
/// The API server takes no more.
const MAX_MESSAGE: usize = 1024;

/// What is said, by whom, when.
pub(crate) struct Said<'a> {
    pub(crate) component: &'static str,
    pub(crate) node: &'a str,
    pub(crate) warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    /// Events about one object carry it in their names: it has to differ.
    pub(crate) at: Timestamp,
}

impl Said<'_> {
    /// The object to be created.
    pub(crate) fn about(&self, object: ObjectReference) -> Event {
        let (component, node) = (Some(self.component.to_owned()), Some(self.node.to_owned()));
        let name = object.name.as_deref().unwrap_or_default();
        let time = seconds(self.at);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", self.at.as_nanosecond())),
                namespace: Some(object.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: object,
            reason: Some(self.reason.to_owned()),
            message: Some(shortened(self.message)),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource { component: component.clone(), host: node.clone() }),
            reporting_component: component,
            reporting_instance: node,
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            count: Some(1),
            ..Event::default()
        }
    }
}

/// An object of the core group.
pub(crate) fn reference(kind: &str, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        kind: Some(kind.to_owned()),
        api_version: Some("v1".to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// About a pod, or a part of it.
pub(super) fn event(event: &PodEvent, node: &str, at: Timestamp) -> Event {
    let PodEvent { pod, field_path, warning, reason, message, annotations } = event;
    let said = Said { component: KUBELET, node, warning: *warning, reason, message, at };
    let mut event =
        said.about(ObjectReference { field_path: field_path.clone(), ..reference("Pod", &pod.metadata) });
    event.metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    event
}

/// Times in events have whole seconds.
pub(super) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What the API server takes of a text.
pub(super) fn shortened(message: &str) -> String {
    match message.char_indices().find(|(at, c)| at + c.len_utf8() > MAX_MESSAGE) {
        Some((end, _)) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn as_upstream_writes_it() {
        let pod: Pod = serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u}}").unwrap();
        let said = PodEvent {
            pod: Arc::new(pod),
            field_path: Some("spec.containers{c}".into()),
            warning: true,
            reason: "BackOff",
            message: "ä".repeat(600),
            annotations: [("starved_resource".to_owned(), "memory".to_owned())].into(),
        };
        let object = event(&said, "node-a", Timestamp::from_second(7).unwrap());
        assert_eq!(object.metadata.name.as_deref(), Some("p.1a13b8600"));
        assert_eq!(object.message.unwrap().len(), 1024);
        assert_eq!(object.metadata.annotations.unwrap()["starved_resource"], "memory");
        assert_eq!(object.type_.as_deref(), Some("Warning"));
        assert_eq!(object.source.unwrap().component.as_deref(), Some("kubelet"));
    }
}

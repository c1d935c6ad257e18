//! An event as the API object upstream would write.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::worker::ports::PodEvent;

const COMPONENT: &str = "kubelet";
/// The API server takes no more.
const MAX_MESSAGE: usize = 1024;

/// The object to be created.
pub(super) fn event(event: &PodEvent, node_name: &str, at: Timestamp) -> Event {
    let pod = &event.pod.metadata;
    let name = pod.name.clone().unwrap_or_default();
    let nanos = at.as_nanosecond();
    let time = seconds(at);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{nanos:x}")),
            namespace: pod.namespace.clone(),
            annotations: (!event.annotations.is_empty()).then(|| event.annotations.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            kind: Some("Pod".into()),
            api_version: Some("v1".into()),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            resource_version: pod.resource_version.clone(),
            field_path: event.field_path.clone(),
        },
        reason: Some(event.reason.into()),
        message: Some(shortened(&event.message)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node_name.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node_name.into()),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        count: Some(1),
        ..Event::default()
    }
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

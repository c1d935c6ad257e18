//! Tells operators that a pod fits nowhere: an event, and the pod's `PodScheduled` condition.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::error::is_not_found;
use crate::object::{name, namespace, pod_condition, reference};
use crate::record::Recorder;

use super::board::Refusal;

/// Writes both; a failure is only logged, for the pod is tried again anyway.
pub(super) async fn refuse(client: &Client, recorder: &Recorder, Refusal { pod, message }: Refusal) {
    recorder.note(reference(&*pod), true, "FailedScheduling", message.clone(), Some("Scheduling"));
    let known = pod_condition(&pod, "PodScheduled");
    let generation = pod.metadata.generation;
    let same = |c: &PodCondition| {
        c.status == "False" && c.message.as_ref() == Some(&message) && c.observed_generation == generation
    };
    if known.is_some_and(same) {
        return;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let patch = json!({ "status": { "conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "observedGeneration": generation,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or(Time(Timestamp::now())),
    }] } });
    let api = Api::<Pod>::namespaced(client.clone(), namespace(&pod.metadata));
    let pod_name = name(&pod.metadata);
    match api.patch_status(pod_name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(pod = pod_name, error, "condition not written");
        }
    }
}

//! Ephemeral containers (KEP-277): what they share with others, and whose processes one of them sees.
//!
//! They are started once, as soon as the pod has its sandbox, and never again. They hold up nothing, count for nothing
//! and end with the pod. Not for: what they must not have (ports, probes, hooks, resources): the API server refuses it.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::{
    desired::Desired,
    observed::{Instances, Observed},
};

/// Those of a pod in spec order, as containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(container)
}

/// What is not taken over here can only come from a file, and is not obeyed.
pub fn container(of: &EphemeralContainer) -> Container {
    let of = of.clone();
    Container {
        name: of.name,
        image: of.image,
        image_pull_policy: of.image_pull_policy,
        command: of.command,
        args: of.args,
        working_dir: of.working_dir,
        env: of.env,
        env_from: of.env_from,
        volume_mounts: of.volume_mounts,
        volume_devices: of.volume_devices,
        security_context: of.security_context,
        termination_message_path: of.termination_message_path,
        termination_message_policy: of.termination_message_policy,
        stdin: of.stdin,
        stdin_once: of.stdin_once,
        tty: of.tty,
        ..Container::default()
    }
}

/// There never was an instance of it.
pub fn unborn(instances: &Instances) -> bool {
    instances.next_attempt == 0
}

/// The container (by id) whose processes this one sees besides its own. An error is a `CreateContainerConfigError`.
pub fn process_target(desired: &Desired, observed: &Observed, name: &str) -> Result<Option<String>, String> {
    let spec = desired.spec();
    let of = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name);
    let wanted = of.and_then(|container| container.target_container_name.as_deref());
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(None) };
    let target = &observed.container(wanted).current;
    let target = target.as_ref().ok_or_else(|| format!("unable to find target container {wanted}"))?;
    // Where all of the pod, or of the node, see each other, so does it.
    let shared = spec.share_process_namespace == Some(true) || spec.host_pid == Some(true);
    Ok((!shared).then(|| target.id.clone()))
}

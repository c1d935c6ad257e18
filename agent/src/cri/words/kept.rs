//! `[p]` What a client said of its pods and containers, kept in the runtime's records, where a new process finds it.
//!
//! A pod made through CRI is told from the agent's by its id. For what the agent made, the words that a kubelet would
//! have used are put together, so that clients see both alike.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use orlop_cri_api::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerResources, PodSandboxConfig,
    PodSandboxMetadata,
};
use orlop_runtime::{Container, ContainerState, Sandbox};
use prost::Message;

/// Begins the ids of pods that clients make.
const PREFIX: &str = "cri-";
/// The label with the client's words, base64 of protobuf.
const CONFIG: &str = "orlop.dev/cri-config";
/// The label with the time of creation, nanoseconds since the epoch.
const CREATED: &str = "orlop.dev/cri-created";

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Whether a sandbox of this id was made by a client of the socket.
pub(in crate::cri) fn owns(id: &str) -> bool {
    id.starts_with(PREFIX)
}

/// The id of a new sandbox.
pub(in crate::cri) fn id(random: &[u8]) -> String {
    format!("{PREFIX}{}", hex::encode(random))
}

/// Labels that keep a sandbox's words.
pub(in crate::cri) fn keep_pod(config: &PodSandboxConfig) -> BTreeMap<String, String> {
    BTreeMap::from([(CONFIG.to_owned(), STANDARD.encode(config.encode_to_vec()))])
}

/// Labels that keep a container's words, but for what only its start needs: environments hold secrets.
pub(in crate::cri) fn keep_container(config: &ContainerConfig, now: Timestamp) -> BTreeMap<String, String> {
    let kept = ContainerConfig {
        envs: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
        devices: Vec::new(),
        ..config.clone()
    };
    BTreeMap::from([
        (CONFIG.to_owned(), STANDARD.encode(kept.encode_to_vec())),
        (CREATED.to_owned(), now.as_nanosecond().to_string()),
    ])
}

/// The label that a container has once its limits were changed.
pub(in crate::cri) fn keep_limits(
    sandbox: &Sandbox,
    of: &Container,
    limits: LinuxContainerResources,
) -> BTreeMap<String, String> {
    let mut config = container(sandbox, of);
    let known = config.linux.get_or_insert_default().resources.get_or_insert_default();
    merge(known, limits);
    BTreeMap::from([(CONFIG.to_owned(), STANDARD.encode(config.encode_to_vec()))])
}

/// Zero and empty are "not said".
fn merge(known: &mut LinuxContainerResources, limits: LinuxContainerResources) {
    fn number(known: &mut i64, said: i64) {
        if said != 0 {
            *known = said;
        }
    }
    number(&mut known.cpu_period, limits.cpu_period);
    number(&mut known.cpu_quota, limits.cpu_quota);
    number(&mut known.cpu_shares, limits.cpu_shares);
    number(&mut known.memory_limit_in_bytes, limits.memory_limit_in_bytes);
    number(&mut known.memory_swap_limit_in_bytes, limits.memory_swap_limit_in_bytes);
    if !limits.cpuset_cpus.is_empty() {
        known.cpuset_cpus = limits.cpuset_cpus;
    }
    if !limits.cpuset_mems.is_empty() {
        known.cpuset_mems = limits.cpuset_mems;
    }
    if !limits.hugepage_limits.is_empty() {
        known.hugepage_limits = limits.hugepage_limits;
    }
    known.unified.extend(limits.unified);
}

fn recall<M: Message + Default>(labels: &BTreeMap<String, String>) -> Option<M> {
    M::decode(&STANDARD.decode(labels.get(CONFIG)?).ok()?[..]).ok()
}

/// What is known of a sandbox in the words of CRI.
pub(in crate::cri) fn pod(sandbox: &Sandbox) -> PodSandboxConfig {
    recall(&sandbox.labels).unwrap_or_else(|| PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: sandbox.pod.name.clone(),
            uid: sandbox.pod.uid.clone(),
            namespace: sandbox.pod.namespace.clone(),
            attempt: 0,
        }),
        labels: labels_of(sandbox),
        ..PodSandboxConfig::default()
    })
}

/// What is known of a container in the words of CRI.
pub(in crate::cri) fn container(sandbox: &Sandbox, container: &Container) -> ContainerConfig {
    recall(&container.labels).unwrap_or_else(|| {
        let mut labels = labels_of(sandbox);
        labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: container.attempt }),
            image: Some(ImageSpec { image: container.image_ref.clone(), ..ImageSpec::default() }),
            labels,
            ..ContainerConfig::default()
        }
    })
}

fn labels_of(sandbox: &Sandbox) -> HashMap<String, String> {
    let pod = &sandbox.pod;
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    HashMap::from([
        label(POD_NAME, &pod.name),
        label(POD_NAMESPACE, &pod.namespace),
        label(POD_UID, &pod.uid),
    ])
}

/// When a container was made; of the agent's it is known when they were started.
pub(in crate::cri) fn created(container: &Container) -> Timestamp {
    let kept = container.labels.get(CREATED).and_then(|nanos| nanos.parse().ok());
    let kept = kept.and_then(|nanos| Timestamp::from_nanosecond(nanos).ok());
    kept.unwrap_or(match &container.state {
        ContainerState::Created => Timestamp::UNIX_EPOCH,
        ContainerState::Running { started_at, .. } => *started_at,
        ContainerState::Exited(exit) => exit.started_at,
    })
}

#[cfg(test)]
pub(in crate::cri) mod tests {
    use orlop_cri_api::v1::KeyValue;
    use orlop_runtime::PodRef;

    use super::*;

    pub(in crate::cri) fn sandbox(labels: BTreeMap<String, String>) -> Sandbox {
        Sandbox {
            pod: PodRef { namespace: "ns".into(), name: "web".into(), uid: "u1".into() },
            netns: Some("/ns".into()),
            created_at: Timestamp::UNIX_EPOCH,
            shim_alive: true,
            containers: Vec::new(),
            labels,
        }
    }

    pub(in crate::cri) fn one(labels: BTreeMap<String, String>) -> Container {
        Container {
            id: "c1".into(),
            name: "c".into(),
            attempt: 2,
            image_ref: "nginx".into(),
            image_id: "sha256:1".into(),
            user: None,
            log_path: "/log/c/2.log".into(),
            tty: false,
            state: ContainerState::Running { pid: 7, started_at: Timestamp::from_second(5).unwrap() },
            labels,
        }
    }

    #[test]
    fn words_of_clients_come_back() {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "p".into(), attempt: 3, ..Default::default() }),
            annotations: HashMap::from([("a".to_owned(), "b".to_owned())]),
            ..PodSandboxConfig::default()
        };
        assert_eq!(pod(&sandbox(keep_pod(&config))), config);
    }

    #[test]
    fn environments_are_not_kept() {
        let env = KeyValue { key: "TOKEN".into(), value: "hunter2".into() };
        let config = ContainerConfig { envs: vec![env], tty: true, ..ContainerConfig::default() };
        let labels = keep_container(&config, Timestamp::from_second(9).unwrap());
        let back = one(labels);
        let expected = ContainerConfig { tty: true, ..ContainerConfig::default() };
        assert_eq!(container(&sandbox(BTreeMap::new()), &back), expected);
        assert_eq!(created(&back), Timestamp::from_second(9).unwrap());
    }

    #[test]
    fn what_the_agent_made_looks_like_a_kubelets() {
        let (pods, containers) = (sandbox(BTreeMap::new()), one(BTreeMap::new()));
        assert_eq!(pod(&pods).metadata.unwrap().uid, "u1");
        let seen = container(&pods, &containers);
        assert_eq!(seen.metadata, Some(ContainerMetadata { name: "c".into(), attempt: 2 }));
        assert_eq!(seen.labels[CONTAINER_NAME], "c");
        assert_eq!(seen.labels[POD_NAME], "web");
        assert_eq!(created(&containers), Timestamp::from_second(5).unwrap());
    }

    #[test]
    fn ids_tell_whose_a_pod_is() {
        assert!(owns(&id(&[1, 2])));
        assert!(!owns("5b0c0f4e-5b0c-4b0c-8b0c-5b0c0f4e5b0c"));
    }
}

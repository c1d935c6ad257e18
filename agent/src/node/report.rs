//! From facts about the machine to the Node object's status. Pure: time and facts are arguments.
//!
//! Source of fields, reasons and messages: kubelet 1.34 (`pkg/kubelet/nodestatus`).

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
        NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo,
        Taint,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use orlop_model::quantities::Quantity as Amount;

use crate::{
    config::kubelet::{
        NodeObject,
        eviction::{Eviction, Signal},
    },
    device::ledger::Counts,
    pod::{
        node_state::{NodeState, Pressure},
        settings::Reserved,
    },
};

/// What the machine is. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in NodeSystemInfo and /proc/meminfo")]
pub struct Facts {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub storage_bytes: u64,
    /// Huge pages: bytes of one and bytes of all, by size; none of which there are no pages.
    pub hugepages: Vec<(u64, u64)>,
    /// The kernel confines by AppArmor profiles.
    pub apparmor: bool,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub architecture: String,
}

/// What the agent knows of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Node name.
    pub name: String,
    /// Addresses, at most one of a family.
    pub addresses: Vec<IpAddr>,
    /// Port of the kubelet API.
    pub kubelet_port: u16,
    /// Most pods.
    pub max_pods: u32,
    /// Kept from pods.
    pub reserved: Reserved,
    /// When pods are evicted: what is kept free is not theirs either.
    pub eviction: Eviction,
    /// About the object.
    pub object: NodeObject,
    /// Labels from the configuration.
    pub labels: BTreeMap<String, String>,
    /// Pods can have users of their own.
    pub user_namespaces: bool,
    /// Where volumes of the bundled provisioner are kept.
    pub local_volumes: String,
}

/// What changes while the node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why pods cannot be started yet; empty when they can.
    pub not_ready: Vec<String>,
    /// The ways to other nodes' pods are there.
    pub routed: bool,
    /// What runs short, and whether the machine goes down.
    pub state: NodeState,
    /// Images here: names and size in bytes.
    pub images: Vec<(Vec<String>, u64)>,
    /// Devices of plugins, by resource.
    pub devices: BTreeMap<String, Counts>,
    /// Attachable volumes that pods use or are about to.
    pub volumes_in_use: Vec<String>,
}

/// Kubernetes version whose behaviour this agent implements.
pub const KUBELET_VERSION: &str = "v1.34.2+orlop";

/// At most this many names of each.
const MAX_IMAGE_NAMES: usize = 5;

/// The Node as it is created.
#[must_use]
pub fn node(identity: &Identity, facts: &Facts, health: &Health, now: Timestamp) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels(identity, facts)),
            annotations: Some(BTreeMap::from([
                ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned()),
                // The provisioner puts it into the volumes that it makes for this node.
                ("orlop.dev/local-volumes".to_owned(), identity.local_volumes.clone()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: identity.object.provider_id.clone(),
            taints: taints(identity),
            ..NodeSpec::default()
        }),
        status: Some(status(identity, facts, health, &[], now)),
    }
}

fn taints(identity: &Identity) -> Option<Vec<Taint>> {
    let taint = |taint: &crate::config::kubelet::Taint| Taint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
        effect: taint.effect.clone(),
        ..Taint::default()
    };
    let taints: Vec<_> = identity.object.taints.iter().map(taint).collect();
    (!taints.is_empty()).then_some(taints)
}

/// The labels every node has, under those of the configuration.
#[must_use]
pub fn labels(identity: &Identity, facts: &Facts) -> BTreeMap<String, String> {
    let own = [
        ("beta.kubernetes.io/arch", facts.architecture.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts.architecture.as_str()),
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.into_iter().chain(identity.labels.clone()).collect()
}

/// The status now; `before` are the conditions as the API server has them: a time of transition moves only when the
/// status changes.
#[must_use]
pub fn status(
    identity: &Identity,
    facts: &Facts,
    health: &Health,
    before: &[NodeCondition],
    now: Timestamp,
) -> NodeStatus {
    let all = Amounts {
        cpu_milli: i64::from(facts.cpus) * 1000,
        memory: facts.memory_bytes,
        storage: facts.storage_bytes,
    };
    let devices = |count: fn(&Counts) -> u64| {
        let devices = health.devices.iter();
        devices.map(move |(resource, counts)| (resource.clone(), Quantity(count(counts).to_string())))
    };
    let mut capacity = resources(facts, identity.max_pods, &all);
    let mut allocatable = resources(facts, identity.max_pods, &allocatable(facts, identity));
    capacity.extend(devices(|counts| counts.capacity));
    allocatable.extend(devices(|counts| counts.allocatable));
    NodeStatus {
        addresses: Some(addresses(identity)),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(health, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(identity.kubelet_port) }),
        }),
        images: Some(images(health, identity.object.max_images)),
        volumes_in_use: Some(health.volumes_in_use.clone()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            // The one that pods without a runtime class get.
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(identity.user_namespaces),
            }),
        }]),
        node_info: Some(NodeSystemInfo {
            architecture: facts.architecture.clone(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: format!("orlop://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: facts.kernel_version.clone(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            swap: (facts.swap_bytes > 0)
                .then(|| NodeSwapStatus { capacity: i64::try_from(facts.swap_bytes).ok() }),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// What there is, or what of it pods may ask for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of local disk.
    pub storage: u64,
}

/// What pods may ask for together: neither what is reserved, nor what is kept free by eviction, nor huge pages, which
/// are a stock of their own.
#[must_use]
pub fn allocatable(facts: &Facts, identity: &Identity) -> Amounts {
    let (reserved, eviction) = (identity.reserved, &identity.eviction);
    let huge: u64 = facts.hugepages.iter().map(|(_, all)| all).sum();
    let without = |all: u64, signal: Signal, reserved: i64| {
        let rest = all.saturating_sub(eviction.kept_free(signal, all));
        rest.saturating_sub(u64::try_from(reserved).unwrap_or(0))
    };
    Amounts {
        cpu_milli: (i64::from(facts.cpus) * 1000).saturating_sub(reserved.cpu_milli).max(0),
        memory: without(facts.memory_bytes, Signal::MemoryAvailable, reserved.memory).saturating_sub(huge),
        storage: without(facts.storage_bytes, Signal::NodefsAvailable, reserved.ephemeral_storage),
    }
}

/// `hugepages-2Mi`.
#[must_use]
pub fn hugepages_name(size: u64) -> String {
    format!("hugepages-{}", Amount::from_bytes(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn resources(facts: &Facts, pods: u32, amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let Amounts { cpu_milli, memory, storage } = *amounts;
    let hugepages = facts.hugepages.iter().map(|(size, all)| {
        let all = Amount::from_bytes(i64::try_from(*all).unwrap_or(i64::MAX));
        (hugepages_name(*size), Quantity(all.to_string()))
    });
    [
        ("cpu", Amount::from_milli(cpu_milli).to_string()),
        ("ephemeral-storage", format!("{}Ki", storage / 1024)),
        ("memory", format!("{}Ki", memory / 1024)),
        ("pods", pods.to_string()),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into_iter()
    .chain(hugepages)
    .collect()
}

/// Reason and message of a condition, true or false.
fn pressure_words(pressure: Pressure, is_there: bool) -> (&'static str, &'static str) {
    match (pressure, is_there) {
        (Pressure::Memory, true) => {
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
        }
        (Pressure::Memory, false) => {
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
        }
        (Pressure::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        (Pressure::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        (Pressure::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        (Pressure::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    }
}

fn conditions(health: &Health, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let going = health.state.shutting_down.then_some("node is shutting down");
    let problems: Vec<_> = health.not_ready.iter().map(String::as_str).chain(going).collect();
    let ready = problems.is_empty();
    let ready_message =
        if ready { "kubelet is posting ready status".to_owned() } else { problems.join(", ") };
    let pressure = |pressure: Pressure| {
        let (reason, message) = pressure_words(pressure, health.state.pressures.contains(&pressure));
        let status = if health.state.pressures.contains(&pressure) { "True" } else { "False" };
        (pressure.condition().to_owned(), status, reason.to_owned(), message.to_owned())
    };
    let wanted = [
        pressure(Pressure::Memory),
        pressure(Pressure::Disk),
        pressure(Pressure::Pid),
        (
            "Ready".to_owned(),
            if ready { "True" } else { "False" },
            if ready { "KubeletReady" } else { "KubeletNotReady" }.to_owned(),
            ready_message,
        ),
    ];
    // In the words of upstream's route controller, whose work it is.
    let routed = health.routed.then(|| {
        let message = "RouteController created a route".to_owned();
        ("NetworkUnavailable".to_owned(), "False", "RouteCreated".to_owned(), message)
    });
    routed
        .into_iter()
        .chain(wanted)
        .map(|(type_, status, reason, message)| {
            let same = before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            let since =
                same.and_then(|condition| condition.last_transition_time.clone()).unwrap_or(Time(now));
            NodeCondition {
                type_,
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since),
            }
        })
        .collect()
}

fn images(health: &Health, most: usize) -> Vec<ContainerImage> {
    let mut images: Vec<_> = health.images.iter().collect();
    images.sort_by(|(a_names, a), (b_names, b)| b.cmp(a).then_with(|| a_names.cmp(b_names)));
    images
        .into_iter()
        .take(most)
        .map(|(names, size)| ContainerImage {
            names: Some(names.iter().take(MAX_IMAGE_NAMES).cloned().collect()),
            size_bytes: i64::try_from(*size).ok(),
        })
        .collect()
}

/// Whether the status says that the node can run pods.
#[must_use]
pub fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What others may reach the node under.
fn addresses(identity: &Identity) -> Vec<NodeAddress> {
    let internal = identity.addresses.iter().map(|address| ("InternalIP", address.to_string()));
    let all = internal.chain([("Hostname", identity.name.clone())]);
    all.map(|(kind, address)| NodeAddress { type_: kind.to_owned(), address }).collect()
}

/// Whether `new` says something that `old` did not, heartbeats aside.
#[must_use]
pub fn changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let facts = |status: &NodeStatus| {
        let quiet = status.conditions.iter().flatten().map(|condition| {
            (
                condition.type_.clone(),
                condition.status.clone(),
                condition.reason.clone(),
                condition.message.clone(),
            )
        });
        (
            quiet.collect::<Vec<_>>(),
            status.addresses.clone(),
            status.capacity.clone(),
            status.allocatable.clone(),
            status.images.clone(),
            status.volumes_in_use.clone(),
            status.node_info.clone(),
            status.daemon_endpoints.clone(),
        )
    };
    facts(old) != facts(new)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "n1".to_owned(),
            addresses: vec![[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()],
            kubelet_port: 10250,
            max_pods: 110,
            reserved: Reserved::default(),
            eviction: Eviction::default(),
            object: NodeObject::default(),
            labels: BTreeMap::new(),
            user_namespaces: true,
            local_volumes: "/s/local-volumes".to_owned(),
        }
    }

    fn facts() -> Facts {
        Facts {
            apparmor: false,
            cpus: 2,
            memory_bytes: 4 << 30,
            storage_bytes: 10 << 30,
            architecture: "amd64".to_owned(),
            ..Facts::default()
        }
    }

    fn shown(status: &NodeStatus) -> String {
        let conditions = status.conditions.iter().flatten().map(|condition| {
            let since = condition.last_transition_time.as_ref().map(|time| time.0.as_second());
            format!(
                "{}={} since {:?}: {}",
                condition.type_,
                condition.status,
                since,
                condition.message.clone().unwrap_or_default()
            )
        });
        conditions.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_time_of_transition_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let waiting = Health {
            not_ready: vec!["container runtime network not ready: no pod CIDR".to_owned()],
            ..Health::default()
        };
        let first = status(&identity(), &facts(), &waiting, &[], at(1));
        let good = Health { routed: true, ..Health::default() };
        let second = status(&identity(), &facts(), &good, &first.conditions.clone().unwrap(), at(5));
        expect![[r#"
            NetworkUnavailable=False since Some(5): RouteController created a route
            MemoryPressure=False since Some(1): kubelet has sufficient memory available
            DiskPressure=False since Some(1): kubelet has no disk pressure
            PIDPressure=False since Some(1): kubelet has sufficient PID available
            Ready=True since Some(5): kubelet is posting ready status"#]]
        .assert_eq(&shown(&second));
        assert!(changed(&first, &second));
        let third = status(&identity(), &facts(), &good, &second.conditions.clone().unwrap(), at(9));
        assert!(!changed(&second, &third), "a heartbeat alone is no change");
    }

    #[test]
    fn what_is_reserved_and_huge_pages_are_not_for_pods() {
        let facts = Facts { hugepages: vec![(2 << 20, 64 << 20), (1 << 30, 1 << 30)], ..facts() };
        let reserved = Reserved { cpu_milli: 250, memory: 1 << 30, ephemeral_storage: 1 << 30 };
        let status = status(
            &Identity { reserved, ..identity() },
            &facts,
            &Health::default(),
            &[],
            Timestamp::UNIX_EPOCH,
        );
        let shown = |list: Option<BTreeMap<String, Quantity>>| {
            let one = |(name, amount): (String, Quantity)| format!("{name}={}", amount.0);
            list.unwrap().into_iter().map(one).collect::<Vec<_>>().join(" ")
        };
        expect!["cpu=2 ephemeral-storage=10485760Ki hugepages-1Gi=1Gi hugepages-2Mi=64Mi memory=4194304Ki pods=110"].assert_eq(&shown(status.capacity));
        expect!["cpu=1750m ephemeral-storage=8388608Ki hugepages-1Gi=1Gi hugepages-2Mi=64Mi memory=1929216Ki pods=110"].assert_eq(&shown(status.allocatable));
    }

    #[test]
    fn what_the_operator_says_of_the_object() {
        let taint = crate::config::kubelet::Taint {
            key: "a/b".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        let object = NodeObject {
            taints: vec![taint],
            provider_id: Some("p://1".to_owned()),
            max_images: 1,
            ..NodeObject::default()
        };
        let image = |name: &str, size| (vec![name.to_owned()], size);
        let counts = Counts { capacity: 3, allocatable: 2 };
        let health = Health {
            images: vec![image("small", 1), image("large", 2)],
            devices: BTreeMap::from([("v.example/x".to_owned(), counts)]),
            ..Health::default()
        };
        let node = node(&Identity { object, ..identity() }, &facts(), &health, Timestamp::UNIX_EPOCH);
        let (spec, status) = (node.spec.unwrap(), node.status.unwrap());
        let taints = spec.taints.unwrap();
        assert_eq!(
            (taints[0].key.as_str(), &taints[0].value, taints[0].effect.as_str()),
            ("a/b", &None, "NoSchedule")
        );
        assert_eq!(spec.provider_id.as_deref(), Some("p://1"));
        let images = status.images.unwrap();
        assert_eq!((images.len(), images[0].size_bytes), (1, Some(2)));
        let count = |list: Option<BTreeMap<String, Quantity>>| list.unwrap()["v.example/x"].0.clone();
        assert_eq!((count(status.capacity), count(status.allocatable)), ("3".into(), "2".into()));
    }

    #[test]
    fn allocatable_leaves_out_the_eviction_threshold() {
        let status = status(&identity(), &facts(), &Health::default(), &[], Timestamp::UNIX_EPOCH);
        let memory = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().unwrap()["memory"].0.clone();
        assert_eq!(
            (memory(&status.capacity), memory(&status.allocatable)),
            ("4194304Ki".into(), "4091904Ki".into())
        );
    }
}

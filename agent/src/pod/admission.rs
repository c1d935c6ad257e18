//! Whether this node takes a pod at all: resources, node selection, sysctls, AppArmor.
//!
//! The scheduler has asked the same before; this is for pods that came another way or met others on theirs. A refused
//! pod stays in the API as Failed. Not for: eviction.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Sysctl, Toleration};

use super::{
    desired::Desired,
    node_state::{NodeState, Pressure},
    resources::{self, Qos, requests_of_pod},
    settings::Settings,
};

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `OutOfcpu` …
    pub reason: String,
    /// Text for users.
    pub text: String,
}

impl Refused {
    /// Others could make room.
    pub fn is_for_room(&self) -> bool {
        matches!(self.reason.as_str(), "OutOfcpu" | "OutOfmemory" | "OutOfpods")
    }
}

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Static pods and those of the system: they are not evicted, and others make room for them.
pub fn is_critical(desired: &Desired) -> bool {
    desired.is_static() || desired.spec().priority.is_some_and(|priority| priority >= CRITICAL)
}

/// Priority from which on pods are the system's own.
const CRITICAL: i32 = 2_000_000_000;

/// Decides; `others` are the pods that are here already.
pub fn admit(
    settings: &Settings,
    state: &NodeState,
    desired: &Desired,
    others: &[Desired],
) -> Result<(), Refused> {
    if state.shutting_down {
        return Err(Refused {
            reason: "NodeShutdown".into(),
            text: "Pod was rejected as the node is shutting down.".into(),
        });
    }
    pressed(state, desired)?;
    sysctls(settings, desired)?;
    apparmor(settings, desired)?;
    selected(settings, desired)?;
    let active = || others.iter().filter(|other| !other.told_terminal());
    let room = &settings.allocatable;
    let count = i64::try_from(active().count()).unwrap_or(i64::MAX);
    if room.pods > 0 && count >= room.pods {
        return Err(out_of("pods", 1, count, room.pods));
    }
    self::room(settings, desired, others)
}

/// Under pressure only critical pods are taken; pods that ask for memory, or say that they bear it, while only memory
/// is short.
fn pressed(state: &NodeState, desired: &Desired) -> Result<(), Refused> {
    let pressures = &state.pressures;
    if pressures.is_empty() || is_critical(desired) {
        return Ok(());
    }
    let only_memory = pressures.iter().eq([&Pressure::Memory]);
    let bears = || desired.spec().tolerations.iter().flatten().any(tolerates_memory_pressure);
    if only_memory && (resources::qos(desired.spec()) != Qos::BestEffort || bears()) {
        return Ok(());
    }
    let names: Vec<_> = pressures.iter().map(|pressure| pressure.condition()).collect();
    Err(Refused {
        reason: "Evicted".into(),
        text: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

fn tolerates_memory_pressure(toleration: &Toleration) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    let same = key == "node.kubernetes.io/memory-pressure" && (exists || value.is_empty());
    matches!(effect, "" | "NoSchedule") && (same || (key.is_empty() && exists))
}

/// Whether there is processor and memory for a pod beside the others.
pub fn room(settings: &Settings, desired: &Desired, others: &[Desired]) -> Result<(), Refused> {
    let active = || others.iter().filter(|other| !other.told_terminal());
    let room = &settings.allocatable;
    let used = active()
        .map(|other| requests_of_pod(other.spec()))
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let (cpu, memory) = requests_of_pod(desired.spec());
    if cpu > 0 && cpu + used.0 > room.cpu_milli {
        return Err(out_of("cpu", cpu, used.0, room.cpu_milli));
    }
    if memory > 0 && memory + used.1 > room.memory {
        return Err(out_of("memory", memory, used.1, room.memory));
    }
    Ok(())
}

/// Event reasons are known words; a refusal is one of them.
pub fn event_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "NodeAffinity" => "NodeAffinity",
        "SysctlForbidden" => "SysctlForbidden",
        "AppArmor" => "AppArmor",
        "Evicted" => "Evicted",
        "NodeShutdown" => "NodeShutdown",
        "SMTAlignmentError" => "SMTAlignmentError",
        "TopologyAffinityError" => "TopologyAffinityError",
        _ => "UnexpectedAdmissionError",
    }
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Refused {
    Refused {
        reason: format!("OutOf{resource}"),
        text: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

/// `nodeSelector` and required node affinity; static pods are where they are.
fn selected(settings: &Settings, desired: &Desired) -> Result<(), Refused> {
    let spec = desired.spec();
    let labels = &settings.node_labels;
    let simple = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = required
        .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_fits(settings, term)));
    if desired.is_static() || (simple && fits) {
        return Ok(());
    }
    Err(Refused {
        reason: "NodeAffinity".into(),
        text: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
    })
}

/// Whether a term chooses this node.
pub(crate) fn term_fits(settings: &Settings, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let mut by_label = expressions.map(|wish| wish_fits(wish, settings.node_labels.get(&wish.key)));
    let fields = term.match_fields.iter().flatten();
    let mut by_field = fields.map(|wish| wish_fits(wish, Some(&settings.node_name)));
    // A term that asks nothing matches nothing.
    let asks = term.match_expressions.as_ref().is_some_and(|list| !list.is_empty())
        || term.match_fields.as_ref().is_some_and(|list| !list.is_empty());
    asks && by_label.all(|fits| fits) && by_field.all(|fits| fits)
}

fn wish_fits(wish: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let among = |value: &String| wish.values.iter().flatten().any(|wanted| wanted == value);
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(wish.values.iter().flatten().next());
    match wish.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Only what was asked for is missed: without a word about profiles pods go where there are none.
fn apparmor(settings: &Settings, desired: &Desired) -> Result<(), Refused> {
    let spec = desired.spec();
    let pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let containers = desired.containers().filter_map(|(_, container)| container.security_context.as_ref());
    let mut profiles = pod.into_iter().chain(containers.filter_map(|c| c.app_armor_profile.as_ref()));
    if settings.apparmor || profiles.all(|profile| profile.type_ == "Unconfined") {
        return Ok(());
    }
    Err(Refused {
        reason: "AppArmor".into(),
        text: "Cannot enforce AppArmor: AppArmor is not enabled on the host".into(),
    })
}

fn sysctls(settings: &Settings, desired: &Desired) -> Result<(), Refused> {
    let context = desired.spec().security_context.as_ref();
    let wanted: &[Sysctl] = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    let allowed = |name: &str| {
        SAFE_SYSCTLS.contains(&name)
            || settings.allowed_unsafe_sysctls.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => allowed == name,
            })
    };
    match wanted.iter().find(|sysctl| !allowed(&sysctl.name)) {
        Some(sysctl) => Err(Refused {
            reason: "SysctlForbidden".into(),
            text: format!("forbidden sysctl: \"{}\" not allowlisted", sysctl.name),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(spec: &str) -> Desired {
        let pod = Pod { spec: Some(serde_norway::from_str(spec).unwrap()), ..Pod::default() };
        Desired::new(Arc::new(pod))
    }

    fn calm() -> NodeState {
        NodeState::default()
    }

    #[test]
    fn a_node_in_need_takes_only_what_bears_it() {
        let state = |pressures: &[Pressure], shutting_down| NodeState {
            pressures: pressures.iter().copied().collect(),
            shutting_down,
        };
        let settings = Settings::for_tests();
        let asks = pod("{containers: [{name: c, resources: {requests: {memory: 1Mi}}}]}");
        let plain = pod("{containers: [{name: c}]}");
        let bears = pod(
            "{containers: [], tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]}",
        );
        let critical = pod("{containers: [], priority: 2000000000}");
        let reason =
            |state: &NodeState, pod| admit(&settings, state, pod, &[]).err().map(|refused| refused.text);
        let memory = state(&[Pressure::Memory], false);
        assert_eq!(reason(&memory, &plain).unwrap(), "The node had condition: [MemoryPressure]. ");
        for pod in [&asks, &bears, &critical] {
            assert_eq!(reason(&memory, pod), None);
        }
        let both = state(&[Pressure::Disk, Pressure::Memory], false);
        for pod in [&asks, &bears] {
            assert_eq!(
                reason(&both, pod).unwrap(),
                "The node had condition: [MemoryPressure DiskPressure]. "
            );
        }
        assert_eq!(reason(&both, &critical), None);
        let down = state(&[], true);
        assert_eq!(reason(&down, &critical).unwrap(), "Pod was rejected as the node is shutting down.");
    }

    #[test]
    fn refusals_in_upstreams_words() {
        let half = pod("{containers: [{name: c, resources: {requests: {cpu: 1500m}}}]}");
        let settings = Settings::for_tests();
        assert_eq!(admit(&settings, &calm(), &half, &[]), Ok(()));
        let refused = admit(&settings, &calm(), &half, std::slice::from_ref(&half)).unwrap_err();
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.text,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        );
        assert_eq!(
            admit(&settings, &calm(), &pod("{containers: [], nodeSelector: {disk: ssd}}"), &[]),
            Ok(())
        );
        let elsewhere = pod(
            "{containers: [], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
             {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: NotIn, values: [ssd]}]}]}}}}",
        );
        assert_eq!(admit(&settings, &calm(), &elsewhere, &[]).unwrap_err().reason, "NodeAffinity");
        let sysctl =
            pod("{containers: [], securityContext: {sysctls: [{name: kernel.msgmax, value: \"1\"}]}}");
        let refused = admit(&settings, &calm(), &sysctl, &[]).unwrap_err();
        assert_eq!(refused.text, "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    }

    #[test]
    fn profiles_need_a_kernel_that_has_them() {
        let of_pod = |profile: &str| {
            pod(&format!("{{containers: [], securityContext: {{appArmorProfile: {profile}}}}}"))
        };
        let of_container = |profile: &str| {
            pod(&format!("{{containers: [{{name: c, securityContext: {{appArmorProfile: {profile}}}}}]}}"))
        };
        let (without, with) = (Settings::for_tests(), Settings { apparmor: true, ..Settings::for_tests() });
        assert_eq!(admit(&without, &calm(), &pod("{containers: [{name: c}]}"), &[]), Ok(()));
        assert_eq!(admit(&without, &calm(), &of_container("{type: Unconfined}"), &[]), Ok(()));
        for profile in ["{type: RuntimeDefault}", "{type: Localhost, localhostProfile: mine}"] {
            for asking in [of_pod(profile), of_container(profile)] {
                let refused = admit(&without, &calm(), &asking, &[]).unwrap_err();
                assert_eq!(refused.reason, "AppArmor");
                assert_eq!(refused.text, "Cannot enforce AppArmor: AppArmor is not enabled on the host");
                assert_eq!(event_reason(&refused.reason), "AppArmor");
                assert_eq!(admit(&with, &calm(), &asking, &[]), Ok(()));
            }
        }
    }
}

//! What the API (or a static file) asks of this node about one pod.
//!
//! A thin view over the API object: nothing is copied, the pod stays shared. Not for: defaults the API server has
//! already filled in, nor for what is really there.

use std::{borrow::Cow, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec, Probe};

use super::{ephemeral, machine::PodRef, observed::Instance, resize::Pending};

/// One pod as it should be.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The API object, with the resources that this node has granted.
    pub pod: Arc<Pod>,
    /// The object is gone from the API (or its file was removed): take everything down, tell nobody.
    pub gone: bool,
    /// It asks for other resources than `pod` has, which are those it was granted.
    pub pending: Option<Pending>,
}

/// What a container is for in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to completion before the next one.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// Put into a pod that is there already (KEP-277).
    Ephemeral,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// Unless it exited 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// Whether a container that ended with `code` is started again.
    pub fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The spec of a pod; an object without one asks for nothing.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

impl Desired {
    /// A pod that should run.
    pub fn new(pod: Arc<Pod>) -> Desired {
        Desired { pod, gone: false, pending: None }
    }

    /// The spec; an object without one asks for nothing.
    pub fn spec(&self) -> &PodSpec {
        spec(&self.pod)
    }

    /// Which pod this is.
    pub fn pod_ref(&self) -> PodRef {
        pod_ref(&self.pod)
    }

    /// UID, empty if the object has none.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Init containers and sidecars in spec order.
    pub fn init(&self) -> impl DoubleEndedIterator<Item = (Kind, &Container)> {
        self.spec().init_containers.iter().flatten().map(|c| (kind_of_init(c), c))
    }

    /// Regular containers in spec order.
    pub fn regular(&self) -> impl DoubleEndedIterator<Item = &Container> {
        self.spec().containers.iter()
    }

    /// All containers that the pod was made with, init first.
    pub fn containers(&self) -> impl Iterator<Item = (Kind, &Container)> {
        self.init().chain(self.regular().map(|c| (Kind::Regular, c)))
    }

    /// A container by name, also an ephemeral one.
    pub fn container(&self, name: &str) -> Option<(Kind, Cow<'_, Container>)> {
        let made_with = self.containers().find(|(_, c)| c.name == name);
        made_with.map(|(kind, c)| (kind, Cow::Borrowed(c))).or_else(|| {
            let ephemeral = ephemeral::containers(self.spec()).find(|c| c.name == name);
            ephemeral.map(|c| (Kind::Ephemeral, Cow::Owned(c)))
        })
    }

    /// The container's own restart policy (KEP-5307), or the pod's.
    pub fn restart_policy(&self, container: &Container) -> RestartPolicy {
        let own = container.restart_policy.as_deref();
        match own.or(self.spec().restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// Whether a container that exits with `code` is to run again: its rules, then its policy. Sidecars do anyway.
    pub fn restarts(&self, kind: Kind, container: &Container, code: i32) -> bool {
        let mut rules = container.restart_policy_rules.iter().flatten();
        match kind {
            Kind::Sidecar => true,
            // Once an init container has done what it is for, it is done.
            Kind::Ephemeral => false,
            Kind::Init if code == 0 => false,
            _ if container.restart_policy.is_some() && rules.any(|rule| applies(rule, code)) => true,
            Kind::Init => self.restart_policy(container) != RestartPolicy::Never,
            Kind::Regular => self.restart_policy(container).restarts(code),
        }
    }

    /// Whether an ended instance is followed by another: one that was ended for that is, whatever the policy.
    pub fn follows(&self, kind: Kind, container: &Container, instance: &Instance) -> bool {
        let ended = instance.ended();
        ended.is_some_and(|ended| instance.replaced || self.restarts(kind, container, ended.exit.code))
    }

    /// The pod is on its way out.
    pub fn deleting(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// How long containers may take to end.
    pub fn grace(&self) -> Duration {
        let meta = &self.pod.metadata;
        // A static pod is gone when its file is: that is how it is deleted.
        if self.gone && !self.is_static() {
            return Duration::from_secs(1);
        }
        let deleted = meta.deletion_timestamp.as_ref().and(meta.deletion_grace_period_seconds);
        seconds(deleted.or(self.spec().termination_grace_period_seconds).unwrap_or(30).max(1))
    }

    /// The grace period for a container killed by this probe.
    pub fn probe_grace(&self, probe: Option<&Probe>) -> Duration {
        probe.and_then(|probe| probe.termination_grace_period_seconds).map_or_else(|| self.grace(), seconds)
    }

    /// When `activeDeadlineSeconds` runs out.
    pub fn deadline(&self, started_at: Option<Timestamp>) -> Option<Timestamp> {
        let limit = self.spec().active_deadline_seconds?;
        started_at?.checked_add(seconds(limit)).ok()
    }

    /// The phase the API server was told.
    pub fn told_phase(&self) -> Option<&str> {
        self.pod.status.as_ref()?.phase.as_deref()
    }

    /// The API server was told Failed or Succeeded, which is for ever.
    pub fn told_terminal(&self) -> bool {
        matches!(self.told_phase(), Some("Failed" | "Succeeded"))
    }

    /// Uses the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or_default()
    }

    /// Comes from a file of this node, not from the API.
    pub fn is_static(&self) -> bool {
        let annotations = self.pod.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get("kubernetes.io/config.source")).is_some_and(|source| source != "api")
    }
}

/// Which pod an object is.
pub fn pod_ref(pod: &Pod) -> PodRef {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    PodRef { namespace: part(&meta.namespace), name: part(&meta.name), uid: part(&meta.uid) }
}

/// `spec.containers{name}`, as events point to containers.
pub fn field_path(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Regular => format!("spec.containers{{{name}}}"),
        Kind::Init | Kind::Sidecar => format!("spec.initContainers{{{name}}}"),
        Kind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// A rule for an exit code; what this version does not know never applies.
fn applies(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart") else { return false };
    let listed = codes.values.iter().flatten().any(|value| *value == code);
    match &*codes.operator {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

pub(super) fn kind_of_init(container: &Container) -> Kind {
    match container.restart_policy.as_deref() {
        Some("Always") => Kind::Sidecar,
        _ => Kind::Init,
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(value.try_into().unwrap_or_default())
}

//! Which controllers run, and what they must know of the cluster.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use orlop_model::net::{IpNet, PerFamily};

/// What the controllers must be told.
#[derive(Debug, Clone)]
pub struct ControllersConfig {
    /// The addresses of all pods, one network of a family; nodes get their share of each.
    pub cluster_cidrs: Vec<IpNet>,
    /// The prefix lengths of a node's share, e.g. 24 and 64.
    pub node_cidr_masks: PerFamily,
    /// The CA that signs the API server's certificate, for `kube-root-ca.crt`.
    pub ca_pem: String,
    /// The controllers to run; see [`Controller::all`].
    pub enabled: BTreeSet<Controller>,
}

/// Text that names no controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown controller {0:?}; known are: {known}", known = Controller::names())]
pub struct ConfigError(pub String);

macro_rules! controllers {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A controller that can be switched on and off by itself. Names are upstream's where upstream has
        /// one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Controller {
            $($(#[$doc])* $variant,)*
        }

        impl Controller {
            const LIST: &[Controller] = &[$(Controller::$variant),*];

            /// The name for flags and logs.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Controller::$variant => $name,)*
                }
            }
        }
    };
}

controllers! {
    /// Picks nodes for pods.
    Scheduler = "scheduler",
    /// Keeps the number of pods of ReplicaSets.
    ReplicaSet = "replicaset-controller",
    /// Rolls Deployments out and back.
    Deployment = "deployment-controller",
    /// Publishes the pods behind Services as EndpointSlices.
    EndpointSlice = "endpointslice-controller",
    /// Mirrors Endpoints of Services without a selector as EndpointSlices.
    EndpointSliceMirroring = "endpointslice-mirroring-controller",
    /// Publishes the pods behind Services as Endpoints, for old clients.
    Endpoints = "endpoints-controller",
    /// Empties and removes namespaces.
    Namespace = "namespace-controller",
    /// Keeps the default ServiceAccount in every namespace.
    ServiceAccount = "serviceaccount-controller",
    /// Keeps `kube-root-ca.crt` in every namespace.
    RootCa = "root-ca-certificate-publisher-controller",
    /// Deletes what its owners left behind.
    GarbageCollector = "garbage-collector-controller",
    /// Deletes pods of nodes that are gone.
    PodGc = "pod-garbage-collector-controller",
    /// Gives nodes their pod CIDRs.
    NodeIpam = "node-ipam-controller",
    /// Notices nodes that went silent, keeps their taints.
    NodeLifecycle = "node-lifecycle-controller",
    /// Deletes pods that do not tolerate the NoExecute taints of their node, or not for longer.
    TaintEviction = "taint-eviction-controller",
    /// Binds claims to volumes, and says what becomes of volumes.
    VolumeBinder = "persistentvolume-binder-controller",
    /// Keeps claims that pods use.
    ClaimProtection = "persistentvolumeclaim-protection-controller",
    /// Keeps volumes that are bound.
    VolumeProtection = "persistentvolume-protection-controller",
    /// Makes the claims of ephemeral volumes.
    EphemeralVolume = "ephemeral-volume-controller",
    /// Attaches volumes of CSI drivers that need it to the nodes of their pods.
    AttachDetach = "persistentvolume-attach-detach-controller",
    /// Makes volumes of the class `orlop-local`, on the nodes where they are needed.
    LocalProvisioner = "local-provisioner-controller",
    /// Deletes events after an hour.
    EventTtl = "event-ttl-controller",
}

impl Controller {
    /// Every controller there is.
    #[must_use]
    pub fn all() -> BTreeSet<Controller> {
        Self::LIST.iter().copied().collect()
    }

    fn names() -> String {
        Self::LIST.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ")
    }

    /// Reads a list as flags have it: `*` is all, `-name` takes one away, `name` adds one.
    pub fn parse_list<'a>(
        items: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeSet<Controller>, ConfigError> {
        let mut set = BTreeSet::new();
        for item in items {
            if item == "*" {
                set.extend(Self::LIST);
            } else if let Some(name) = item.strip_prefix('-') {
                set.remove(&name.parse()?);
            } else {
                set.insert(item.parse()?);
            }
        }
        Ok(set)
    }
}

impl FromStr for Controller {
    type Err = ConfigError;
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let found = Self::LIST.iter().find(|c| c.name() == name);
        found.copied().ok_or_else(|| ConfigError(name.to_owned()))
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_upstreams_flag() {
        let parse = |text: &str| Controller::parse_list(text.split(','));
        assert_eq!(parse("*"), Ok(Controller::all()));
        assert_eq!(parse("*,-scheduler").map(|set| set.contains(&Controller::Scheduler)), Ok(false));
        assert_eq!(parse("scheduler").map(|set| set.len()), Ok(1));
        assert!(
            parse("nope")
                .is_err_and(|e| e.to_string().starts_with("unknown controller \"nope\"; known are:"))
        );
    }
}

//! Which kernel parameters belong to a pod's own namespaces. Pure.
//!
//! Everything else belongs to the machine: writing it for one pod would change it for all.

use std::path::PathBuf;

use crate::api::SandboxSpec;

/// A parameter that the pod has no namespace for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sysctl {0:?} is not the pod's own")]
pub struct NotThePods(String);

/// Files and values to write, once inside the pod's namespaces.
pub(crate) fn files(spec: &SandboxSpec) -> Result<Vec<(PathBuf, String)>, NotThePods> {
    let file = |(name, value): (&String, &String)| {
        let own = own(name, spec.host_network, spec.host_ipc);
        let path = || PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        own.then(|| (path(), value.clone())).ok_or_else(|| NotThePods(name.clone()))
    };
    spec.sysctls.iter().map(file).collect()
}

fn own(name: &str, host_network: bool, host_ipc: bool) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let of_ipc = |name: &str| {
        name == "kernel.sem"
            || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
    };
    name.chars().all(plain) && (!host_network && name.starts_with("net.") || !host_ipc && of_ipc(name))
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn only_namespaced_parameters_of_namespaces_the_pod_has() {
        for (name, host_network, host_ipc, expected) in [
            ("net.ipv4.tcp_syncookies", false, false, true),
            ("net.ipv4.tcp_syncookies", true, false, false),
            ("kernel.shm_rmid_forced", false, false, true),
            ("kernel.shm_rmid_forced", false, true, false),
            ("kernel.sem", true, false, true),
            ("fs.mqueue.msg_max", false, false, true),
            ("kernel.panic", false, false, false),
            ("vm.swappiness", false, false, false),
            ("net/../kernel/panic", false, false, false),
            ("net.ipv4/../../kernel/panic", false, false, false),
        ] {
            assert_eq!(own(name, host_network, host_ipc), expected, "{name} {host_network} {host_ipc}");
        }
    }
}

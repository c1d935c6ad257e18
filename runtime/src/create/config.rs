//! The part of a container that is left to libcontainer, in OCI's words: clones, the pid and mount namespaces, device
//! nodes and links in `/dev`, the change of root. Pure.
//!
//! No mounts, masks, cgroups or users: all that is done by `inside`. No capabilities: our last steps need all of them, and
//! then keep the container's. No `seccomp` and no `noNewPrivileges`: last steps too.

use std::path::Path;

use orlop_shim::records::ProcessSpec;
use serde_json::{Value, json};

use crate::spec::{DeviceNode, plan::Plan};

/// `joined` are the namespaces to be in, with the paths that lead to them: the pod's user namespace, which libcontainer joins
/// before it makes the others, which then belong to it; a process namespace that is there already. With users of its own a
/// container has no device nodes made there, but binds those of the host.
pub(super) fn config(plan: &Plan, process: &ProcessSpec, rootfs: &Path, joined: &[(&str, String)]) -> Value {
    let new = ["mount", "cgroup", "pid"];
    let new = new.into_iter().filter(|kind| *kind != "pid" || !plan.host_pid && plan.pidns.is_none());
    let new = new.map(|kind| json!({ "type": kind }));
    let joined = joined.iter().map(|(kind, path)| json!({ "type": kind, "path": path }));
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": rootfs, "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0, "umask": 0o022 },
            // Ours are in `process`; libcontainer would look for a home itself.
            "args": ["-"],
            "env": ["HOME=/"],
            "cwd": "/",
        },
        "linux": {
            "namespaces": new.chain(joined).collect::<Vec<_>>(),
            "cgroupsPath": "/",
            "rootfsPropagation": "private",
            "devices": plan.devices.iter().map(device).collect::<Vec<_>>(),
        },
    });
    if let Some(score) = process.oom_score_adj {
        config["process"]["oomScoreAdj"] = score.into();
    }
    config
}

fn device(DeviceNode { path, kind, major, minor, mode, uid, gid }: &DeviceNode) -> Value {
    json!({
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": mode, "uid": uid, "gid": gid,
    })
}

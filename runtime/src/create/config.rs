//! The part of a container that is left to libcontainer, in OCI's words: clones, the pid and mount namespaces, device
//! nodes and links in `/dev`, the change of root. Pure.
//!
//! No mounts, masks, cgroups or users: all that is done by `inside`. No capabilities: our last steps need all of them, and
//! then keep the container's. No `seccomp` and no `noNewPrivileges`: last steps too.

use std::path::Path;

use orlop_shim::records::ProcessSpec;
use serde_json::{Value, json};

use crate::spec::{DeviceNode, plan::Plan};

/// `pidns` leads to the process namespace to be in.
pub(super) fn config(plan: &Plan, process: &ProcessSpec, rootfs: &Path, pidns: Option<&str>) -> Value {
    let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    match pidns {
        Some(path) => namespaces.push(json!({ "type": "pid", "path": path })),
        None if plan.host_pid => {}
        None => namespaces.push(json!({ "type": "pid" })),
    }
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": rootfs, "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            // Ours are in `process`; libcontainer would look for a home itself.
            "args": ["-"],
            "env": ["HOME=/"],
            "cwd": "/",
        },
        "linux": {
            "namespaces": namespaces,
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

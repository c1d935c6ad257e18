//! Our container in the words of OCI, for runtimes that do everything themselves: the same namespaces, mounts, masks,
//! limits, and our RuntimeDefault profile.

use orlop_runtime::{
    Propagation, Resources,
    spec::{
        capabilities::Capabilities,
        plan::{Flag, Mount, Plan, What},
    },
};
use orlop_shim::records::ProcessSpec;
use serde_json::{Value, json};

use crate::{Result, profile};

pub(crate) fn config(plan: &Plan, process: &ProcessSpec, limits: &Resources, cgroup: &str) -> Result<Value> {
    let capabilities = Capabilities(process.capabilities);
    let names = capabilities.names();
    let dev = json!({
        "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    });
    let mounts: Vec<Value> = std::iter::once(dev).chain(plan.mounts.iter().map(mount)).collect();
    let mut namespaces =
        vec![json!({ "type": "mount" }), json!({ "type": "cgroup" }), json!({ "type": "pid" })];
    for path in &plan.namespaces {
        let kind = match path.file_name().and_then(|name| name.to_str()) {
            Some("net") => "network",
            Some(other) => other,
            None => return Err("a namespace without a name".into()),
        };
        namespaces.push(json!({ "type": kind, "path": path }));
    }
    Ok(json!({
        // Debian's crun refuses anything newer; nothing of it is used.
        "ociVersion": "1.0.2",
        "root": { "path": plan.rootfs, "readonly": plan.read_only_root },
        "process": {
            "terminal": false,
            "user": { "uid": process.uid, "gid": process.gid, "additionalGids": process.groups },
            "args": process.args,
            "env": process.env,
            "cwd": process.cwd,
            "capabilities": { "bounding": names, "effective": names, "permitted": names },
            "oomScoreAdj": process.oom_score_adj,
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("/{}", cgroup.trim_start_matches('/')),
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "cpu": { "shares": limits.cpu_shares, "quota": limits.cpu_quota_us, "period": limits.cpu_period_us },
                "memory": { "limit": limits.memory_limit, "swap": limits.memory_limit },
                "pids": { "limit": limits.pids_limit },
            },
            "rootfsPropagation": "private",
            "maskedPaths": plan.masked,
            "readonlyPaths": plan.read_only,
            "seccomp": profile::seccomp(capabilities)?,
        },
    }))
}

fn mount(Mount { at, what, flags }: &Mount) -> Value {
    let mut options: Vec<String> = flags.iter().map(|flag| word(*flag).to_owned()).collect();
    let (kind, source) = match what {
        What::New(kind, parameters) => {
            options.extend(parameters.iter().map(|(name, value)| match value.as_str() {
                "" => name.clone(),
                value => format!("{name}={value}"),
            }));
            (kind.as_str(), kind.clone())
        }
        What::Bind(source, propagation) => {
            options.extend(["rbind".to_owned(), travel(*propagation).to_owned()]);
            ("bind", source.display().to_string())
        }
        What::AsIs(source, _) => {
            options.push("rbind".to_owned());
            ("bind", source.display().to_string())
        }
        What::Cgroups => {
            options.push("relatime".to_owned());
            ("cgroup", "cgroup".to_owned())
        }
    };
    json!({ "destination": at, "type": kind, "source": source, "options": options })
}

fn word(flag: Flag) -> &'static str {
    match flag {
        Flag::ReadOnly => "ro",
        Flag::RecursiveReadOnly => "rro",
        Flag::NoSuid => "nosuid",
        Flag::NoDev => "nodev",
        Flag::NoExec => "noexec",
        Flag::StrictAtime => "strictatime",
    }
}

fn travel(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

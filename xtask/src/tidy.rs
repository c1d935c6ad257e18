//! The repository's own rules, as code: who may depend on whom, what a pure module may use, what each file starts with.
//!
//! The table in docs/architecture.md says why. A rule that only a person remembers is not a rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::run::root;

/// Crates that may be named in normal and build dependencies of a crate of ours, besides libraries from outside.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("orlop-model", &[]),
    ("orlop-abi", &[]),
    ("orlop-shim", &[]),
    ("orlop-runtime", &["orlop-model", "orlop-shim"]),
    ("orlop-cni", &["orlop-model"]),
    ("orlop-dataplane", &["orlop-model", "orlop-abi"]),
    ("orlop-apiserver", &["orlop-model"]),
    ("orlop-controllers", &["orlop-model"]),
    ("orlop-cri-api", &[]),
    (
        "orlop",
        &[
            "orlop-model",
            "orlop-runtime",
            "orlop-cni",
            "orlop-dataplane",
            "orlop-controllers",
            "orlop-apiserver",
            "orlop-cri-api",
        ],
    ),
    ("xtask", &[]),
    ("orlop-tests", &["orlop-cri-api"]),
    ("orlop-example-server", &[]),
];

/// A library from outside, the crates that may depend on it, and the path prefixes that may name it.
struct Door {
    library: &'static str,
    crates: &'static [&'static str],
    files: &'static [&'static str],
}

const DOORS: &[Door] = &[
    Door {
        library: "libcontainer",
        crates: &["orlop-runtime"],
        files: &["runtime/src/create", "runtime/examples/"],
    },
    Door {
        library: "aya",
        crates: &["orlop-dataplane", "orlop-abi"],
        files: &["dataplane/src/loader", "dataplane/src/maps", "dataplane-ebpf/abi/"],
    },
    Door {
        library: "rtnetlink",
        crates: &["orlop-cni", "orlop-dataplane"],
        files: &["cni/src/netlink", "dataplane/src/devices.rs"],
    },
    Door {
        library: "netlink_packet_core",
        crates: &["orlop-cni", "orlop-dataplane"],
        files: &["cni/src/netlink", "dataplane/src/netlink"],
    },
    Door {
        library: "netlink_packet_route",
        crates: &["orlop-cni", "orlop-dataplane"],
        files: &["cni/src/netlink", "dataplane/src/devices.rs"],
    },
    Door {
        library: "netlink_packet_netfilter",
        crates: &["orlop-dataplane"],
        files: &["dataplane/src/kube_proxy/conntrack.rs"],
    },
    Door {
        library: "netlink_packet_sock_diag",
        crates: &["orlop-dataplane"],
        files: &["dataplane/src/sweep/sockets.rs"],
    },
    Door { library: "netlink_proto", crates: &["orlop-cni"], files: &["cni/src/netlink"] },
    Door {
        library: "netlink_sys",
        crates: &["orlop-cni", "orlop-dataplane"],
        files: &["cni/src/netlink", "dataplane/src/netlink"],
    },
    Door {
        library: "hickory_proto",
        crates: &["orlop"],
        files: &["agent/src/dns/", "fuzz/fuzz_targets/dns"],
    },
    Door { library: "reqwest", crates: &["orlop-runtime"], files: &["runtime/src/image/registry/"] },
    Door { library: "fjall", crates: &["orlop-apiserver"], files: &["apiserver/src/store"] },
    Door {
        library: "orlop_cri_api",
        crates: &["orlop", "orlop-tests"],
        files: &[
            "agent/src/cri/",
            "agent/src/csi/",
            "agent/src/device/",
            "agent/tests/",
            "cri/",
            "tests/src/bin/csi_driver/",
        ],
    },
    Door {
        library: "tonic",
        crates: &["orlop", "orlop-cri-api", "orlop-tests"],
        files: &[
            "agent/src/cri/",
            "agent/src/csi/",
            "agent/src/device/",
            "cri/",
            "tests/src/bin/csi_driver/",
        ],
    },
    Door { library: "tokio_tungstenite", crates: &["orlop"], files: &["agent/src/server/stream/websocket"] },
    Door {
        library: "kube",
        crates: &["orlop", "orlop-controllers", "orlop-tests"],
        files: &["agent/", "controllers/", "tests/"],
    },
    Door { library: "clap", crates: &["orlop", "xtask"], files: &["agent/src/args", "xtask/"] },
    Door {
        library: "anyhow",
        crates: &["orlop", "xtask", "orlop-tests"],
        files: &["agent/src/main.rs", "agent/src/app", "agent/src/cli", "xtask/", "tests/"],
    },
];

/// Where `unsafe` may be written (each block with its SAFETY argument, which clippy checks).
const UNSAFE: &[&str] = &[
    "dataplane-ebpf/",
    "dataplane/src/sys",
    "dataplane/examples/services_bench/offload.rs",
    "cni/src/netns",
    "runtime/src/create",
    "runtime/src/sys",
    "runtime/shim/",
    "examples/server/",
    // Names the words it looks for.
    "xtask/src/tidy.rs",
];

/// Pure code: no clock, files, sockets, environment, randomness or async.
const PURE: &[&str] = &[
    "model/src/",
    "dataplane/examples/services_bench/rules",
    "dataplane/examples/services_bench/services",
    "dataplane/examples/services_bench/statistics",
    "agent/src/node/address",
    "agent/src/pod/",
    "agent/src/source/peers",
    "agent/src/config/kubelet",
    "agent/src/config/subids",
    "agent/src/cpu/choose",
    "agent/src/cpu/pool",
    "agent/src/cpu/set",
    "agent/src/cpu/topology",
    "agent/src/device/grant",
    "agent/src/dns/cache",
    "agent/src/dns/clients",
    "agent/src/dns/redirect",
    "agent/src/dns/upstreams",
    "agent/src/dns/wire",
    "agent/src/dns/zone/",
    "agent/src/device/ledger",
    "agent/src/topology",
    "agent/src/credential/cache",
    "agent/src/images/rate",
    "agent/src/events/correlate",
    "agent/src/events/service",
    "agent/src/events/lru",
    "agent/src/cri/words/",
    "agent/src/csi/words",
    "agent/src/server/cadvisor",
    "agent/src/server/configz",
    "agent/src/server/node_metrics",
    "agent/src/server/pods",
    "agent/src/server/resource_metrics",
    "agent/src/server/route",
    "agent/src/server/summary",
    "agent/src/server/text",
    "agent/src/server/stream/handshake",
    "agent/src/server/stream/spdy/frame",
    "agent/src/server/stream/spdy/header",
    "agent/src/server/stream/status",
    "agent/src/credential/config",
    "agent/src/status/diff",
    "agent/src/evict/judge",
    "agent/src/evict/choose",
    "agent/src/evict/local",
    "agent/src/shutdown/plan",
    "agent/src/memory/key",
    "agent/src/mirror/plan",
    "agent/src/source/merge",
    "agent/src/source/static_pods/manifest",
    "agent/src/source/static_pods/combine",
    "agent/src/node/report",
    "agent/src/node/news",
    "agent/src/probe/schedule",
    "agent/src/usage/machine",
    "agent/src/usage/series",
    "agent/src/volume/claim",
    "agent/src/volume/layout",
    "runtime/src/cgroup/actual",
    "runtime/src/cgroup/details",
    "runtime/src/cgroup/limits",
    "runtime/src/ids",
    "runtime/src/cgroup/pressure",
    "runtime/src/spec/",
    "runtime/src/seccomp/",
    "runtime/src/image/access",
    "runtime/src/image/gc",
    "runtime/src/image/glob",
    "runtime/src/image/keyring",
    "runtime/src/image/reference",
    "runtime/src/image/registry/challenge",
    "runtime/src/image/registry/hosts",
    "runtime/src/image/registry/retry",
    "runtime/src/image/manifest",
    "runtime/src/log/line",
    "runtime/src/log/rotation",
    "runtime/shim/src/protocol",
    "runtime/shim/src/state",
    "cni/src/plan",
    "cni/src/spec",
    "cni/src/ipam/allocator",
    "cni/src/route/diff",
    "cni/src/bandwidth",
    "cni/src/route/plan",
    "cni/src/netlink/nft/guard",
    "cni/src/runtime/chain",
    "cni/src/runtime/conf",
    "dataplane/src/model",
    "dataplane/src/ingest",
    "dataplane/src/index",
    "dataplane/src/ids",
    "dataplane/src/maglev",
    "dataplane/src/kube_proxy/iptables",
    "dataplane/src/kube_proxy/ipvs",
    "dataplane/src/kube_proxy/nftables",
    "dataplane/src/kube_proxy/place",
    "dataplane/src/kube_proxy/reserve",
    "dataplane/src/sweep/plan",
    "dataplane/src/select",
    "dataplane/src/maps/codec",
    "dataplane/src/tables",
    "dataplane/src/compile",
    "dataplane/src/diff",
    "dataplane/src/policy/",
    "apiserver/src/admission/families",
    "apiserver/src/kinds/",
    "apiserver/src/patch/",
    "apiserver/src/schema/",
    "apiserver/src/codec/",
    "apiserver/src/table/",
    "apiserver/src/discovery/",
    "controllers/src/object",
    "controllers/src/scheduler/affinity",
    "controllers/src/scheduler/filter",
    "controllers/src/scheduler/ledger",
    "controllers/src/scheduler/request",
    "controllers/src/scheduler/score",
    "controllers/src/scheduler/volumes",
    "controllers/src/volume/bind",
    "controllers/src/volume/matching",
    "controllers/src/volume/words",
    "controllers/src/replicaset/plan",
    "controllers/src/replicaset/rank",
    "controllers/src/replicaset/status",
    "controllers/src/deployment/plan",
    "controllers/src/deployment/revision",
    "controllers/src/deployment/rollout",
    "controllers/src/deployment/status",
    "controllers/src/deployment/template",
    "controllers/src/endpointslice/plan",
    "controllers/src/endpoints/plan",
    "controllers/src/slices/plan",
    "controllers/src/mirroring/plan",
    "controllers/src/mirroring/subsets",
    "controllers/src/namespace/finalize/left",
    "controllers/src/node/lifecycle/plan",
    "controllers/src/gc/graph",
    "controllers/src/gc/plan",
];

/// What gives impurity away, as it is written in code.
const IMPURE: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "std::fs",
    "fs::read",
    "fs::write",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "env::var",
    "tokio::",
    "async fn",
    ".await",
    "rand::",
    "getrandom",
    "std::thread",
    "std::process::Command",
    "rustix::",
];

/// Checks all rules and lists every breach.
pub(crate) fn run() -> Result<()> {
    let metadata =
        MetadataCommand::new().current_dir(root()).other_options(vec!["--locked".to_owned()]).exec();
    let metadata = metadata.context("cargo metadata")?;
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages() {
        breaches.extend(dependency_breaches(package));
    }
    let files = rust_files()?;
    let named = DOORS.iter().flat_map(|door| door.files).chain(UNSAFE).chain(PURE);
    let there = |prefix: &str| files.iter().any(|file| file.to_string_lossy().starts_with(prefix));
    // A rule about a file that moved would hold for ever.
    breaches.extend(
        named
            .filter(|prefix| !there(prefix))
            .map(|prefix| format!("tidy names {prefix}, which is not there")),
    );
    for file in files {
        let path = root().join(&file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        breaches.extend(file_breaches(&file.to_string_lossy(), &text));
    }
    breaches.sort();
    if !breaches.is_empty() {
        bail!("tidy: {} breaches\n  {}", breaches.len(), breaches.join("\n  "));
    }
    println!("tidy: {} rules hold", MAY_DEPEND.len() + DOORS.len() + UNSAFE.len() + PURE.len());
    Ok(())
}

fn dependency_breaches(package: &Package) -> Vec<String> {
    let name = package.name.to_string();
    let Some((_, allowed)) = MAY_DEPEND.iter().find(|(crate_name, _)| *crate_name == name) else {
        return vec![format!("{name}: not in tidy's table of crates")];
    };
    let normal =
        package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    normal
        .filter_map(|dependency| {
            let on = dependency.name.replace('-', "_");
            if dependency.path.is_some() {
                return (!allowed.contains(&dependency.name.as_str()))
                    .then(|| format!("{name} must not depend on {}", dependency.name));
            }
            let door = DOORS.iter().find(|door| door.library == on)?;
            (!door.crates.contains(&name.as_str()))
                .then(|| format!("{name} must not depend on {}", dependency.name))
        })
        .collect()
}

fn file_breaches(file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let is_test = file.contains("/tests/") || file.ends_with("tests.rs");
    let opened = ["//!", "#![", "// This file is @generated"].iter().any(|start| text.starts_with(start));
    if !is_test && !opened {
        breaches.push(format!("{file}: does not open with what it is for (//!)"));
    }
    let code = without_tests_and_comments(text);
    let under = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
    for door in DOORS {
        let named = [
            format!("use {}::", door.library),
            format!(" {}::", door.library),
            format!("({}::", door.library),
        ];
        if !is_test && !under(door.files) && named.iter().any(|form| code.contains(form)) {
            breaches.push(format!(
                "{file}: {} is used outside its door ({})",
                door.library,
                door.files.join(", ")
            ));
        }
    }
    if !is_test && !under(UNSAFE) && mentions_unsafe(&code) {
        breaches.push(format!("{file}: unsafe is not allowed here"));
    }
    if !is_test && under(PURE) {
        let found: BTreeSet<_> = IMPURE.iter().filter(|word| code.contains(*word)).collect();
        breaches.extend(found.iter().map(|word| format!("{file}: a pure module must not use `{word}`")));
    }
    breaches
}

fn mentions_unsafe(code: &str) -> bool {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    words.iter().any(|word| code.contains(word))
}

/// Drops comment lines and everything from the first `#[cfg(test)]` on (tests come last in a file).
fn without_tests_and_comments(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn rust_files() -> Result<Vec<PathBuf>> {
    let listed =
        crate::run::output(&mut crate::run::cmd("git", ["ls-files", "-co", "--exclude-standard", "*.rs"]))?;
    Ok(listed
        .lines()
        .map(|line| Path::new(line).to_owned())
        .filter(|path| root().join(path).exists())
        .collect())
}

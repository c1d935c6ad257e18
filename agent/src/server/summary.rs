//! `[p]` `/stats/summary`: what the node and its pods use, in upstream's stats/v1alpha1. Not for: reading it (`gather`).

use jiff::Timestamp;
use orlop_runtime::{
    Usage,
    cgroup::{Pressure, Stall, Stats},
};
use serde_json::{Map, Value, json};

use crate::usage::{
    PodUse,
    machine::{Machine, Process},
    series::{FileSystem, Interface, Measured},
};

/// A file system, and what of it somebody uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    pub(super) system: FileSystem,
    pub(super) used: Usage,
}

/// The node as it was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) at: Timestamp,
    pub(super) machine: Machine,
    /// Billionths of a processor.
    pub(super) rate: Option<u64>,
    pub(super) interfaces: Vec<Interface>,
    /// The disk that has the node's state. Its use is that of everybody.
    pub(super) disk: FileSystem,
    pub(super) images: Disk,
    pub(super) writables: Disk,
    /// Most tasks there can be.
    pub(super) max_tasks: u64,
    /// This process.
    pub(super) own: Option<(Process, Option<u64>)>,
    /// All pods together, where they are limited together.
    pub(super) pods: Option<(Stats, Option<u64>)>,
}

/// A pod as it was seen.
pub(super) struct Pod<'a> {
    pub(super) used: &'a PodUse,
    pub(super) started: Timestamp,
    /// Billionths of a processor.
    pub(super) rate: Option<u64>,
    /// By container, in the order of those that run.
    pub(super) containers: Vec<(Option<u64>, Usage)>,
    /// Where logs are.
    pub(super) logs: FileSystem,
    pub(super) volumes: Vec<Volume>,
}

/// A volume of a pod.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) name: String,
    /// Name of the claim.
    pub(super) claim: Option<String>,
    pub(super) disk: Disk,
    /// Its content is on the node's disk and goes with the pod.
    pub(super) local: bool,
}

/// The whole summary; `short` leaves out all but processors and memory.
pub(super) fn summary(node: &Node, pods: &[Pod<'_>], short: bool) -> Value {
    json!({ "node": of_node(node, short), "pods": pods.iter().map(|seen| pod(seen, short)).collect::<Vec<_>>() })
}

fn of_node(node: &Node, short: bool) -> Value {
    let Node { at, machine, .. } = node;
    let limit = Some(machine.memory);
    let mut memory = memory(*at, &machine.stats, Some(machine.faults), limit);
    pressure(&mut memory, machine.stats.pressure.memory);
    let mut all = json!({
        "nodeName": node.name,
        "startTime": time(Timestamp::from_second(signed(machine.booted)).unwrap_or_default()),
        "cpu": cpu(*at, &machine.stats, node.rate),
        "memory": memory,
        "swap": { "time": time(*at), "swapAvailableBytes": machine.swap[1],
            "swapUsageBytes": machine.swap[0].saturating_sub(machine.swap[1]) },
        "systemContainers": system_containers(node),
    });
    io(&mut all, *at, &machine.stats);
    if short {
        return all;
    }
    if let Some(network) = network(*at, &node.interfaces) {
        all["network"] = network;
    }
    all["fs"] = disk(*at, &Disk { system: node.disk, used: node.disk.used() });
    all["runtime"] = json!({ "imageFs": disk(*at, &node.images), "containerFs": disk(*at, &node.writables) });
    all["rlimit"] = json!({ "time": time(*at), "maxpid": node.max_tasks, "curproc": machine.tasks });
    all
}

/// This program is kubelet and runtime in one.
fn system_containers(node: &Node) -> Vec<Value> {
    let at = node.at;
    let own = node.own.as_ref().map(|(own, rate)| {
        let stats = Stats { cpu_ns: own.cpu_ns, memory_rss: own.resident, ..Stats::default() };
        let booted = i128::from(node.machine.booted) * 1_000_000_000;
        let started = Timestamp::from_nanosecond(booted + i128::from(own.started_ticks) * 10_000_000);
        json!({ "name": "kubelet", "startTime": time(started.unwrap_or_default()), "cpu": cpu(at, &stats, *rate),
            "memory": { "time": time(at), "rssBytes": own.resident } })
    });
    let pods = node.pods.as_ref().map(|(stats, rate)| {
        json!({ "name": "pods", "startTime": time(Timestamp::from_second(signed(node.machine.booted)).unwrap_or_default()),
            "cpu": cpu(at, stats, *rate), "memory": memory(at, stats, None, None) })
    });
    own.into_iter().chain(pods).collect()
}

fn pod(seen: &Pod<'_>, short: bool) -> Value {
    let pod = &seen.used.sandbox.pod;
    let mut ephemeral = Usage::default();
    let mut containers = Vec::new();
    for ((container, measured), (rate, logs)) in seen.used.running().zip(&seen.containers) {
        let mut one = json!({ "name": container.name, "startTime": time(measured.started) });
        counted(&mut one, measured, *rate);
        if !short {
            let at = measured.at;
            if let Some(files) = &measured.files {
                ephemeral = ephemeral + files.written;
                one["rootfs"] = disk(at, &Disk { system: files.system, used: files.written });
            }
            ephemeral = ephemeral + *logs;
            one["logs"] = disk(at, &Disk { system: seen.logs, used: *logs });
        }
        containers.push(one);
    }
    let mut all = json!({
        "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
        "startTime": time(seen.started),
        "containers": containers,
    });
    let Some(measured) = &seen.used.pod else { return all };
    counted(&mut all, measured, seen.rate);
    if short {
        return all;
    }
    let at = measured.at;
    if let Some(network) = network(at, &measured.interfaces) {
        all["network"] = network;
    }
    let local = seen.volumes.iter().filter(|volume| volume.local).map(|volume| volume.disk.used);
    let ephemeral = ephemeral + local.sum();
    let volume = |volume: &Volume| {
        let mut one = disk(at, &volume.disk);
        one["name"] = volume.name.clone().into();
        if let Some(claim) = &volume.claim {
            one["pvcRef"] = json!({ "name": claim, "namespace": pod.namespace });
        }
        one
    };
    all["volume"] = seen.volumes.iter().map(volume).collect();
    all["ephemeral-storage"] = disk(at, &Disk { system: seen.logs, used: ephemeral });
    all["process_stats"] = json!({ "process_count": measured.counted.processes.count });
    all
}

/// What a pod and a container have alike.
fn counted(all: &mut Value, seen: &Measured, rate: Option<u64>) {
    let Measured { at, stats, counted, limits, .. } = seen;
    let limit = limits.memory_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
    let details = &counted.details;
    let mut memory = memory(*at, stats, Some([details.page_faults[1], details.major_faults[1]]), limit);
    pressure(&mut memory, stats.pressure.memory);
    all["cpu"] = cpu(*at, stats, rate);
    all["memory"] = memory;
    all["swap"] = json!({ "time": time(*at), "swapUsageBytes": details.swap });
    io(all, *at, stats);
}

fn cpu(at: Timestamp, stats: &Stats, rate: Option<u64>) -> Value {
    let mut cpu = json!({ "time": time(at), "usageCoreNanoSeconds": stats.cpu_ns });
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    pressure(&mut cpu, stats.pressure.cpu);
    cpu
}

/// What is free is known where there is a limit.
fn memory(at: Timestamp, stats: &Stats, faults: Option<[u64; 2]>, limit: Option<u64>) -> Value {
    let mut memory = json!({
        "time": time(at),
        "usageBytes": stats.memory_usage,
        "workingSetBytes": stats.memory_working_set,
        "rssBytes": stats.memory_rss,
    });
    if let Some([all, major]) = faults {
        memory["pageFaults"] = all.into();
        memory["majorPageFaults"] = major.into();
    }
    if let Some(limit) = limit {
        memory["availableBytes"] = limit.saturating_sub(stats.memory_working_set).into();
    }
    memory
}

fn io(all: &mut Value, at: Timestamp, stats: &Stats) {
    if stats.pressure.io.is_some() {
        all["io"] = json!({ "time": time(at) });
        pressure(&mut all["io"], stats.pressure.io);
    }
}

fn pressure(all: &mut Value, seen: Option<Pressure>) {
    let stall = |stall: Stall| json!({ "total": stall.total_us.saturating_mul(1000), "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300 });
    if let Some(seen) = seen {
        all["psi"] = json!({ "full": stall(seen.full), "some": stall(seen.some) });
    }
}

fn disk(at: Timestamp, disk: &Disk) -> Value {
    let Disk { system, used } = disk;
    json!({
        "time": time(at),
        "availableBytes": system.available,
        "capacityBytes": system.size,
        "usedBytes": used.bytes,
        "inodesFree": system.free_inodes,
        "inodes": system.inodes,
        "inodesUsed": used.inodes,
    })
}

/// The default interface is `eth0`, or else the first.
fn network(at: Timestamp, interfaces: &[Interface]) -> Option<Value> {
    let one = |interface: &Interface| {
        let Interface { name, bytes, errors, .. } = interface;
        json!({ "name": name, "rxBytes": bytes[0], "rxErrors": errors[0], "txBytes": bytes[1], "txErrors": errors[1] })
    };
    let default = interfaces.iter().find(|interface| interface.name == "eth0").or(interfaces.first())?;
    let mut network = Map::new();
    network.insert("time".into(), time(at));
    if let Value::Object(fields) = one(default) {
        network.extend(fields);
    }
    network.insert("interfaces".into(), interfaces.iter().map(one).collect());
    Some(Value::Object(network))
}

/// As the API writes times.
fn time(at: Timestamp) -> Value {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string().into()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use orlop_runtime::{
        Container, ContainerState, Counted, Counters, PodRef, Processes, Resources, Sandbox,
        cgroup::{Details, Pressures},
    };

    use super::*;
    use crate::usage::series::Files;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn measured(cpu_ns: u64, memory_limit: Option<i64>) -> Measured {
        let counters = Counters {
            at: at(100),
            stats: Stats {
                cpu_ns,
                memory_usage: 900,
                memory_working_set: 700,
                memory_rss: 500,
                pressure: Pressures::default(),
            },
            counted: Counted {
                cgroup: "c".into(),
                details: Details {
                    swap: 11,
                    page_faults: [1, 2],
                    major_faults: [0, 1],
                    ..Details::default()
                },
                processes: Processes { count: 3, ..Processes::default() },
            },
            limits: Resources { memory_limit, ..Resources::default() },
        };
        Measured::new(counters, at(10))
    }

    fn used() -> PodUse {
        let container = Container {
            id: "c1".into(),
            name: "c".into(),
            attempt: 0,
            image_ref: "i".into(),
            image_id: "sha256:1".into(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: ContainerState::Running { pid: 7, started_at: at(10) },
            labels: Default::default(),
        };
        let system = FileSystem { size: 1000, available: 400, inodes: 100, free_inodes: 60 };
        let files = Files { device: "/dev/sda".into(), written: Usage { bytes: 30, inodes: 4 }, system };
        let eth0 = Interface {
            name: "eth0".into(),
            bytes: [1, 2],
            packets: [3, 4],
            errors: [5, 6],
            dropped: [0, 0],
        };
        PodUse {
            sandbox: Sandbox {
                pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
                netns: None,
                created_at: at(9),
                shim_alive: true,
                containers: vec![container],
                labels: Default::default(),
            },
            pod: Some(Measured { interfaces: vec![eth0], ..measured(2_000, None) }),
            containers: vec![(0, Measured { files: Some(files), ..measured(1_000, Some(1024)) })],
        }
    }

    fn seen(used: &PodUse) -> Pod<'_> {
        let disk = |bytes| Disk { system: FileSystem::default(), used: Usage { bytes, inodes: 1 } };
        let volume = |name: &str, claim: Option<&str>, bytes, local| Volume {
            name: name.into(),
            claim: claim.map(Into::into),
            disk: disk(bytes),
            local,
        };
        Pod {
            used,
            started: at(8),
            rate: Some(70),
            containers: vec![(Some(50), Usage { bytes: 5, inodes: 2 })],
            logs: FileSystem::default(),
            volumes: vec![volume("v", None, 100, true), volume("data", Some("claim"), 7000, false)],
        }
    }

    #[test]
    fn a_pod_in_upstreams_words() {
        let used = used();
        let shown = pod(&seen(&used), false);
        assert_eq!(shown["podRef"], json!({ "name": "p", "namespace": "n", "uid": "u" }));
        assert_eq!(shown["startTime"], "1970-01-01T00:00:08Z");
        assert_eq!(
            shown["cpu"],
            json!({ "time": "1970-01-01T00:01:40Z", "usageCoreNanoSeconds": 2000, "usageNanoCores": 70 })
        );
        assert_eq!(shown["memory"].get("availableBytes"), None);
        assert_eq!(shown["network"]["txErrors"], 6);
        assert_eq!(shown["network"]["interfaces"][0]["rxBytes"], 1);
        // Written, logged, and the volume that is here: not the claim's.
        assert_eq!(shown["ephemeral-storage"]["usedBytes"], 135);
        assert_eq!(shown["ephemeral-storage"]["inodesUsed"], 7);
        assert_eq!(shown["volume"][1]["pvcRef"], json!({ "name": "claim", "namespace": "n" }));
        assert_eq!(shown["volume"][0].get("pvcRef"), None);
        assert_eq!(shown["process_stats"]["process_count"], 3);
        let container = &shown["containers"][0];
        assert_eq!(container["memory"]["availableBytes"], 324);
        assert_eq!(container["memory"]["majorPageFaults"], 1);
        assert_eq!(container["rootfs"]["usedBytes"], 30);
        assert_eq!(container["rootfs"]["inodesFree"], 60);
        assert_eq!(container["logs"]["usedBytes"], 5);
        assert_eq!(container["swap"]["swapUsageBytes"], 11);
    }

    #[test]
    fn only_cpu_and_memory_is_that() {
        let used = used();
        let node = Node { name: "node".into(), at: at(100), ..Node::default() };
        let shown = summary(&node, &[seen(&used)], true);
        let keys = |value: &Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(keys(&shown["node"]), "cpu memory nodeName startTime swap systemContainers");
        assert_eq!(keys(&shown["pods"][0]), "containers cpu memory podRef startTime swap");
        assert_eq!(keys(&shown["pods"][0]["containers"][0]), "cpu memory name startTime swap");
        let whole = summary(&node, &[], false);
        assert_eq!(
            keys(&whole["node"]),
            "cpu fs memory nodeName rlimit runtime startTime swap systemContainers"
        );
    }
}

//! From a watch event to what the programs read, with many services; and all of a large cluster at once.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use orlop_dataplane::Update;
use orlop_dataplane::loader::{MAPS, pins};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::tables::{Host, Vip};
use orlop_model::event::Event;
use serde_json::{Value, json};

use crate::agent::Dataplane;
use crate::services::{Service, cluster, filler, lists};

/// With how many services a change is measured.
pub(crate) const CHANGED: [u32; 2] = [10_000, 30_000];
const CHANGES: u32 = 500;
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(2);
/// Changes that come at once.
const BURST: u32 = 200;
/// Far from each other, in the order of the services.
const STRIDE: u32 = 7_919;
/// The large cluster.
const SERVICES: u32 = 5_000;
const ENDPOINTS: u32 = 50;

/// Endpoints that are replaced, one service after the other.
pub(crate) fn changes(bpffs: &Path, cgroup: &Path, count: u32) {
    let result = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut dataplane = Dataplane::start(bpffs, cgroup).await;
        let mut services = cluster(count, 1);
        let endpoints = services.iter().map(|service| service.endpoints.len()).sum();
        let listed = dataplane.list(lists(&services), endpoints).await;
        let mut next = count;
        let mut changed = |n: u32, services: &mut [Service]| {
            let at = usize::try_from((n * STRIDE) % count).unwrap();
            next += 1;
            services[at].endpoints = vec![filler(next)];
            services[at].clone()
        };
        let event = |service: &Service| Update::EndpointSlice(Event::Apply(service.slice()));
        let mut took = Vec::new();
        for n in 0..CHANGES {
            let service = changed(n, &mut services);
            let update = event(&service);
            let begun = Instant::now();
            let seen = wait(bpffs, &service);
            dataplane.updates.send(update).await.unwrap();
            took.push((seen.await.unwrap() - begun).as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        let burst: Vec<_> = (0..BURST).map(|n| changed(CHANGES + n, &mut services)).collect();
        let updates: Vec<_> = burst.iter().map(event).collect();
        let begun = Instant::now();
        let seen = wait(bpffs, burst.last().unwrap());
        for update in updates {
            dataplane.updates.send(update).await.unwrap();
        }
        let burst = seen.await.unwrap() - begun;
        dataplane.end().await;
        json!({
            "services": count, "ms": took, "burst": BURST, "burst_ms": burst.as_secs_f64() * 1e3,
            "list_ms": listed.as_secs_f64() * 1e3,
        })
    });
    println!("{result}");
}

/// When the maps lead to this service's endpoint, read by another thread and from the kernel.
fn wait(bpffs: &Path, service: &Service) -> tokio::task::JoinHandle<Instant> {
    let maps = KernelMaps::open(&pins(bpffs)).unwrap();
    let vip = Vip {
        host: Host::Ip((*service.at.ip()).into()),
        port: service.at.port(),
        protocol: service.protocol,
    };
    let wanted = SocketAddr::from(service.endpoints[0]);
    tokio::task::spawn_blocking(move || {
        while !maps.look_up(vip).unwrap().contains(&wanted) {
            std::thread::yield_now();
        }
        Instant::now()
    })
}

/// A large cluster, from its lists to a node in step with it; and the memory that takes.
pub(crate) fn cold(bpffs: &Path, cgroup: &Path) {
    let result = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut dataplane = Dataplane::start(bpffs, cgroup).await;
        // Programs are loaded, and the maps are there.
        while KernelMaps::open(&pins(bpffs)).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = memory();
        let services = cluster(SERVICES, ENDPOINTS);
        let endpoints = services.iter().map(|service| service.endpoints.len()).sum();
        let lists = lists(&services);
        drop(services);
        let took = dataplane.list(lists, endpoints).await;
        let after = memory();
        dataplane.end().await;
        json!({
            "services": SERVICES, "endpoints": endpoints, "ms": took.as_secs_f64() * 1e3,
            "before": before, "after": after, "maps_mb": map_megabytes(bpffs),
        })
    });
    println!("{result}");
}

/// What this process holds, and held at most, in megabytes.
fn memory() -> Value {
    let (rollup, status) = ("/proc/self/smaps_rollup", "/proc/self/status");
    json!({ "rss": megabytes(rollup, "Rss:"), "pss": megabytes(rollup, "Pss:"), "peak": megabytes(status, "VmHWM:") })
}

fn megabytes(file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let kib: f64 = line.trim().strip_suffix(" kB").and_then(|kib| kib.trim().parse().ok()).unwrap();
    kib * 1024.0 / 1e6
}

/// What the kernel says its maps of services take.
fn map_megabytes(bpffs: &Path) -> f64 {
    let taken = |map: &&str| {
        let output =
            Command::new("bpftool").args(["-j", "map", "show", "pinned"]).arg(pins(bpffs).join(map)).output();
        let shown: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        shown["bytes_memlock"].as_f64().expect("bpftool says how large a map is")
    };
    MAPS.iter().map(taken).sum::<f64>() / 1e6
}

//! Questions per second and their latency: our name server against dnsmasq with as many names, in turns, on one
//! machine. Prints one line of JSON. Not for: the network between client and server; both are on the loopback.
//!
//! `dns_bench serve N` is our server with N Services; `dns_bench` measures.

#![allow(clippy::print_stdout, reason = "its answer")]

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use orlop::dns::{Dns, Setup, Upstreams, clients::Clients, zone};
use orlop_model::event::Event;
use prometheus::Registry;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SIZES: [u32; 2] = [1_000, 10_000];
/// Turns of each server; the figures are those of the median turn.
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(800);
/// Clients with so many questions under way each, for throughput.
const CLIENTS: usize = 4;
const WINDOW: usize = 16;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [serve, count] if serve == "serve" => self::serve(count.parse()?),
        [] => {
            let sizes = SIZES.iter().map(|count| measure(*count)).collect::<Result<Vec<_>>>()?;
            println!("{}", json!({ "sizes": sizes }));
            Ok(())
        }
        _ => Err("dns_bench [serve N]".into()),
    }
}

fn name(n: u32) -> String {
    format!("web-{n}.team-{}.svc.cluster.local", n % 10)
}

fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 1, 0)) + n)
}

/// Ours, until it is killed.
#[tokio::main]
async fn serve(count: u32) -> Result<()> {
    let setup = Setup {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        metrics: Vec::new(),
        zone: zone::Settings { domain: zone::domain("cluster.local")?, ttl: 30, servers: Vec::new() },
        serial: 1,
        upstreams: Upstreams::Given(Vec::new()),
        clients: Clients::default(),
    };
    let bound = Dns::bind(setup, &Registry::new()).await?;
    let services = (0..count).map(|n| {
        let address = address(n).to_string();
        let service = json!({
            "metadata": {"namespace": format!("team-{}", n % 10), "name": format!("web-{n}")},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"name": "http", "port": 80}]},
        });
        serde_json::from_value::<Service>(service).map(Arc::new)
    });
    bound.dns().services(&Event::Reset(services.collect::<serde_json::Result<_>>()?));
    bound.dns().endpoint_slices(&Event::Reset(Vec::new()));
    for address in bound.addresses()? {
        println!("{}", address.port());
    }
    bound.serve().await;
    Ok(())
}

/// A server that ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn ours(count: u32) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg("serve").arg(count.to_string()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().ok_or("no standard output")?).read_line(&mut port)?;
    let address = (Ipv4Addr::LOCALHOST, port.trim().parse::<u16>()?).into();
    Ok(Server { child, address })
}

fn dnsmasq(count: u32, hosts: &Path) -> Result<Server> {
    let lines: String = (0..count).map(|n| format!("{} {}\n", address(n), name(n))).collect();
    std::fs::write(hosts, lines)?;
    // Whatever port is free now.
    let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let child = Command::new("dnsmasq")
        .args(["--keep-in-foreground", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv"])
        .args(["--no-hosts", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--local-ttl=30"])
        .args(["--local=/cluster.local/"])
        .arg(format!("--port={}", address.port()))
        .arg(format!("--addn-hosts={}", hosts.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("dnsmasq (package dnsmasq-base): {error}"))?;
    Ok(Server { child, address })
}

fn measure(count: u32) -> Result<Value> {
    let hosts = std::env::temp_dir().join(format!("orlop-dns-bench-{}", std::process::id()));
    let servers = [("orlop", ours(count)?), ("dnsmasq", dnsmasq(count, &hosts)?)];
    for (who, server) in &servers {
        wait_for(server.address).map_err(|error| format!("{who}: {error}"))?;
    }
    let mut turns: [Vec<[f64; 3]>; 2] = Default::default();
    for _ in 0..TURNS {
        for ((_, server), turns) in servers.iter().zip(&mut turns) {
            let (per_second, _) = load(server.address, count, CLIENTS, WINDOW)?;
            let (_, mut one) = load(server.address, count, 1, 1)?;
            one.sort_unstable();
            let at =
                |part: usize| one.get(one.len() * part / 100).map_or(0.0, |took| took.as_secs_f64() * 1e6);
            turns.push([per_second, at(50), at(99)]);
        }
    }
    std::fs::remove_file(&hosts)?;
    let [ours, theirs] = turns.map(|turns| {
        let median = |figure: usize| {
            let mut all: Vec<f64> = turns.iter().map(|turn| turn[figure]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        json!({ "per_second": median(0), "p50_us": median(1), "p99_us": median(2) })
    });
    Ok(json!({ "services": count, "orlop": ours, "dnsmasq": theirs }))
}

fn wait_for(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    for _ in 0..100 {
        let answered = socket.send(&question(1, 0)).and_then(|_| socket.recv(&mut [0; 512]));
        if answered.is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err("it does not answer".into())
}

/// Questions for one turn: how many were answered per second, and how long each took.
fn load(server: SocketAddr, count: u32, clients: usize, window: usize) -> Result<(f64, Vec<Duration>)> {
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|client| thread::spawn(move || ask(server, count, u32::try_from(client)?, window)))
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.join().map_err(|_| "a client panicked")??);
    }
    Ok((f64::from(u32::try_from(all.len())?) / start.elapsed().as_secs_f64(), all))
}

fn ask(server: SocketAddr, count: u32, client: u32, window: usize) -> Result<Vec<Duration>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut sent = vec![Instant::now(); window];
    let (mut took, mut buffer, mut n) = (Vec::new(), [0; 512], client * 7919);
    let start = Instant::now();
    let mut next = |slot: usize| -> Result<Instant> {
        n = n.wrapping_add(104_729) % count;
        socket.send(&question(u16::try_from(slot)?, n))?;
        Ok(Instant::now())
    };
    for (slot, at) in sent.iter_mut().enumerate() {
        *at = next(slot)?;
    }
    let mut under_way = window;
    while under_way > 0 {
        let len = socket.recv(&mut buffer)?;
        let [high, low, _, code, _, _, _, answers, ..] = buffer;
        if len < 12 || code & 0x0f != 0 || answers != 1 {
            return Err(format!("not an answer: code {} with {answers} records", code & 0x0f).into());
        }
        let slot = usize::from(u16::from_be_bytes([high, low]));
        let at = sent.get_mut(slot).ok_or("an answer to nobody")?;
        took.push(at.elapsed());
        if start.elapsed() < TURN {
            *at = next(slot)?;
        } else {
            under_way -= 1;
        }
    }
    Ok(took)
}

/// A question for the address of a Service.
fn question(id: u16, n: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    for label in name(n).split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

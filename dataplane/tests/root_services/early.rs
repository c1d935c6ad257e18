//! Before the stack: connections that pass through the node on one device.
//!
//! ```text
//! client 192.0.2.7 ──┐
//!                    ├─ street ─ up0 192.0.2.10 (the room)
//! other 192.0.2.11 ──┤           pod 10.42.2.10 is other's, and for a while third's
//! third 192.0.2.12 ──┘
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use orlop_dataplane::Update;
use orlop_dataplane::loader::{self, Device, Devices, Loaded, Side};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::model::{Node, Protocol, Settings};
use orlop_dataplane::reconcile::State;

use crate::frame::{first, later};
use crate::frame_read;
use crate::room::{Room, isolated, sh};
use crate::script::{bpftool, set};
use crate::town::{ask, at, dial, first_line, tcp_server, udp_client, udp_server};

const SERVICES: &str = "
- service: {name: web, type: NodePort, cluster_ips: [10.96.0.10, '2001:db8:43::10'], ports: [{name: http, port: 80, node_port: 30080}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {http: 8080}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {http: 8080}}
- service: {name: dns, type: NodePort, cluster_ips: [10.96.0.53, '2001:db8:43::53'], ports: [{name: dns, protocol: UDP, port: 53, node_port: 30053}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {dns: 5353}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {dns: 5353}}
";

/// Of XDP.
const PASS: i32 = 2;
const SENT_BACK: i32 = 3;
/// Of the programs at devices.
const REDIRECT: i32 = 7;
const NEXT: i32 = -1;

const NODE: [&str; 2] = ["192.0.2.10", "[2001:db8:1::10]"];

/// What stands at the street's end of the node's device, and its cgroup.
struct Street(PathBuf, #[expect(dead_code, reason = "it is kept, no more")] Loaded);

impl Drop for Street {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[must_use]
fn build(room: &Room) -> Street {
    sh("mkdir -p /run/netns && mount -t tmpfs orlop-test /run/netns
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
        ip netns add street
        ip -n street link add br0 type bridge forward_delay 0 && ip -n street link set br0 up
        ip link add up0 type veth peer name to-node netns street
        ip -n street link set to-node master br0 up && ip link set up0 up
        ip address add 192.0.2.10/24 dev up0 && ip address add 2001:db8:1::10/64 dev up0 nodad
        machine() { # name, last number
            ip netns add $1 && ip -n $1 link set lo up
            ip link add eth0 netns $1 type veth peer name to-$1 netns street
            ip -n street link set to-$1 master br0 up && ip -n $1 link set eth0 up
            ip -n $1 address add 192.0.2.$2/24 dev eth0 && ip -n $1 address add 2001:db8:1::$2/64 dev eth0 nodad
            # XDP sees what is on the wire: checksums have to be there.
            nsenter --net=/run/netns/$1 ethtool -K eth0 tx off >/dev/null
        }
        machine client 7 && machine other 11 && machine third 12
        for n in other third; do
            ip -n $n address add 10.42.2.10/32 dev lo && ip -n $n address add 2001:db8:42:2::10/128 dev lo
        done
        ip route add 10.42.2.0/24 via 192.0.2.11 && ip route add 2001:db8:42:2::/64 via 2001:db8:1::11");
    for place in ["other", "third"] {
        for ip in ["10.42.2.10", "[2001:db8:42:2::10]"] {
            tcp_server(place, &format!("{ip}:8080"));
            udp_server(place, &format!("{ip}:5353"));
        }
    }
    // A veth wakes for what XDP sends back only where XDP is at the other end, too.
    let (bpffs, cgroup) = (room.bpffs.with_file_name("street"), room.cgroup.join("street"));
    fs::create_dir(&cgroup).unwrap();
    at("street", move || {
        let mut loaded = loader::load_all(&bpffs, &cgroup).unwrap();
        loaded.devices.set(&[device("to-node", true)]);
        Street(cgroup, loaded)
    })
}

fn device(name: &str, early: bool) -> Device {
    let shown: serde_json::Value = serde_json::from_str(&sh(&format!("ip -j link show {name}"))).unwrap();
    let index = shown[0]["ifindex"].as_u64().unwrap().try_into().unwrap();
    Device { index, name: name.to_owned(), pod: false, stack: false, early, port_of: None }
}

fn start(room: &Room, early: bool) -> (State<KernelMaps>, Devices) {
    let loader::Loaded { maps, mut devices } = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
    devices.set(&[device("up0", early)]);
    assert_eq!(devices.refused(), [""; 0]);
    let pods = ["10.42.0.0/16", "2001:db8:42::/56"].map(|net| net.parse().unwrap()).to_vec();
    let own = ["192.0.2.10", "2001:db8:1::10"].map(|ip| ip.parse().unwrap());
    let settings = Settings { pods, ..Settings::default() };
    let node = Node { name: "node-a".to_owned(), primary: own.to_vec(), settings, ..Node::default() };
    let mut state = State::new(maps, node);
    state.ingest(Update::Addresses(own.into()));
    set(&mut state, SERVICES);
    (state, devices)
}

fn has_xdp() -> bool {
    sh("ip -j -d link show up0").contains("\"xdp\"")
}

/// From here on only what stands before the stack translates anything.
fn leave_only_xdp(room: &Room) {
    let pins = loader::pins(&room.bpffs);
    let index = device("up0", true).index;
    for prefix in ["link_in_", "link_out_"] {
        let pin = pins.join(format!("{prefix}{index}"));
        sh(&format!("bpftool link detach pinned {}", pin.display()));
    }
}

fn connected(to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    at("client", move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        assert!(first_line(&mut stream).unwrap().starts_with("other "));
        stream
    })
}

fn echo(stream: &mut TcpStream, text: &str) {
    stream.write_all(format!("{text}\n").as_bytes()).unwrap();
    assert_eq!(first_line(stream).unwrap(), text);
}

#[test]
#[ignore = "root tier"]
fn known_connections_go_on_without_the_programs_at_the_device() {
    isolated("early::known_connections_go_on_without_the_programs_at_the_device", |room| {
        let _street = build(&room);
        let (state, _devices) = start(&room, true);
        assert!(has_xdp());
        let mut streams = NODE.map(|node| connected(&format!("{node}:30080")));
        let datagrams = NODE.map(|node| udp_client("client", &format!("{node}:30053")));
        for (stream, socket) in streams.iter_mut().zip(&datagrams) {
            echo(stream, "first");
            assert!(ask(socket, 1).unwrap().starts_with("other "));
        }
        leave_only_xdp(&room);
        for (stream, socket) in streams.iter_mut().zip(&datagrams) {
            echo(stream, "still here");
            // Many packets, of all lengths, and back.
            echo(stream, &"x".repeat(300_000));
            for length in [1, 2, 3, 1000, 1400] {
                assert!(ask(socket, length).unwrap().ends_with(&format!(" {length}")));
            }
        }
        // A new one is nobody's before the stack.
        assert!(dial("client", "192.0.2.10:30080").is_err());
        // The end of a connection is seen there too.
        let [mut four, _six] = streams;
        four.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(four.read(&mut [0; 8]).unwrap(), 0);
        let ended = orlop_dataplane::maps::seen::connections(&loader::pins(&room.bpffs)).unwrap();
        let flags = ended.iter().filter(|(key, _)| key.proto == 6).map(|(_, to)| to.flags & 2);
        assert_eq!(flags.sum::<u16>(), 4);
        drop(state);
    });
}

#[test]
#[ignore = "root tier"]
fn both_programs_make_the_same_of_a_packet() {
    isolated("early::both_programs_make_the_same_of_a_packet", |room| {
        let _street = build(&room);
        let (_state, devices) = start(&room, true);
        let index = device("up0", true).index;
        // Neighbours are known from here on.
        NODE.iter().for_each(|node| drop(ask(&udp_client("client", &format!("{node}:30053")), 1)));
        for (from, node) in [("192.0.2.7:40000", NODE[0]), ("[2001:db8:1::7]:40000", NODE[1])] {
            for (protocol, port) in [(Protocol::Tcp, 30080), (Protocol::Udp, 30053)] {
                let ends: [SocketAddr; 2] =
                    [from.to_owned(), format!("{node}:{port}")].map(|at| at.parse().unwrap());
                let run = |side, frame: &[u8]| devices.test_run_at(side, index, frame, 1).unwrap();
                let opening = first(protocol, ends[0], ends[1]);
                assert_eq!(run(Side::In, &opening).action, REDIRECT);
                let known = later(protocol, ends[0], ends[1]);
                let (plain, early) = (run(Side::In, &known), run(Side::Early, &known));
                assert_eq!((plain.action, early.action), (REDIRECT, SENT_BACK), "{from} {protocol}");
                assert_eq!(early.frame, plain.frame, "{from} {protocol}");
                assert_ne!(early.frame, known);
                // One that is shorter than it says is nobody's.
                let short = &known[..known.len() - 1];
                assert_eq!((run(Side::In, short).action, run(Side::Early, short).action), (NEXT, PASS));
                // The way back.
                let there = frame_read::ends(protocol, &early.frame);
                let answer = later(protocol, there.destination, there.source);
                assert_eq!(run(Side::Early, &answer).action, PASS, "whose device is not known yet");
                let (plain, early) = (run(Side::In, &answer), run(Side::Early, &answer));
                assert_eq!((plain.action, early.action), (REDIRECT, SENT_BACK), "{from} {protocol}");
                assert_eq!(early.frame, plain.frame, "{from} {protocol}");
                let back = frame_read::ends(protocol, &early.frame);
                assert_eq!((back.source, back.destination), (ends[1], ends[0]));
            }
        }
    });
}

#[test]
#[ignore = "root tier"]
fn what_is_not_simple_goes_through_the_stack() {
    isolated("early::what_is_not_simple_goes_through_the_stack", |room| {
        let _street = build(&room);
        let _node = start(&room, true);
        for node in NODE {
            let socket = udp_client("client", &format!("{node}:30053"));
            // Fragments, there and back, between datagrams that are whole.
            for length in [1, 4000, 1, 20_000, 1400, 2000] {
                assert!(ask(&socket, length).unwrap().ends_with(&format!(" {length}")), "{node} {length}");
            }
        }
        // One hop is not enough.
        let stream = connected("192.0.2.10:30080");
        stream.set_ttl(1).unwrap();
        (&stream).write_all(b"x\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!((&stream).read(&mut [0; 8]).is_err());
    });
}

#[test]
#[ignore = "root tier"]
fn it_stays_over_restarts_and_goes_when_it_is_no_longer_wanted() {
    isolated("early::it_stays_over_restarts_and_goes_when_it_is_no_longer_wanted", |room| {
        let _street = build(&room);
        drop(start(&room, true));
        let id = || sh("ip -d link show up0 | grep -o 'prog/xdp id [0-9]*'");
        let first = id();
        let mut stream = connected("192.0.2.10:30080");
        drop(start(&room, true));
        assert_ne!(id(), first, "another program under the same link");
        echo(&mut stream, "still here");
        drop(start(&room, false));
        assert!(!has_xdp());
        echo(&mut stream, "through the stack");
        drop(start(&room, true));
        assert!(has_xdp());
        orlop_dataplane::uninstall(&room.bpffs).unwrap();
        assert!(!has_xdp());
    });
}

/// Who answers now.
fn answers(socket: &UdpSocket) -> String {
    ask(socket, 1).map_or_else(|error| error.to_string(), |said| said.split(' ').next().unwrap().to_owned())
}

/// The way on is kept with a connection, for a second at most, and not at all where an agent hears of the change.
fn turn(room: &Room, early: bool) {
    let _street = build(room);
    let _node = start(room, early);
    let socket = udp_client("client", "192.0.2.10:30053");
    let changes = || {
        let map = loader::pins(&room.bpffs).join("ROUTES");
        bpftool(&format!("map dump pinned {}", map.display()))[0]["formatted"]["value"].as_u64().unwrap()
    };
    let turn = |to: &str| sh(&format!("ip route replace 10.42.2.0/24 via {to}"));
    let soon = |who: &str| {
        let answered = (0..60).any(|_| {
            thread::sleep(Duration::from_millis(50));
            answers(&socket) == who
        });
        assert!(answered, "{who}");
    };
    assert_eq!(answers(&socket), "other");
    turn("192.0.2.12");
    soon("third");
    let before = changes();
    // An agent tells the programs.
    let _agent = room.agent(SERVICES);
    turn("192.0.2.11");
    soon("other");
    assert!(changes() > before);
    let mut seen = BTreeMap::new();
    for (to, who) in [("192.0.2.12", "third"), ("192.0.2.11", "other")].repeat(10) {
        answers(&socket);
        let before = changes();
        turn(to);
        while changes() == before {
            thread::yield_now();
        }
        *seen.entry((who, answers(&socket))).or_insert(0) += 1;
    }
    assert_eq!(seen, [(("other", "other".to_owned()), 10), (("third", "third".to_owned()), 10)].into());
}

#[test]
#[ignore = "root tier"]
fn a_new_route_is_a_new_way_for_old_connections() {
    let name = "early::a_new_route_is_a_new_way_for_old_connections";
    isolated(name, |room| turn(&room, false));
}

#[test]
#[ignore = "root tier"]
fn a_new_route_is_a_new_way_before_the_stack_too() {
    let name = "early::a_new_route_is_a_new_way_before_the_stack_too";
    isolated(name, |room| turn(&room, true));
}

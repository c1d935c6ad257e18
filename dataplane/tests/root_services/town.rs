//! A small network around the room, which is the node: a client and another machine on the street, a pod behind the node.
//!
//! ```text
//!  client 192.0.2.7 ──┐                     ┌── pod 10.42.1.10
//!                     ├─ street ─ 192.0.2.10│ node (the room)
//!  other  192.0.2.11 ─┘  (with pod 10.42.2.10 of its own)
//! ```
//! The same in IPv6: `2001:db8:1::/64` and `2001:db8:42:N::/64`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use orlop_dataplane::loader::{Device, Devices};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::room::sh;

/// Builds it. The room's network namespace is the node's.
pub(crate) fn build() {
    sh("mkdir -p /run/netns && mount -t tmpfs orlop-test /run/netns
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
        for n in client other pod; do
            ip netns add $n
            ip -n $n link set lo up
        done
        ip link add br0 type bridge forward_delay 0 && ip link set br0 up
        connect() { # namespace, its device, ours
            ip link add $3 type veth peer name $2 netns $1
            ip -n $1 link set $2 up && ip link set $3 up
        }
        connect client eth0 to-client && ip link set to-client master br0
        connect other eth0 to-other && ip link set to-other master br0
        ip address add 192.0.2.10/24 dev br0 && ip address add 2001:db8:1::10/64 dev br0 nodad
        ip -n client address add 192.0.2.7/24 dev eth0
        ip -n client address add 2001:db8:1::7/64 dev eth0 nodad
        ip -n client route add default via 192.0.2.10 && ip -n client route add default via 2001:db8:1::10
        ip -n other address add 192.0.2.11/24 dev eth0
        ip -n other address add 2001:db8:1::11/64 dev eth0 nodad
        ip -n other address add 10.42.2.10/32 dev lo && ip -n other address add 2001:db8:42:2::10/128 dev lo
        ip -n other route add default via 192.0.2.10 && ip -n other route add default via 2001:db8:1::10
        ip route add 10.42.2.0/24 via 192.0.2.11 && ip route add 2001:db8:42:2::/64 via 2001:db8:1::11
        connect pod eth0 pod0
        ip address add 10.42.1.1/24 dev pod0 && ip address add 2001:db8:42:1::1/64 dev pod0 nodad
        ip -n pod address add 10.42.1.10/24 dev eth0
        ip -n pod address add 2001:db8:42:1::10/64 dev eth0 nodad
        ip -n pod route add default via 10.42.1.1 && ip -n pod route add default via 2001:db8:42:1::1");
}

/// A second pod of the node, `peer` (10.42.3.10).
pub(crate) fn build_peer() {
    sh("ip netns add peer && ip -n peer link set lo up
            ip link add peer0 type veth peer name eth0 netns peer
            ip -n peer link set eth0 up && ip link set peer0 up
            ip address add 10.42.3.1/24 dev peer0 && ip address add 2001:db8:42:3::1/64 dev peer0 nodad
            ip -n peer address add 10.42.3.10/24 dev eth0
            ip -n peer address add 2001:db8:42:3::10/64 dev eth0 nodad
            ip -n peer route add default via 10.42.3.1 && ip -n peer route add default via 2001:db8:42:3::1");
}

/// Two pods of the node that another plugin has put behind a bridge: `left` (10.42.5.11) and `right` (10.42.5.12).
pub(crate) fn build_bridge() {
    sh("ip link add cni0 type bridge forward_delay 0 && ip link set cni0 up
        ip address add 10.42.5.1/24 dev cni0
        for pod in left:11 right:12; do
            name=${pod%:*}
            ip netns add $name && ip -n $name link set lo up
            ip link add ${name}0 type veth peer name eth0 netns $name
            ip -n $name link set eth0 up && ip link set ${name}0 master cni0 up
            ip -n $name address add 10.42.5.${pod#*:}/24 dev eth0
            ip -n $name route add default via 10.42.5.1
        done");
}

/// Puts the programs at the node's devices.
pub(crate) fn attach(devices: &mut Devices, names: &[&str]) {
    attach_all(devices, names, &[]);
}

/// The same, and at these ports of `cni0`.
pub(crate) fn attach_all(devices: &mut Devices, names: &[&str], ports: &[&str]) {
    let device = |name: &&str| Device {
        index: index(name),
        name: (*name).to_owned(),
        pod: !name.ends_with("br0") && *name != "cni0",
        stack: false,
        early: false,
        port_of: None,
    };
    let mut all: Vec<_> = names.iter().map(device).collect();
    all.extend(ports.iter().map(|name| Device { pod: false, port_of: Some(index("cni0")), ..device(name) }));
    devices.set(&all);
    assert_eq!(devices.refused(), [""; 0]);
}

fn index(name: &str) -> u32 {
    let shown: serde_json::Value = serde_json::from_str(&sh(&format!("ip -j link show {name}"))).unwrap();
    shown[0]["ifindex"].as_u64().unwrap().try_into().unwrap()
}

/// Runs a function in a namespace of the town.
pub(crate) fn at<T: Send + 'static>(place: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    spawn(place, f).join().unwrap()
}

pub(crate) fn spawn<T: Send + 'static>(
    place: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{place}")).unwrap();
    thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
            .unwrap();
        f()
    })
}

/// A TCP server that says who it is and whom it sees: `<name> <client>`; then it answers lines with themselves.
pub(crate) fn tcp_server(place: &str, at: &str) {
    let name = place.to_owned();
    let address: SocketAddr = at.parse().unwrap();
    let listener = self::at(place, move || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let name = name.clone();
            thread::spawn(move || serve(stream, &name));
        }
    });
}

/// Says who it is and whom it sees, then answers with what it is sent.
pub(crate) fn serve(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    if stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 65536];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// A UDP server that answers every datagram with `<name> <client> <length>`.
pub(crate) fn udp_server(place: &str, at: &str) {
    let name = place.to_owned();
    let address: SocketAddr = at.parse().unwrap();
    let socket = self::at(place, move || UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // The client may have gone by now; that is its business.
            let _ = socket.send_to(format!("{name} {} {length}", from.ip()).as_bytes(), from);
        }
    });
}

/// Connects from a place and returns what the server says first.
pub(crate) fn dial(place: &str, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    at(place, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        first_line(&mut stream)
    })
}

/// Reads up to the end of the line.
pub(crate) fn first_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// A connected UDP socket of a place, which asks and waits for the answer.
pub(crate) fn udp_client(place: &str, to: &str) -> UdpSocket {
    udp_client_from(place, if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }, to)
}

/// The same from an address.
pub(crate) fn udp_client_from(place: &str, from: &str, to: &str) -> UdpSocket {
    let [from, to]: [SocketAddr; 2] = [from, to].map(|end| end.parse().unwrap());
    at(place, move || {
        let socket = UdpSocket::bind(from).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
}

/// Asks with so many bytes.
pub(crate) fn ask(socket: &UdpSocket, length: usize) -> io::Result<String> {
    socket.send(&vec![b'x'; length])?;
    let mut buffer = [0; 65536];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

//! Sockets whose backend is gone: ended where they would go on talking to nobody, and no other socket with them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use orlop_dataplane::maps::{KernelMaps, Maps as _};
use orlop_dataplane::reconcile::State;
use orlop_dataplane::sweep::sweep;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::net::{tcp_server, udp_server};
use crate::room::{Room, isolated, sh};
use crate::script::{dns, set, start, web};

const DNS: &str = "10.96.0.53:53";
const WEB: &str = "10.96.0.10:80";
const CLOSES: &str = "annotations: {orlop.dev/close-connections: 'true'}";

fn connected(to: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(to).unwrap();
    socket
}

fn asks(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// An echo on `10.42.0.<last>:9090`, for connections that last.
fn echo_server(last: u8) {
    let listener = TcpListener::bind((*tcp_server(last).ip(), 9090)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn echoes(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"still there?")?;
    let mut buffer = [0; 12];
    stream.read_exact(&mut buffer)
}

/// As the loop does after it has written.
fn sweeps(room: &Room, state: &mut State<KernelMaps>) -> usize {
    let removed = state.maps_mut().take_removed();
    sweep(&room.bpffs, &room.cgroup, &removed).unwrap()
}

#[test]
#[ignore = "root tier"]
fn a_connected_udp_socket_ends_with_its_backend_and_no_other() {
    isolated("gone::a_connected_udp_socket_ends_with_its_backend_and_no_other", |room| {
        let [five, six] = [5, 6].map(udp_server);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let to_five = connected(DNS);
        assert_eq!(asks(&to_five).unwrap(), five.to_string());
        let past_the_service = connected(&five.to_string());
        set(&mut state, &dns(&[5, 6]));
        let to_six = (0..64).map(|_| connected(DNS)).find(|socket| asks(socket).unwrap() == six.to_string());
        let to_six = to_six.unwrap();
        assert_eq!(sweeps(&room, &mut state), 0);

        let waiting = to_five.try_clone().unwrap();
        let waiting = thread::spawn(move || waiting.recv(&mut [0; 64]).unwrap_err());
        thread::sleep(Duration::from_millis(50));
        set(&mut state, &dns(&[6]));
        let ended = sweeps(&room, &mut state);
        assert!(ended >= 1, "{ended}");
        // Who waits for an answer hears it at once; who asks next is told that there is no peer any more.
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(to_five.send(b"who?").unwrap_err().raw_os_error(), Some(no_destination()));
        to_five.connect(DNS).unwrap();
        assert_eq!(asks(&to_five).unwrap(), six.to_string());
        assert_eq!(asks(&to_six).unwrap(), six.to_string());
        assert_eq!(asks(&past_the_service).unwrap(), five.to_string());
        assert_eq!(sweeps(&room, &mut state), 0);
    });
}

/// "Destination address required".
fn no_destination() -> i32 {
    rustix::io::Errno::DESTADDRREQ.raw_os_error()
}

#[test]
#[ignore = "root tier"]
fn a_backend_that_only_drains_keeps_its_udp_sockets() {
    isolated("gone::a_backend_that_only_drains_keeps_its_udp_sockets", |room| {
        let [five, _] = [5, 6].map(udp_server);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let socket = connected(DNS);
        assert_eq!(asks(&socket).unwrap(), five.to_string());
        set(&mut state, &dns(&[5, 6]).replace(".5,", ".5, ready: false, terminating: true,"));
        assert_eq!(sweeps(&room, &mut state), 0);
        assert_eq!(asks(&socket).unwrap(), five.to_string());
        let stopped = ".5, ready: false, serving: false, terminating: true,";
        set(&mut state, &dns(&[5, 6]).replace(".5,", stopped));
        assert_eq!(sweeps(&room, &mut state), 1);
    });
}

#[test]
#[ignore = "root tier"]
fn tcp_ends_where_the_service_is_annotated_and_its_endpoint_is_gone() {
    isolated("gone::tcp_ends_where_the_service_is_annotated_and_its_endpoint_is_gone", |room| {
        for last in [5, 6] {
            echo_server(last);
        }
        let plain = |last: &[u8]| web(last).replace("8080", "9090");
        let closing = |last: &[u8]| {
            let renamed = plain(last).replace("10.96.0.10", "10.96.0.20");
            renamed.replace("{name: web,", &format!("{{name: closing, {CLOSES},"))
        };
        let mut state = start(&room);
        set(&mut state, &(plain(&[5]) + &closing(&[5])));
        room.enter();
        let mut stays = TcpStream::connect(WEB).unwrap();
        let mut ends = TcpStream::connect("10.96.0.20:80").unwrap();
        let mut mapped = TcpStream::connect("[::ffff:10.96.0.20]:80").unwrap();
        [&mut stays, &mut ends, &mut mapped].into_iter().for_each(|stream| echoes(stream).unwrap());

        // Not ready, or not even answering: connections are not judged again.
        let unready = ".5, ready: false, serving: false,";
        set(&mut state, &(plain(&[5]) + &closing(&[5, 6]).replace(".5,", unready)));
        assert_eq!(sweeps(&room, &mut state), 0);
        [&mut stays, &mut ends, &mut mapped].into_iter().for_each(|stream| echoes(stream).unwrap());

        set(&mut state, &(plain(&[6]) + &closing(&[6])));
        assert_eq!(sweeps(&room, &mut state), 2);
        echoes(&mut stays).unwrap();
        for stream in [&mut ends, &mut mapped] {
            assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
        // The service itself goes, with its annotation.
        let mut last = TcpStream::connect("10.96.0.20:80").unwrap();
        echoes(&mut last).unwrap();
        set(&mut state, &plain(&[6]));
        assert_eq!(sweeps(&room, &mut state), 1);
        assert_eq!(last.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    });
}

#[test]
#[ignore = "root tier"]
fn sockets_of_pods_end_too_and_what_went_while_the_agent_was_dead() {
    isolated("gone::sockets_of_pods_end_too_and_what_went_while_the_agent_was_dead", |room| {
        let [_, six] = [5, 6].map(udp_server);
        sh("mkdir -p /run/netns && mount -t tmpfs orlop-test /run/netns && ip netns add pod
            ip link add pod0 type veth peer name eth0 netns pod && ip link set pod0 up
            ip address add 10.42.1.1/24 dev pod0
            ip -n pod address add 10.42.1.10/24 dev eth0 && ip -n pod link set eth0 up
            ip -n pod route add default via 10.42.1.1");
        drop(room.agent(&dns(&[5])));
        room.enter();
        let (told, heard) = std::sync::mpsc::channel();
        let client = thread::spawn(move || {
            let namespace = std::fs::File::open("/run/netns/pod").unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            let socket = connected(DNS);
            told.send(asks(&socket).unwrap()).unwrap();
            let begun = Instant::now();
            let error = socket.recv(&mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "after {:?}", begun.elapsed());
            socket.connect(DNS).unwrap();
            asks(&socket).unwrap()
        });
        assert_eq!(heard.recv().unwrap(), "10.42.0.5:5353");
        let _agent = room.agent(&dns(&[6]));
        assert_eq!(client.join().unwrap(), six.to_string());
    });
}

#[test]
#[ignore = "root tier"]
fn sockets_of_ipv6_end_too() {
    isolated("gone::sockets_of_ipv6_end_too", |room| {
        sh("ip address add fd00:42::5/128 dev lo nodad");
        let server = UdpSocket::bind("[fd00:42::5]:5353").unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], from);
            }
        });
        let service = |endpoints: &str| {
            format!(
                "- service: {{name: dns, cluster_ips: ['fd00:96::53'], ports: [{{name: p, protocol: UDP, port: 53}}]}}\n  endpoints: [{endpoints}]\n"
            )
        };
        let mut state = start(&room);
        set(&mut state, &service("{ip: 'fd00:42::5', node: node-a, ports: {p: 5353}}"));
        room.enter();
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect("[fd00:96::53]:53").unwrap();
        assert_eq!(asks(&socket).unwrap(), "who?");
        set(&mut state, &service(""));
        assert_eq!(sweeps(&room, &mut state), 1);
        assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        // Nobody is left to connect to.
        let again = socket.connect("[fd00:96::53]:53").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::ConnectionRefused);
    });
}

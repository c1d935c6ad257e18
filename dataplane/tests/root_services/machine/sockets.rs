//! Sockets of SCTP. The standard library has none, but what it does to those of TCP and UDP fits the two kinds that there are:
//! one association, or many.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{self, AddressFamily, SocketType, ipproto};

use crate::town;

/// Longer than the second try of a packet that was lost.
const LIMIT: Duration = Duration::from_secs(5);

/// A socket of this address: one that names all of its machine's addresses would tell them the other end, past every translation.
fn socket(kind: SocketType, at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket(family, kind, Some(ipproto::SCTP))?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_timeout(&socket, Timeout::Send, Some(LIMIT))?;
    net::bind(&socket, &at)?;
    Ok(socket)
}

/// A server as [`town::tcp_server`].
pub(crate) fn server(place: &str, at: &str) {
    let (name, at) = (place.to_owned(), at.parse().unwrap());
    let listener = town::at(place, move || {
        let socket = socket(SocketType::STREAM, at).expect("a kernel with SCTP");
        net::listen(&socket, 64).unwrap();
        TcpListener::from(socket)
    });
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let name = name.clone();
            thread::spawn(move || town::serve(stream, &name));
        }
    });
}

/// One association, from this address.
pub(crate) fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(SocketType::STREAM, from)?;
    net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// A socket with as many associations as it has been sent to addresses, or as come.
pub(crate) fn many(place: &str, at: &str) -> UdpSocket {
    let at = at.parse().unwrap();
    town::at(place, move || {
        let socket = socket(SocketType::SEQPACKET, at).expect("a kernel with SCTP");
        net::listen(&socket, 64).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    })
}

/// Where a place's processes are.
pub(crate) fn address_of(place: Option<&str>, v4: bool) -> SocketAddr {
    let ips = match place {
        Some("client") => ["192.0.2.7", "2001:db8:1::7"],
        Some("other") => ["192.0.2.11", "2001:db8:1::11"],
        Some("pod") => ["10.42.1.10", "2001:db8:42:1::10"],
        _ => ["192.0.2.10", "2001:db8:1::10"],
    };
    SocketAddr::new(ips[usize::from(!v4)].parse().unwrap(), 0)
}

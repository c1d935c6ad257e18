//! Servers and clients of the tests: what a program in a pod would do.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::room::sh;

/// A TCP server on `10.42.0.<last>:8080` that answers with its address and closes.
pub(crate) fn tcp_server(last: u8) -> SocketAddrV4 {
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 8080);
    add_address(*at.ip());
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // The client may have gone by now; that is its business.
            let _ = stream.and_then(|mut stream| stream.write_all(at.to_string().as_bytes()));
        }
    });
    at
}

/// A UDP server on `10.42.0.<last>:5353` that answers every datagram with its address.
pub(crate) fn udp_server(last: u8) -> SocketAddrV4 {
    let at = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 5353);
    add_address(*at.ip());
    let socket = UdpSocket::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(at.to_string().as_bytes(), from);
        }
    });
    at
}

/// Gives this network namespace an address, unless it has it.
fn add_address(ip: Ipv4Addr) {
    sh(&format!("ip address replace {ip}/32 dev lo"));
}

/// Connects, reads what the server says, and asks for the peer's name in between.
pub(crate) fn dial(service: &str) -> io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect(service)?;
    let peer = stream.peer_addr()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((answer, peer))
}

/// A UDP client socket that does not wait for ever.
pub(crate) fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// Sends one datagram and returns the answer and who it seems to come from.
pub(crate) fn ask(socket: &UdpSocket, service: &str) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"who?", service)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

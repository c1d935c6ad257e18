//! The server of a town, behind all its services. For ever.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::client::{pin, say};
use crate::services::{Dialled, ENDPOINTS};

/// A full round fits into the queue: a server that waits for the CPU costs no retransmitted SYN.
const BACKLOG: i32 = 4096;

pub(crate) fn serve() {
    pin(1);
    for ip in ENDPOINTS {
        // One socket each: with a socket for all, answers would come from the first address.
        let socket = UdpSocket::bind((ip, Dialled::Datagrams.port())).unwrap();
        thread::spawn(move || answer(&socket));
    }
    let hello = listen(Dialled::Hello);
    for (what, behave) in
        [(Dialled::Echo, echo as fn(TcpStream) -> std::io::Result<()>), (Dialled::Sink, sink)]
    {
        let listener = listen(what);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                // A client that goes is the end of it.
                thread::spawn(move || behave(connection).ok());
            }
        });
    }
    say("ready");
    for mut connection in hello.incoming().map_while(Result::ok) {
        connection.write_all(b"!").ok();
    }
}

fn listen(what: Dialled) -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, what.port())).unwrap();
    rustix::net::listen(&listener, BACKLOG).unwrap();
    listener
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        socket.send_to(&buffer[..length], from).ok();
    }
}

fn echo(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = [0; 64];
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        connection.write_all(&buffer[..length])?;
    }
}

fn sink(mut connection: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let mut all = 0_u64;
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return connection.write_all(&all.to_be_bytes());
        }
        all += u64::try_from(length).unwrap_or(0);
    }
}

//! Connections to a port of a pod, from inside its network namespace. Not for: what travels over them.

use std::{
    fs::File,
    io::{self, Error, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::client::{Runtime, blocking};

/// A program in the pod that does not accept for so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pod's own loopback, IPv4 first.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl Runtime {
    /// Connects to `localhost:port` in a pod.
    ///
    /// # Errors
    /// There is no such pod, or nobody listens.
    pub async fn dial(&self, uid: &str, port: u16) -> io::Result<tokio::net::TcpStream> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no pod {uid}"));
        let netns = self.pod(uid).await.ok_or_else(missing)?.netns;
        let connected = blocking(move || match netns {
            None => connect(port),
            Some(netns) => inside(&netns, port),
        });
        let stream = connected.await?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }
}

/// A socket stays in the namespace it was made in; the thread that went there goes nowhere else.
fn inside(netns: &Path, port: u16) -> io::Result<TcpStream> {
    let netns = File::open(netns)?;
    let visit = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        connect(port)
    };
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(visit)?;
    thread.join().map_err(|_| Error::other("the thread in the pod's namespace died"))?
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let mut last = Error::from(ErrorKind::AddrNotAvailable);
    for address in LOOPBACK {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE) {
            Ok(stream) => return Ok(stream),
            // What IPv4 said is what people look for.
            Err(error) if address.is_ipv4() => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

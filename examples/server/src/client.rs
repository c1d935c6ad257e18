//! The client side: what a pod sees when it talks to a Service.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use crate::{http, number};

const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn get(url: &str, count: &str) -> Result<ExitCode, String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is known")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut failed = false;
    for _ in 0..number::<u32>(count)? {
        match get_once(&address, authority, path) {
            Ok((status, body)) => {
                println!("{}", body.trim_end());
                failed |= !(200..300).contains(&status);
            }
            Err(error) => {
                println!("{}", describe(&error));
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn get_once(address: &str, host: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = dial(address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    http::parse_answer(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP"))
}

/// One socket, not connected: each answer's sender is what the kernel says it is.
pub(crate) fn udp(address: &str, count: &str) -> Result<ExitCode, String> {
    let run = || -> io::Result<bool> {
        let target = resolve(address)?;
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut buffer = [0; 1500];
        for _ in 0..count.parse::<u32>().unwrap_or(1) {
            socket.send_to(b"hello", target)?;
            let (length, sender) = socket.recv_from(&mut buffer)?;
            println!("{} from {sender}", String::from_utf8_lossy(&buffer[..length]).trim_end());
        }
        Ok(true)
    };
    Ok(finish(run()))
}

pub(crate) fn connect(address: &str, timeout: &str) -> Result<ExitCode, String> {
    let timeout = Duration::from_millis(number::<u64>(timeout)?.max(1));
    Ok(finish(dial(address, timeout).map(|_| {
        println!("connected");
        true
    })))
}

fn finish(outcome: io::Result<bool>) -> ExitCode {
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    address.to_socket_addrs()?.next().ok_or_else(none)
}

fn dial(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&resolve(address)?, timeout)
}

/// A word for people and the errno's name for tests.
fn describe(error: &io::Error) -> String {
    let named = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Some("refused ECONNREFUSED"),
        Some(libc::ETIMEDOUT) => Some("timeout ETIMEDOUT"),
        Some(libc::EAGAIN) => Some("timeout EAGAIN"),
        Some(libc::EHOSTUNREACH) => Some("unreachable EHOSTUNREACH"),
        Some(libc::ENETUNREACH) => Some("unreachable ENETUNREACH"),
        Some(libc::EACCES) => Some("denied EACCES"),
        Some(libc::EPERM) => Some("denied EPERM"),
        Some(libc::ECONNRESET) => Some("reset ECONNRESET"),
        _ => None,
    };
    match (named, error.kind()) {
        (Some(named), _) => named.to_owned(),
        (None, io::ErrorKind::TimedOut) => "timeout ETIMEDOUT".to_owned(),
        _ => format!("error {error}"),
    }
}

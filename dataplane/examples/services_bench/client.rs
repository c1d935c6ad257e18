//! A client of a town: orders in, figures out.
//!
//! | order | figure |
//! |---|---|
//! | `connect N ADDRESS…` | median microseconds from `connect()` to the first byte, of N, the addresses by turns |
//! | `requests MS ADDRESS` | requests per second over one TCP connection, one byte each way |
//! | `stream MS ADDRESS` | megabits per second that arrived |
//! | `datagrams MS ADDRESS` | requests per second over one connected UDP socket |
//! | `flood MS ADDRESS` | datagrams sent |

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, connect, recv, socket, sockopt};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::offload;
use crate::statistics::median;

/// Conversations of a flood.
const FLOWS: usize = 32;
/// Datagrams that one call sends, and their size: on the wire, 60 bytes.
const BATCH: usize = 48;
const PAYLOAD: u16 = 18;

pub(crate) fn answer() {
    pin(0);
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let [order, amount, to @ ..] = words.as_slice() else { panic!("{line:?} is no order") };
        let amount = amount.parse().unwrap();
        let to: Vec<SocketAddr> = to.iter().map(|at| at.parse().unwrap()).collect();
        let time = Duration::from_millis(amount);
        let figure = match *order {
            "connect" => connects(&to, usize::try_from(amount).unwrap()),
            // Where the server is: else waking an idle CPU is most of what is measured.
            "requests" => on(1, || requests(to[0], time)),
            "stream" => stream(to[0], time),
            "datagrams" => on(1, || datagrams(to[0], time)),
            "flood" => flood(to[0], time),
            _ => panic!("{line:?} is no order"),
        };
        say(&figure.to_string());
    }
}

/// A line, at once.
pub(crate) fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// Clients on one CPU, the server on another: else the scheduler's choice is most of what is measured.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to CPU {cpu}: {error}");
    }
}

fn on(cpu: usize, measure: impl FnOnce() -> f64) -> f64 {
    pin(cpu);
    let figure = measure();
    pin(0);
    figure
}

fn connects(to: &[SocketAddr], count: usize) -> f64 {
    let times = to.iter().cycle().take(count).map(|to| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        // Reset instead of TIME_WAIT: the ports must not run out.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        let mut byte = [0];
        let begun = Instant::now();
        connect(&socket, to).unwrap();
        let (length, _) = recv(&socket, &mut byte[..], rustix::net::RecvFlags::empty()).unwrap();
        let took = begun.elapsed().as_secs_f64() * 1e6;
        assert_eq!(length, 1, "the server says nothing");
        took
    });
    median(&times.collect::<Vec<_>>())
}

/// Calls per second, for so long.
fn rate(time: Duration, mut call: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < time {
        for _ in 0..16 {
            call();
        }
        count += 16;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

fn requests(to: SocketAddr, time: Duration) -> f64 {
    let mut connection = TcpStream::connect(to).unwrap();
    connection.set_nodelay(true).unwrap();
    rate(time, || {
        let mut byte = *b"?";
        connection.write_all(&byte).unwrap();
        connection.read_exact(&mut byte).unwrap();
    })
}

fn datagrams(to: SocketAddr, time: Duration) -> f64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    rate(time, || {
        let mut byte = *b"?";
        socket.send(&byte).unwrap();
        socket.recv(&mut byte).unwrap();
    })
}

fn stream(to: SocketAddr, time: Duration) -> f64 {
    let mut connection = TcpStream::connect(to).unwrap();
    let chunk = vec![0; 1 << 17];
    let begun = Instant::now();
    while begun.elapsed() < time {
        connection.write_all(&chunk).unwrap();
    }
    connection.shutdown(Shutdown::Write).unwrap();
    let mut arrived = [0; 8];
    connection.read_exact(&mut arrived).unwrap();
    let [.., a, b, c, d] = (u64::from_be_bytes(arrived) / 1000).to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) * 8.0 / 1e3 / begun.elapsed().as_secs_f64()
}

fn flood(to: SocketAddr, time: Duration) -> f64 {
    let flow = |_| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        // The first of each by itself: its way is looked for once.
        socket.send(&[0]).unwrap();
        offload::segment(&socket, PAYLOAD).unwrap();
        socket
    };
    let flows: Vec<_> = (0..FLOWS).map(flow).collect();
    let batch = vec![0; BATCH * usize::from(PAYLOAD)];
    let mut sent = 0_u32;
    let begun = Instant::now();
    for socket in flows.iter().cycle() {
        if begun.elapsed() >= time {
            break;
        }
        socket.send(&batch).unwrap();
        sent += u32::try_from(BATCH).unwrap();
    }
    f64::from(sent)
}

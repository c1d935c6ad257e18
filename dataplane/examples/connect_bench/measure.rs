//! The clock around `connect()`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::room::BACKENDS;

const ROUNDS: usize = 300;
const PER_ROUND: usize = 50;

/// Medians over the rounds, in microseconds per `connect()`.
pub(crate) struct Rounds {
    pub(crate) direct: f64,
    pub(crate) service: f64,
    pub(crate) ratio: f64,
}

/// Direct connections by one client and connections to `service` by the other, by turns.
pub(crate) fn rounds(direct: &mut Client, through: &mut Client, service: &[SocketAddrV4]) -> Rounds {
    let pairs: Vec<_> = (0..ROUNDS)
        .map(|round| {
            // By turns also within a round: what runs second finds warmer caches.
            if round % 2 == 0 {
                let direct = direct.connects(&BACKENDS);
                (direct, through.connects(service))
            } else {
                let service = through.connects(service);
                (direct.connects(&BACKENDS), service)
            }
        })
        .collect();
    Rounds {
        direct: median(pairs.iter().map(|(direct, _)| *direct).collect()),
        service: median(pairs.iter().map(|(_, service)| *service).collect()),
        ratio: median(pairs.iter().map(|(direct, service)| service / direct).collect()),
    }
}

/// Connections by one client only.
pub(crate) fn alone(client: &mut Client, to: &[SocketAddrV4]) -> f64 {
    median((0..ROUNDS).map(|_| client.connects(to)).collect())
}

/// A process that connects when told. Sockets belong to the cgroup they are opened in, and moving takes long.
pub(crate) struct Client {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn start(cgroup: Option<&Path>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("client")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(cgroup) = cgroup {
            std::fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        let (orders, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, orders, answers: BufReader::new(answers) }
    }

    /// The median time of one `connect()`, in microseconds.
    fn connects(&mut self, to: &[SocketAddrV4]) -> f64 {
        let to: Vec<_> = to.iter().map(ToString::to_string).collect();
        writeln!(self.orders, "{}", to.join(" ")).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("a client did not end: {error}");
        }
    }
}

/// The client's side: addresses in a line in, microseconds out.
pub(crate) fn answer() {
    pin(0);
    for line in std::io::stdin().lines() {
        let to: Vec<_> = line.unwrap().split(' ').map(|at| at.parse().unwrap()).collect();
        println!("{}", connects(&to));
    }
}

/// Clients on one CPU, the server on another: else the scheduler's choice is most of what is measured.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to CPU {cpu}: {error}");
    }
}

fn connects(to: &[SocketAddrV4]) -> f64 {
    let times = to.iter().cycle().take(PER_ROUND).map(|to| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        // Reset instead of TIME_WAIT: the ports must not run out.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        let begun = Instant::now();
        connect(&socket, to).unwrap();
        begun.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

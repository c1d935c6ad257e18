//! Asking other name servers: by UDP from a port of its own, by TCP where the answer does not fit, the next one where
//! one is silent.
//!
//! ```text
//!  question ─▶ the server that answered last ─silent, SERVFAIL, REFUSED─▶ the next ─▶ …
//!                  UDP ─TC─▶ TCP
//! ```
//!
//! Every question has a port that the kernel drew, an id that we drew, and a socket that hears this server alone; an
//! answer to another question is not one. Not for: which names those are, or remembering.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::op::{Message, Query};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    cache::Key,
    metrics::{Metrics, code_word},
    resolver::is_answer,
    wire,
};

/// A server that says nothing for so long is left for the next one.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Tries of one question, whatever the number of servers: with [`PATIENCE`] less than the five seconds of a client.
const TRIES: usize = 3;
/// Answers to other questions that are looked at in one try.
const MOST_WRONG: usize = 16;

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// There is nobody to ask.
    #[error("no name servers are known for names outside the cluster")]
    NoServers,
    /// One server was asked.
    #[error("ask {server}")]
    Ask {
        /// Which.
        server: SocketAddr,
        /// Why that failed.
        #[source]
        source: io::Error,
    },
}

/// The name servers of others.
pub(super) struct Forwarder {
    servers: RwLock<Vec<SocketAddr>>,
    /// The one that answered last.
    good: AtomicUsize,
    metrics: Metrics,
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>, metrics: Metrics) -> Forwarder {
        Forwarder { servers: RwLock::new(servers), good: AtomicUsize::new(0), metrics }
    }

    pub(super) fn set_servers(&self, servers: Vec<SocketAddr>) {
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// What others say. Of failures the last: a server's own, or that none answered.
    pub(super) async fn ask(&self, key: &Key) -> Result<Message, ForwardError> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let first = self.good.load(Ordering::Relaxed);
        let mut last = Err(ForwardError::NoServers);
        for at in (0..servers.len()).cycle().skip(first.checked_rem(servers.len()).unwrap_or(0)).take(TRIES) {
            let Some(&server) = servers.get(at) else { break };
            let start = Instant::now();
            let asked = match timeout(PATIENCE, ask(server, key)).await {
                Ok(asked) => asked,
                Err(_silent) => Err(io::ErrorKind::TimedOut.into()),
            };
            let code = asked.as_ref().map_or("none", |message| code_word(message.response_code));
            let took = start.elapsed().as_secs_f64();
            self.metrics.forwarded.with_label_values(&["forward", &server.to_string(), code]).observe(took);
            match asked {
                Ok(message) if is_answer(message.response_code) => {
                    self.good.store(at, Ordering::Relaxed);
                    return Ok(message);
                }
                // Another one may know better.
                Ok(message) => last = Ok(message),
                Err(source) => {
                    tracing::debug!(%server, name = %key.name, error = %source, "ask another name server");
                    if last.is_err() {
                        last = Err(ForwardError::Ask { server, source });
                    }
                }
            }
        }
        last
    }
}

async fn ask(server: SocketAddr, key: &Key) -> io::Result<Message> {
    let query = Query::query(key.name.clone(), key.kind);
    let id = random_id()?;
    let question = wire::question(id, &query, key.dnssec_ok, key.checking_disabled);
    let answer = by_udp(server, &question, id, &query).await?;
    if answer.truncation { by_tcp(server, &question, id, &query).await } else { Ok(answer) }
}

async fn by_udp(server: SocketAddr, question: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: packets of others never get here, and a port that nobody listens on says so at once.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0; 4096];
    for _ in 0..MOST_WRONG {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = wire::answer(&buffer[..len], id, query) {
            return Ok(answer);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "only answers to other questions"))
}

async fn by_tcp(server: SocketAddr, question: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let other = || io::Error::new(io::ErrorKind::InvalidData, "an answer to another question");
    wire::answer(&answer, id, query).ok_or_else(other)
}

/// Nobody who does not see the question can guess it.
fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(id))
}

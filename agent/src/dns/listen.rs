//! The sockets: datagrams and streams in, answers out.
//!
//! ```text
//!  UDP socket ─▶ receivers (threads, one per processor) ─known─▶ answer at once
//!                                                       └──else─▶ a task that waits for others (bounded)
//!  TCP socket ─▶ a task per connection (bounded, also per client), one question after the other
//! ```
//!
//! What is known is answered by the thread that received it: no queue, nothing that could grow. Threads, because what
//! takes time in answering is the kernel's, and two more calls for each question (to be told that there is one) are a
//! third of it. Not for: what the answer is.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hickory_proto::op::ResponseCode;
use rustix::net::{SendFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{
    clients::Clients,
    resolver::Resolver,
    wire::{self, Incoming, Reply, Request, Transport},
};

/// Questions by datagram that wait for others; more of them get SERVFAIL.
const MOST_WAITING: usize = 4096;
const MOST_CONNECTIONS: usize = 256;
const MOST_CONNECTIONS_OF_ONE: usize = 32;
/// A connection on which nothing happens is closed.
const IDLE: Duration = Duration::from_secs(10);
/// No question is longer: one takes 300 bytes at most, and options some more.
const LONGEST: usize = 4096;
const MOST_RECEIVERS: usize = 4;
/// Of a receiver, bytes: what it holds is a question and its answer.
const STACK: usize = 512 << 10;
/// Bursts between two turns of a receiver, as far as the kernel allows.
const BUFFER: usize = 4 << 20;
/// After an error that would come again at once.
const REST: Duration = Duration::from_millis(10);

/// Bound sockets, two on each address.
pub(super) struct Listener {
    sockets: Vec<(UdpSocket, TcpListener)>,
}

impl Listener {
    pub(super) async fn bind(addresses: &[SocketAddr]) -> io::Result<Listener> {
        let mut sockets = Vec::new();
        for address in addresses {
            sockets.push(Self::bind_one(*address).await?);
        }
        Ok(Listener { sockets })
    }

    async fn bind_one(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Less is no reason to stop.
        let _smaller = socket.set_recv_buffer_size(BUFFER);
        socket.bind(&address.into())?;
        let udp = UdpSocket::from(socket);
        // The kernel may have chosen the port.
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        Ok((udp, tcp))
    }

    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(|(udp, _)| udp.local_addr()).collect()
    }

    /// Serves for good.
    pub(super) async fn serve(self, resolver: Arc<Resolver>, clients: Arc<RwLock<Clients>>) {
        let server = Arc::new(Server {
            resolver,
            clients,
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            by_client: Arc::default(),
        });
        // Closed when a receiver ends: it must not leave half a server.
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let mut all = Vec::new();
        let mut connections = FuturesUnordered::new();
        for (udp, tcp) in self.sockets {
            let receivers = Receivers {
                socket: Arc::new(udp),
                over: Arc::default(),
                count: processors.min(MOST_RECEIVERS),
            };
            if let Err(error) = receivers.start(&server, &alive) {
                return tracing::error!(%error, "start a receiver of DNS questions");
            }
            all.push(receivers);
            connections.push(Arc::clone(&server).connections(tcp));
        }
        drop(alive);
        tokio::select! {
            _ = ended.recv() => tracing::error!("a receiver of DNS questions ended"),
            _ = connections.next() => {}
        }
    }
}

/// Said by a receiver however it ends.
struct LastWord(mpsc::Sender<()>);

impl Drop for LastWord {
    fn drop(&mut self) {
        // One of them is enough.
        let _full = self.0.try_send(());
    }
}

/// The threads that receive datagrams at one address. They end with this value.
struct Receivers {
    socket: Arc<UdpSocket>,
    over: Arc<AtomicBool>,
    count: usize,
}

impl Receivers {
    fn start(&self, server: &Arc<Server>, alive: &mpsc::Sender<()>) -> io::Result<()> {
        for _ in 0..self.count {
            let (server, socket) = (Arc::clone(server), Arc::clone(&self.socket));
            let (over, alive, runtime) = (Arc::clone(&self.over), alive.clone(), Handle::current());
            let receive = move || {
                let _word = LastWord(alive);
                server.datagrams(&socket, &over, &runtime);
            };
            thread::Builder::new().name("dns".to_owned()).stack_size(STACK).spawn(receive)?;
        }
        Ok(())
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Each of them waits for a datagram; these say nothing.
        for _ in 0..self.count {
            let woken = self.socket.local_addr().and_then(|own| self.socket.send_to(&[], own));
            if let Err(error) = woken {
                tracing::debug!(%error, "end a receiver of DNS questions");
            }
        }
    }
}

struct Server {
    resolver: Arc<Resolver>,
    clients: Arc<RwLock<Clients>>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    by_client: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A question to be answered now, or what to answer already.
enum Step {
    Done(Option<Vec<u8>>),
    Ask(Request),
}

impl Server {
    fn datagrams(self: &Arc<Self>, socket: &Arc<UdpSocket>, over: &AtomicBool, runtime: &Handle) {
        // Its clock is the one that counts.
        let _inside = runtime.enter();
        let mut buffer = [0; LONGEST];
        loop {
            let received = socket.recv_from(&mut buffer);
            if over.load(Ordering::Acquire) {
                return;
            }
            let (len, client) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "receive a question");
                    thread::sleep(REST);
                    continue;
                }
            };
            let start = Instant::now();
            let request = match self.begin(&buffer[..len], client, Transport::Udp, start) {
                Step::Done(answer) => {
                    send(socket, answer, client);
                    continue;
                }
                Step::Ask(request) => request,
            };
            let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
                self.resolver.metrics.rejected.inc();
                let told = (Reply::code(ResponseCode::ServFail), "forward");
                send(socket, Some(self.end(&request, client, Transport::Udp, told, start)), client);
                continue;
            };
            let (server, socket) = (Arc::clone(self), Arc::clone(socket));
            runtime.spawn(async move {
                let _place = place;
                let told = server.resolver.find_out(&request, Transport::Udp).await;
                send(&socket, Some(server.end(&request, client, Transport::Udp, told, start)), client);
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept a connection");
                    sleep(REST).await;
                    continue;
                }
            };
            let Some(one) = OneOf::enter(&self.by_client, client.ip()) else { continue };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let (_place, _one) = (place, one);
                if let Err(error) = server.connection(stream, client).await {
                    tracing::debug!(%client, %error, "connection of a client");
                }
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut question = Vec::new();
        loop {
            let Ok(len) = timeout(IDLE, stream.read_u16()).await? else { return Ok(()) };
            if usize::from(len) > LONGEST {
                return Ok(());
            }
            question.resize(usize::from(len), 0);
            timeout(IDLE, stream.read_exact(&mut question)).await??;
            let start = Instant::now();
            let answer = match self.begin(&question, client, Transport::Tcp, start) {
                Step::Done(answer) => answer,
                Step::Ask(request) => {
                    let told = self.resolver.find_out(&request, Transport::Tcp).await;
                    Some(self.end(&request, client, Transport::Tcp, told, start))
                }
            };
            let Some(answer) = answer else { return Ok(()) };
            let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let framed = [&len.to_be_bytes(), answer.as_slice()].concat();
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    /// What can be said at once.
    fn begin(&self, packet: &[u8], client: SocketAddr, transport: Transport, start: Instant) -> Step {
        let metrics = &self.resolver.metrics;
        let request = match wire::read(packet) {
            Incoming::Question(request) => request,
            Incoming::Refused(code, answer) => {
                metrics.answered(code, "", start.elapsed());
                return Step::Done(Some(answer));
            }
            Incoming::Noise => return Step::Done(None),
        };
        metrics.asked(transport, client.is_ipv4(), request.query.query_type());
        if !self.clients.read().unwrap_or_else(PoisonError::into_inner).may_ask(client.ip()) {
            metrics.refused.inc();
            let reply = Reply::code(ResponseCode::Refused);
            return Step::Done(Some(self.end(&request, client, transport, (reply, "acl"), start)));
        }
        match self.resolver.known(&request, transport) {
            Some(told) => Step::Done(Some(self.end(&request, client, transport, told, start))),
            None => Step::Ask(request),
        }
    }

    fn end(
        &self,
        request: &Request,
        client: SocketAddr,
        transport: Transport,
        (reply, who): (Reply, &str),
        start: Instant,
    ) -> Vec<u8> {
        let answer = request.write(&reply, transport);
        let took = start.elapsed();
        self.resolver.metrics.answered(reply.code, who, took);
        tracing::debug!(
            ?took,
            by = who,
            bytes = answer.len(),
            "{}",
            wire::sentence(client, &request.query, &reply)
        );
        answer
    }
}

/// A datagram that does not fit into the socket's buffer is lost, as it may be anywhere.
fn send(socket: &UdpSocket, answer: Option<Vec<u8>>, client: SocketAddr) {
    if let Some(answer) = answer
        && let Err(error) = sendto(socket, &answer, SendFlags::DONTWAIT, &client)
    {
        tracing::debug!(%client, %error, "answer");
    }
}

/// One of the connections that a client may have.
struct OneOf {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl OneOf {
    fn enter(all: &Arc<Mutex<HashMap<IpAddr, usize>>>, client: IpAddr) -> Option<OneOf> {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= MOST_CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        Some(OneOf { all: Arc::clone(all), client })
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

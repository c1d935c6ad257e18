//! Commands inside containers with streams of their own, and looking on while a container runs.
//!
//! ```text
//!  Session ── pipes, or the master of a terminal ──────────────▶ the command (no byte passes through the shim)
//!     └────── a connection of its own ── answer at the end ────▶ shim
//! ```
//! The connection is the session: when it ends (the session is dropped, this process is killed), the shim kills the
//! command with its children. Works beside an agent: nothing is written. Not for: wire protocols towards users.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use orlop_shim::protocol::{self, Request, Response, STREAMS, StreamRequest, VERSION, next_frame};
use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
    pipe::{PipeFlags, pipe_with},
    termios::Winsize,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{UnixStream, unix::pipe},
};

pub use orlop_shim::protocol::{Streams, Window};

use crate::{
    bundle::Layout,
    client::Runtime,
    errors::{ExecError, ShimError},
    shim, sys,
};

/// A command with streams of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamedCommand {
    /// Program and arguments; the program is looked up in the container's PATH.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    /// After this the command and its children are killed.
    pub timeout: Option<Duration>,
    /// A terminal for all three streams, of this size.
    pub terminal: Option<Window>,
    /// Without a terminal: the streams wanted; the others are `/dev/null`.
    pub streams: Streams,
}

/// The near ends of a command's or container's streams.
#[derive(Debug, Default)]
pub struct Ends {
    /// Dropped, it is the end of the input.
    pub stdin: Option<pipe::Sender>,
    /// Ends with the last process that holds it.
    pub stdout: Option<pipe::Receiver>,
    /// Ends with the last process that holds it.
    pub stderr: Option<pipe::Receiver>,
    /// Instead of the three.
    pub terminal: Option<Terminal>,
}

/// A command that runs, or a container looked at.
#[derive(Debug)]
pub struct Session {
    /// Take what is needed.
    pub ends: Ends,
    connection: Connection,
}

impl Session {
    /// Waits for the end: the command's exit status, or 128 + signal; 0 when a container that was looked at has ended.
    /// Output that was written before is still in the pipes.
    ///
    /// # Errors
    /// The command is not there, its time was over, the shim is gone.
    pub async fn wait(&mut self) -> Result<i32, ExecError> {
        match self.connection.answer().await? {
            Response::Exec { timed_out: true, .. } => Err(ExecError::Timeout(Vec::new())),
            Response::Exec { code, .. } => Ok(code),
            Response::Ok => Ok(0),
            other => Err(ExecError::Shim(ShimError::Unexpected(other))),
        }
    }
}

impl Runtime {
    /// Runs a command inside a container, as the container's user.
    ///
    /// # Errors
    /// The container does not run, the shim is gone or too old; for a terminal also that the command is not there.
    pub async fn stream(&self, uid: &str, id: &str, command: StreamedCommand) -> Result<Session, ExecError> {
        let connection = self.conversation(uid).await?;
        stream_in(connection, id, command).await
    }

    /// Looks at a container's streams from now on.
    ///
    /// # Errors
    /// The container does not run, the shim is gone or too old.
    pub async fn attach(&self, uid: &str, id: &str, streams: Streams) -> Result<Session, ExecError> {
        attach_in(self.conversation(uid).await?, id, streams).await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// The container does not run or has no terminal; the shim is gone or too old.
    pub async fn resize(&self, uid: &str, id: &str, window: Window) -> Result<(), ExecError> {
        resize_in(self.conversation(uid).await?, id, window).await
    }

    /// With a shim that has greeted before.
    async fn conversation(&self, uid: &str) -> Result<Connection, ExecError> {
        if self.shim(uid).map_err(ExecError::Shim)?.version < STREAMS {
            return Err(ExecError::Shim(ShimError::TooOld));
        }
        Connection::open(&self.layout().pod(uid), uid).await
    }
}

/// [`Runtime::stream`] for commands that must not disturb a running agent.
///
/// # Errors
/// As there.
pub async fn stream(
    run_dir: &Path,
    uid: &str,
    id: &str,
    command: StreamedCommand,
) -> Result<Session, ExecError> {
    stream_in(Connection::greet(&layout(run_dir).pod(uid), uid).await?, id, command).await
}

/// [`Runtime::attach`] for commands that must not disturb a running agent.
///
/// # Errors
/// As there.
pub async fn attach(run_dir: &Path, uid: &str, id: &str, streams: Streams) -> Result<Session, ExecError> {
    attach_in(Connection::greet(&layout(run_dir).pod(uid), uid).await?, id, streams).await
}

/// [`Runtime::resize`] for commands that must not disturb a running agent.
///
/// # Errors
/// As there.
pub async fn resize(run_dir: &Path, uid: &str, id: &str, window: Window) -> Result<(), ExecError> {
    resize_in(Connection::greet(&layout(run_dir).pod(uid), uid).await?, id, window).await
}

fn layout(run_dir: &Path) -> Layout {
    Layout { state_dir: std::path::PathBuf::new(), run_dir: run_dir.to_owned() }
}

async fn stream_in(
    mut connection: Connection,
    id: &str,
    command: StreamedCommand,
) -> Result<Session, ExecError> {
    let StreamedCommand { command: args, env, timeout, terminal, streams } = command;
    let request = Request::Stream(StreamRequest {
        id: id.to_owned(),
        args,
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        timeout_ms: timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)),
        terminal,
        streams: if terminal.is_some() { Streams::default() } else { streams },
    });
    if terminal.is_none() {
        let (ends, far) = pipes(streams).map_err(local)?;
        connection.send(&request, &far).await?;
        return Ok(Session { ends, connection });
    }
    let flags = SocketFlags::CLOEXEC;
    let (near, far) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| local(errno.into()))?;
    connection.send(&request, &[far]).await?;
    // The far end is closed here: without a master the wait below ends when the command could not be started.
    match master(near).await.map_err(local)? {
        Some(master) => {
            let terminal = Terminal::new(master).map_err(local)?;
            Ok(Session { ends: Ends { terminal: Some(terminal), ..Ends::default() }, connection })
        }
        None => match connection.answer().await {
            Ok(other) => Err(ExecError::Shim(ShimError::Unexpected(other))),
            Err(error) => Err(error),
        },
    }
}

async fn attach_in(mut connection: Connection, id: &str, streams: Streams) -> Result<Session, ExecError> {
    let (ends, far) = pipes(streams).map_err(local)?;
    connection.send(&Request::Attach { id: id.to_owned(), streams }, &far).await?;
    Ok(Session { ends, connection })
}

async fn resize_in(mut connection: Connection, id: &str, window: Window) -> Result<(), ExecError> {
    connection.send(&Request::Resize { id: id.to_owned(), window }, &[]).await?;
    connection.answer().await.map(drop)
}

fn local(source: io::Error) -> ExecError {
    ExecError::Streams(source)
}

/// Our ends, ready for tokio, and those to send, in the order of the protocol.
fn pipes(streams: Streams) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let mut ends = Ends::default();
    let mut far = Vec::new();
    let output = |wanted: bool, far: &mut Vec<OwnedFd>| -> io::Result<Option<pipe::Receiver>> {
        if !wanted {
            return Ok(None);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        far.push(write);
        pipe::Receiver::from_owned_fd(nonblocking(read)?).map(Some)
    };
    if streams.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        far.push(read);
        ends.stdin = Some(pipe::Sender::from_owned_fd(nonblocking(write)?)?);
    }
    ends.stdout = output(streams.stdout, &mut far)?;
    ends.stderr = output(streams.stderr, &mut far)?;
    Ok((ends, far))
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

/// The descriptor that comes over a socket. `None` when the other end is closed without one.
async fn master(socket: OwnedFd) -> io::Result<Option<OwnedFd>> {
    let socket = UnixStream::from_std(nonblocking(socket)?.into())?;
    socket.async_io(Interest::READABLE, || receive(socket.as_fd())).await
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(rights)
}

/// One conversation with a shim: one request, one answer.
#[derive(Debug)]
struct Connection {
    uid: String,
    stream: UnixStream,
    input: Vec<u8>,
}

impl Connection {
    async fn open(pod: &Path, uid: &str) -> Result<Connection, ExecError> {
        let failed = |source| ShimError::Connect { dir: pod.to_owned(), source };
        let stream = shim::open(pod).await.map_err(failed).map_err(ExecError::Shim)?;
        Ok(Connection { uid: uid.to_owned(), stream, input: Vec::new() })
    }

    /// For who does not know yet what the shim can do.
    async fn greet(pod: &Path, uid: &str) -> Result<Connection, ExecError> {
        let mut connection = Connection::open(pod, uid).await?;
        connection.send(&Request::Hello { version: VERSION }, &[]).await?;
        match connection.answer().await? {
            Response::Hello { version: STREAMS.., .. } => Ok(connection),
            Response::Hello { .. } => Err(ExecError::Shim(ShimError::TooOld)),
            other => Err(ExecError::Shim(ShimError::Unexpected(other))),
        }
    }

    /// The whole frame; the descriptors go with its first byte.
    async fn send(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(), ExecError> {
        let frame = request.frame(1);
        let mut sent = 0;
        while sent < frame.len() {
            let with = if sent == 0 { fds } else { &[] };
            let put =
                self.stream.async_io(Interest::WRITABLE, || send(self.stream.as_fd(), &frame[sent..], with));
            sent += put.await.map_err(|_| self.lost())?;
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<Response, ExecError> {
        loop {
            match next_frame(&mut self.input).map(|frame| frame.map(|frame| Response::parse(&frame))) {
                Ok(Some(Ok((_, Response::Error { step, text })))) => {
                    return Err(ShimError::Refused { step, text }.into());
                }
                Ok(Some(Ok((_, response)))) => return Ok(response),
                Ok(Some(Err(_))) | Err(_) => return Err(self.lost()),
                Ok(None) => {}
            }
            if !matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                return Err(self.lost());
            }
        }
    }

    fn lost(&self) -> ExecError {
        ExecError::Shim(ShimError::Lost(self.uid.clone()))
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let put = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(put)
}

/// The master of a terminal. Its end is an ordinary end of file, whatever the kernel calls it.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Terminal> {
        sys::watched(nonblocking(master)?).map(Terminal)
    }

    /// Tells the programs in it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        set_size(self.0.get_ref().as_fd(), window)
    }

    /// For those who set its size while others read and write it.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn window(&self) -> io::Result<TerminalWindow> {
        self.0.get_ref().try_clone().map(TerminalWindow)
    }
}

/// The size of a terminal.
#[derive(Debug)]
pub struct TerminalWindow(OwnedFd);

impl TerminalWindow {
    /// As [`Terminal::resize`].
    ///
    /// # Errors
    /// As there.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        set_size(self.0.as_fd(), window)
    }
}

fn set_size(terminal: BorrowedFd<'_>, Window { rows, columns }: Window) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd, into.initialize_unfilled())?)) {
                Ok(Ok(got)) => {
                    into.advance(got);
                    return Poll::Ready(Ok(()));
                }
                // Nobody holds the other side any more.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The version check of a conversation is that of the protocol.
const _: () = assert!(protocol::VERSION >= STREAMS);

//! Sockets without anything behind them: the kernel works a netlink request off, and waits for its locks, within
//! the `send`, so there is an answer to read when that returns.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::BufMut;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};

/// Only an answer that was lost, or that could not be read, takes longer.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A socket that never blocks, hears nobody but the kernel, and gets the kernel's explanations.
pub(super) fn connect(protocol: isize) -> io::Result<Socket> {
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    socket.set_ext_ack(true)?;
    // Without the body of the request in front of the explanation.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

/// What the `rtnetlink` crate talks through: instead of a reactor's task, the thread that asked waits.
pub(super) struct Direct(Socket);

impl Direct {
    pub(super) fn wait_readable(&self) -> io::Result<()> {
        let mut socket = [PollFd::new(&self.0, PollFlags::IN)];
        match retry_on_intr(|| poll(&mut socket, Some(&PATIENCE)))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl AsyncSocket for Direct {
    fn socket_ref(&self) -> &Socket {
        &self.0
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.0
    }

    fn new(protocol: isize) -> io::Result<Self> {
        connect(protocol).map(Self)
    }

    fn poll_send(&self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        unless_blocking(self.0.send(bytes, 0))
    }

    fn poll_send_to(&self, _: &mut Context<'_>, bytes: &[u8], to: &SocketAddr) -> Poll<io::Result<usize>> {
        unless_blocking(self.0.send_to(bytes, to, 0))
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        unless_blocking(self.0.recv(buffer, 0).map(drop))
    }

    fn poll_recv_from<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<SocketAddr>> {
        unless_blocking(self.0.recv_from(buffer, 0).map(|(_, from)| from))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        unless_blocking(self.0.recv_from_full())
    }
}

fn unless_blocking<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

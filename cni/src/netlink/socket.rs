//! One connection of the `rtnetlink` crate, for callers that may block.
//!
//! The crate is asynchronous; here no runtime is behind it. The thread that asks polls the crate's connection
//! until it has its answer:
//!
//! ```text
//!  request ──▶ Handle ──channel──▶ Connection ──▶ Direct ──send, recv──▶ kernel
//! ```

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    proto::Connection,
};
use rustix::io::Errno;

use super::{Error, direct::Direct};

const LISTING_ATTEMPTS: usize = 5;

/// An rtnetlink socket. Requests are in the files named after their subject. One that failed to talk is of no
/// more use.
pub(crate) struct RouteSocket {
    connection: Connection<RouteNetlinkMessage, Direct>,
    pub(super) handle: Handle,
}

impl RouteSocket {
    /// Opens one in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        // Nothing is subscribed to, so nothing comes unasked.
        let (mut connection, handle, _unasked) =
            rtnetlink::new_connection_with_socket::<Direct>().map_err(Error::Open)?;
        // The end of a listing says whether it failed or was interrupted.
        connection.set_forward_done(true);
        Ok(Self { connection, handle })
    }

    /// Sees a request through to the kernel's acknowledgement.
    pub(super) fn wait<T, E: Into<Error>>(
        &mut self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        let mut request = pin!(request);
        // Nobody needs to be woken: whenever there is something to read, both are polled.
        let mut task = Context::from_waker(Waker::noop());
        // Hands the message to the connection.
        let mut answer = request.as_mut().poll(&mut task);
        loop {
            if let Poll::Ready(answer) = answer {
                return answer.map_err(Into::into);
            }
            if Pin::new(&mut self.connection).poll(&mut task).is_ready() {
                // Why is in the crate's log only.
                return Err(Error::Talk(io::ErrorKind::BrokenPipe.into()));
            }
            answer = request.as_mut().poll(&mut task);
            if answer.is_pending() {
                self.connection.socket_mut().wait_readable().map_err(Error::Talk)?;
            }
        }
    }

    /// One request for one object. `None` when there is none.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        missing: Errno,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        // With an acknowledgement there is an end even if the object cannot be read.
        match self.wait(ask(self.handle.clone(), message, NLM_F_ACK)) {
            Ok(answer) => Ok(answer.objects.into_iter().next()),
            Err(error) if error.is(&[missing]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One request, seen through to the kernel's acknowledgement, for which the crate has no builder.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.wait(ask(self.handle.clone(), message, NLM_F_ACK | flags)).map(drop)
    }

    /// All objects of a kind; read again when they changed meanwhile.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..LISTING_ATTEMPTS {
            let answer = self.wait(ask(self.handle.clone(), message.clone(), NLM_F_DUMP))?;
            if !answer.interrupted {
                return Ok(answer.objects);
            }
        }
        Err(Error::Unstable)
    }
}

/// What a question brought.
#[derive(Default)]
struct Answer {
    objects: Vec<RouteNetlinkMessage>,
    /// The kernel's tables changed while it went through them.
    interrupted: bool,
}

/// Asks and reads to the end. The crate's own requests for objects do not tell how a listing ended. An object
/// that its parser does not understand is left out: newer kernels know more than it does.
async fn ask(mut handle: Handle, message: RouteNetlinkMessage, flags: u16) -> Result<Answer, Error> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    let mut parts = pin!(handle.request(request)?);
    let mut answer = Answer::default();
    while let Some(part) = parts.next().await {
        let (header, payload) = part.into_parts();
        answer.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(object) => answer.objects.push(object),
            NetlinkPayload::Error(refusal) => return Err(refusal.into()),
            NetlinkPayload::Done(end) if end.code != 0 => return Err(end.into()),
            _ => {}
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;
    use std::thread;

    #[test]
    fn sockets_of_many_threads_are_answered_at_once_and_again() {
        let ask = || {
            let mut socket = RouteSocket::open().unwrap();
            for _ in 0..100 {
                let lo = socket.link("lo").unwrap().unwrap();
                assert_eq!(socket.link("no-such-link").unwrap(), None);
                assert!(socket.links().unwrap().iter().any(|link| link.index == lo.index));
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(ask))));
    }

    #[test]
    fn a_refused_question_is_not_answered_with_nothing() {
        let nameless = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let refused = RouteSocket::open().unwrap().get(nameless, Errno::NODEV).unwrap_err();
        assert!(refused.is(&[Errno::INVAL]), "{refused}");
    }
}

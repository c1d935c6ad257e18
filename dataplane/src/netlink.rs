//! Questions to the kernel over netlink, answered in the call: a list is taken in message by message, so that a long one is
//! never in memory as a whole.
//!
//! Not for: what the kernel tells unasked (`devices`).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
pub(crate) use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};

pub(crate) mod xfrm;

/// A socket to one part of the kernel, in the network namespace that its thread was in when it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Takes in all that the kernel has of something.
    pub(crate) fn list<Q, A>(&mut self, request: Q, take: impl FnMut(A)) -> io::Result<()>
    where
        Q: NetlinkSerializable + Into<NetlinkPayload<Q>>,
        A: NetlinkDeserializable,
    {
        self.ask(NLM_F_REQUEST | NLM_F_DUMP, request, take)
    }

    /// Has the kernel do something.
    pub(crate) fn order<Q>(&mut self, request: Q) -> io::Result<()>
    where
        Q: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<Q>>,
    {
        self.ask(NLM_F_REQUEST | NLM_F_ACK, request, |_: Q| {})
    }

    /// An answer that its parser does not understand is left out: newer kernels know more than it does.
    fn ask<Q, A>(&mut self, flags: u16, request: Q, mut take: impl FnMut(A)) -> io::Result<()>
    where
        Q: NetlinkSerializable + Into<NetlinkPayload<Q>>,
        A: NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length();
                let length = usize::try_from(length).map_err(io::Error::other)?;
                if let Ok(one) = NetlinkMessage::<A>::deserialize(rest)
                    && one.header.sequence_number == self.sequence
                {
                    match one.payload {
                        NetlinkPayload::Done(_) => return Ok(()),
                        NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                        NetlinkPayload::Error(error) => return Err(error.to_io()),
                        NetlinkPayload::InnerMessage(answer) => take(answer),
                        _ => {}
                    }
                }
                // Messages begin at multiples of four.
                rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
            }
        }
    }
}

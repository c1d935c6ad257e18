//! A netlink socket and the framing of requests and answers.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, constants::NETLINK_ROUTE};

use super::Error;

/// The kernel fills at most 32 KiB per answer of a listing.
const BUFFER: usize = 64 * 1024;
const HEADER: usize = 16;
const MSGERR_HEADER: usize = 4 + HEADER;
const ATTR_MSG: u16 = 1;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const LISTING_ATTEMPTS: usize = 5;

/// One framed answer.
pub(super) struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
    whole: &'a [u8],
}

/// A connected netlink socket of any protocol.
pub(super) struct Raw {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Raw {
    pub(super) fn open(protocol: isize) -> Result<Self, Error> {
        let mut socket = Socket::new(protocol).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        // Explanations in words, and answers that do not repeat the request. Old kernels lack both.
        for refused in [socket.set_ext_ack(true).err(), socket.set_cap_ack(true).err()].into_iter().flatten()
        {
            tracing::debug!(error = %refused, "netlink answers will be less telling");
        }
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    pub(super) fn send(&self, request: &[u8]) -> Result<(), Error> {
        match self.socket.send(request, 0) {
            Ok(sent) if sent == request.len() => Ok(()),
            Ok(sent) => Err(Error::Malformed(format!("{sent} of {} bytes sent", request.len()))),
            Err(error) => Err(Error::Talk(error)),
        }
    }

    /// Waits for the next datagram and hands over its frames.
    pub(super) fn receive(&mut self, flags: i32) -> Result<Vec<Frame<'_>>, Error> {
        self.buffer.clear();
        let length = loop {
            match self.socket.recv(&mut self.buffer, flags) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(Error::Talk)?,
            }
        };
        match self.buffer.get(..length) {
            Some(datagram) => frames(datagram),
            None => Err(Error::Malformed(format!("answer of {length} bytes"))),
        }
    }
}

/// Splits a datagram.
fn frames(mut datagram: &[u8]) -> Result<Vec<Frame<'_>>, Error> {
    let mut found = Vec::new();
    while datagram.len() >= HEADER {
        let u16_at = |at: usize| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let (length, sequence) = match cfg!(target_endian = "little") {
            true => (u32_at(0) as usize, u32_at(8)),
            false => (u32_at(0).rotate_left(16) as usize, u32_at(8).rotate_left(16)),
        };
        let whole = datagram.get(..length).filter(|w| w.len() >= HEADER);
        let whole = whole.ok_or_else(|| Error::Malformed(format!("frame of {length} bytes")))?;
        found.push(Frame { kind: u16_at(4), flags: u16_at(6), sequence, payload: &whole[HEADER..], whole });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

impl Frame<'_> {
    /// `Some` for an acknowledgement: the outcome of a request.
    pub(super) fn outcome(&self) -> Option<Result<(), Error>> {
        if self.kind != TYPE_ERROR && self.kind != TYPE_DONE {
            return None;
        }
        let code = match self.payload.first_chunk::<4>() {
            Some(code) => i32::from_ne_bytes(*code),
            None if self.kind == TYPE_DONE => 0,
            None => return Some(Err(Error::Malformed("short acknowledgement".into()))),
        };
        if code == 0 {
            return Some(Ok(()));
        }
        let errno = std::io::Error::from_raw_os_error(code.wrapping_neg());
        let attributes = match self.kind {
            TYPE_ERROR => self.payload.get(MSGERR_HEADER..),
            _ => self.payload.get(4..),
        };
        Some(Err(Error::Refused { errno, detail: attributes.and_then(explanation) }))
    }
}

/// The text among the attributes of an acknowledgement.
fn explanation(mut attributes: &[u8]) -> Option<String> {
    while let Some([a, b, c, d]) = attributes.first_chunk::<4>() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        let value = attributes.get(4..length)?;
        if kind == ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// An rtnetlink socket. Requests are in the files named after their subject.
pub(crate) struct RouteSocket(Raw);

impl RouteSocket {
    /// Opens one in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        Raw::open(NETLINK_ROUTE).map(Self)
    }

    /// One request that is only acknowledged.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        let mut ignore = |_| ();
        self.exchange(message, NLM_F_ACK | flags, &mut ignore).map(drop)
    }

    /// One request for one object. `None` when there is none.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        missing: rustix::io::Errno,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let mut found = None;
        match self.exchange(message, NLM_F_ACK, &mut |object| found = Some(object)) {
            Ok(_) => Ok(found),
            Err(error) if error.is(&[missing]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind; read again when they changed meanwhile.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..LISTING_ATTEMPTS {
            let mut found = Vec::new();
            if self.exchange(message.clone(), NLM_F_DUMP, &mut |object| found.push(object))? {
                return Ok(found);
            }
        }
        Err(Error::Unstable)
    }

    /// Sends and reads to the end. False when the kernel says that a listing was interrupted.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> Result<bool, Error> {
        let sequence = self.0.next_sequence();
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes)?;
        let mut whole = true;
        loop {
            for frame in self.0.receive(0)?.iter().filter(|frame| frame.sequence == sequence) {
                whole &= frame.flags & NLM_F_DUMP_INTR == 0;
                match frame.outcome() {
                    Some(outcome) => return outcome.map(|()| whole),
                    None => parse(frame).into_iter().for_each(&mut *each),
                }
            }
        }
    }
}

/// An object that this build's parser does not understand is left out: newer kernels know more than it does.
fn parse(frame: &Frame<'_>) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(frame.whole) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => Some(message),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, kind = frame.kind, "netlink object left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Linux 6.18 answers to a route whose gateway is not on a link.
    const REFUSAL: &[u8] = &[
        68, 0, 0, 0, 2, 0, 0, 3, 7, 0, 0, 0, 1, 2, 3, 4, // header: 68 bytes, ERROR, capped, sequence 7
        0x9b, 0xff, 0xff, 0xff, // -101 ENETUNREACH
        44, 0, 0, 0, 24, 0, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, // the request's header
        32, 0, 1, 0, b'N', b'e', b'x', b't', b'h', b'o', b'p', b' ', b'h', b'a', b's', b' ', b'i', b'n',
        b'v', b'a', b'l', b'i', b'd', b' ', b'g', b'a', b't', b'e', b'w', b'a', b'y', 0,
    ];

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        let frames = frames(REFUSAL).unwrap();
        assert_eq!((frames.len(), frames[0].sequence), (1, 7));
        let error = frames[0].outcome().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "Network is unreachable (os error 101): Nexthop has invalid gateway");
        assert!(error.is(&[rustix::io::Errno::NETUNREACH]));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..68) {
            for datagram in [&bytes[..], &REFUSAL[..cut], &[&REFUSAL[..cut], &bytes[..]].concat()] {
                for frame in frames(datagram).unwrap_or_default() {
                    frame.outcome();
                    parse(&frame);
                }
            }
        }
    }
}

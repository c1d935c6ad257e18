//! What can go wrong between us and the kernel.

use std::io;

use rtnetlink::packet_core::{DoneMessage, Emitable, ErrorMessage, NetlinkHeader, NlasIterator};

/// The attribute of an answer that explains it (`NLMSGERR_ATTR_MSG`).
const EXPLANATION: u16 = 1;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The request could not be sent or the answer not be read.
    #[error("talk to the kernel over netlink")]
    Talk(#[source] io::Error),
    /// The kernel refused, in its words.
    #[error("{}{}", errno, detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// The error number.
        errno: io::Error,
        /// The kernel's explanation, where it gives one.
        detail: Option<String>,
    },
    /// The answer makes no sense.
    #[error("unexpected netlink answer: {0}")]
    Malformed(String),
    /// A listing changed too often while it was read.
    #[error("the kernel's tables changed during every attempt to list them")]
    Unstable,
}

impl Error {
    /// Whether the kernel refused with one of these error numbers.
    pub fn is(&self, numbers: &[rustix::io::Errno]) -> bool {
        let Self::Refused { errno, .. } = self else { return false };
        numbers.iter().any(|n| errno.raw_os_error() == Some(n.raw_os_error()))
    }
}

impl From<rtnetlink::Error> for Error {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(refusal) => refusal.into(),
            rtnetlink::Error::RequestFailed => Self::Talk(io::ErrorKind::BrokenPipe.into()),
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl From<ErrorMessage> for Error {
    fn from(refusal: ErrorMessage) -> Self {
        // Behind the header of the request; its body is not repeated, for the socket says so.
        let attributes = refusal.header.get(NetlinkHeader::default().buffer_len()..);
        refused(refusal.raw_code(), attributes.unwrap_or_default())
    }
}

impl From<DoneMessage> for Error {
    fn from(end: DoneMessage) -> Self {
        refused(end.code, &end.extended_ack)
    }
}

fn refused(code: i32, attributes: &[u8]) -> Error {
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
    let detail = attributes.find(|a| a.kind() == EXPLANATION).map(|a| text(a.value()));
    Error::Refused { errno: io::Error::from_raw_os_error(code.saturating_neg()), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::RouteNetlinkMessage;
    use proptest::prelude::*;
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

    /// What Linux 6.18 answers to a route whose gateway is not on a link.
    const REFUSAL: &[u8] = &[
        68, 0, 0, 0, 2, 0, 0, 3, 7, 0, 0, 0, 1, 2, 3, 4, // header: 68 bytes, ERROR, capped, sequence 7
        0x9b, 0xff, 0xff, 0xff, // -101 ENETUNREACH
        44, 0, 0, 0, 24, 0, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, // the request's header
        32, 0, 1, 0, b'N', b'e', b'x', b't', b'h', b'o', b'p', b' ', b'h', b'a', b's', b' ', b'i', b'n',
        b'v', b'a', b'l', b'i', b'd', b' ', b'g', b'a', b't', b'e', b'w', b'a', b'y', 0,
    ];

    fn read(answer: &[u8]) -> Option<Error> {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).ok()?;
        match message.payload {
            NetlinkPayload::Error(refusal) => Some(refusal.into()),
            NetlinkPayload::Done(end) => Some(end.into()),
            _ => None,
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        let error = read(REFUSAL).unwrap();
        assert_eq!(error.to_string(), "Network is unreachable (os error 101): Nexthop has invalid gateway");
        assert!(error.is(&[rustix::io::Errno::NETUNREACH]));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(kind in 2u16..4, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let length = u32::try_from(16 + body.len()).unwrap();
            let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
            read(&[&header[..], &body].concat());
        }
    }
}

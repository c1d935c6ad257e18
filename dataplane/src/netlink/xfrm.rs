//! Whether the kernel has IPsec policies (XFRM): what they are about must pass through its stack, to be encrypted there, and to be
//! kept out where it came in the clear.
//!
//! Not for: what the policies say.

use std::future::pending;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_XFRM};

use super::Netlink;

/// `XFRM_MSG_GETSPDINFO`.
const GET: u16 = 0x25;
/// `XFRM_MSG_NEWSPDINFO`.
const NEW: u16 = 0x24;
/// `XFRMA_SPD_INFO`: how many policies there are, in words of 32 bits; the first three are those in, out and forward.
const COUNTS: u16 = 1;
/// `XFRMNLGRP_POLICY`, as the bit of a multicast group.
const POLICIES: u32 = 1 << 3;

/// Whether there is any. A kernel that has none of this has no policies.
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn has_policies() -> io::Result<bool> {
    let Ok(mut netlink) = Netlink::open(NETLINK_XFRM) else { return Ok(false) };
    let mut any = false;
    netlink.ask(NLM_F_REQUEST | NLM_F_ACK, Info::default(), |Info { any: found }| any |= found)?;
    Ok(any)
}

/// Hears of changes.
pub(crate) struct Changes(Option<TokioSocket>);

impl Changes {
    /// From now on.
    pub(crate) fn follow() -> Self {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_XFRM)?;
            socket.socket_mut().bind(&SocketAddr::new(0, POLICIES))?;
            Ok(socket)
        };
        Self(open().ok())
    }

    /// Until there was one. What could not be read was one, too.
    pub(crate) async fn next(&self) {
        match &self.0 {
            Some(socket) => drop(socket.recv_from_full().await),
            None => pending().await,
        }
    }
}

/// Question and answer.
#[derive(Debug, Default)]
struct Info {
    any: bool,
}

impl NetlinkSerializable for Info {
    fn message_type(&self) -> u16 {
        GET
    }

    fn buffer_len(&self) -> usize {
        size_of::<u32>()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl From<Info> for NetlinkPayload<Info> {
    fn from(info: Info) -> Self {
        Self::InnerMessage(info)
    }
}

impl NetlinkDeserializable for Info {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> io::Result<Self> {
        match header.message_type {
            NEW => {
                Ok(Self { any: counts(payload).is_some_and(|counts| counts.iter().any(|count| *count != 0)) })
            }
            other => Err(io::Error::other(format!("message {other}"))),
        }
    }
}

/// The policies in, out and forward.
fn counts(payload: &[u8]) -> Option<[u32; 3]> {
    let mut rest = payload.get(size_of::<u32>()..)?;
    while let [l0, l1, k0, k1, after @ ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1])).checked_sub(4)?;
        let value = after.get(..length)?;
        if u16::from_ne_bytes([*k0, *k1]) == COUNTS {
            let word = |at: usize| Some(u32::from_ne_bytes(value.get(at * 4..)?.first_chunk().copied()?));
            return Some([word(0)?, word(1)?, word(2)?]);
        }
        rest = after.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[(u16, &[u32])]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        for (kind, words) in attributes {
            let length = u16::try_from(4 + words.len() * 4).expect("short");
            bytes.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
            words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        }
        bytes
    }

    #[test]
    fn policies_are_counted() {
        assert_eq!(counts(&answer(&[(9, &[7]), (COUNTS, &[1, 0, 2, 4, 4, 4])])), Some([1, 0, 2]));
        assert_eq!(counts(&answer(&[(9, &[7])])), None);
        assert_eq!(counts(&answer(&[(COUNTS, &[1, 0])])), None);
        assert_eq!(counts(&[0, 0, 0, 0, 2, 0, 1, 0]), None, "shorter than its own head");
        assert_eq!(counts(&[0, 0]), None);
    }
}

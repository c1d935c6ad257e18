//! Ethernet frames taken apart, and their checksums looked at, without the code under test.

use std::net::{IpAddr, SocketAddr};

use orlop_dataplane::model::Protocol;

use crate::frame::{crc32c, number, pseudo, sum};

/// What a frame says, if its checksums are right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

const ETHERNET: usize = 14;

/// Addresses and ports of a frame. Panics if a checksum is wrong.
pub(crate) fn ends(protocol: Protocol, frame: &[u8]) -> Ends {
    let (source, destination, next, payload) = unwrap(frame);
    assert_eq!(next, number(protocol));
    if protocol == Protocol::Sctp {
        let mut zeroed = payload.to_vec();
        zeroed[8..12].fill(0);
        assert_eq!(crc32c(&zeroed).to_le_bytes(), payload[8..12], "checksum of SCTP");
    } else {
        let pseudo = pseudo(protocol, source, destination, payload.len());
        assert_eq!(sum(&[&pseudo[..], payload].concat()), 0xffff, "checksum of {protocol}");
    }
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    Ends { source: SocketAddr::new(source, port(0)), destination: SocketAddr::new(destination, port(2)) }
}

/// Addresses, next header and what follows the IP header. Panics if that has a wrong checksum.
pub(crate) fn unwrap(frame: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
    let ip = &frame[ETHERNET..];
    if frame[12..14] == [0x08, 0x00] {
        assert_eq!(sum(&ip[..20]), 0xffff, "checksum of IP");
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        return (address(12), address(16), ip[9], &ip[20..total]);
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    (address(8), address(24), ip[6], &ip[40..40 + length])
}

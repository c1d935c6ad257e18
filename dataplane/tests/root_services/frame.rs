//! Ethernet frames by hand, built without the code under test: RFC 791, 8200, 9293, 768, 9260.

use std::net::{IpAddr, SocketAddr};

use orlop_dataplane::model::Protocol;

/// Flags of TCP.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The first packet of a connection: a SYN, a datagram, an INIT.
pub(crate) fn first(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    packet(protocol, SYN, source, destination)
}

/// One in the middle of it.
pub(crate) fn later(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    packet(protocol, ACK, source, destination)
}

/// One of TCP with these flags, or of SCTP with what stands for them.
pub(crate) fn packet(protocol: Protocol, flags: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let mut transport = match protocol {
        Protocol::Tcp => {
            [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]].concat()
        }
        Protocol::Udp => [&ports[..], &[0, 12, 0, 0], b"who?"].concat(),
        Protocol::Sctp => {
            let chunk: &[u8] = match flags {
                // INIT and its answer, which has its cookie left out.
                SYN => &[1, 0, 0, 20, 1, 2, 3, 4, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1],
                flags if flags == SYN | ACK => &[2, 0, 0, 20, 1, 2, 3, 4, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1],
                // SACK, SHUTDOWN COMPLETE, ABORT.
                ACK => &[3, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0],
                FIN => &[14, 0, 0, 4],
                RST => &[6, 0, 0, 4],
                other => panic!("flags {other}"),
            };
            [&ports[..], &[0, 0, 0, 0, 0, 0, 0, 0], chunk].concat()
        }
    };
    let sum = match protocol {
        Protocol::Sctp => crc32c(&transport).to_le_bytes().to_vec(),
        _ => (!sum(
            &[&pseudo(protocol, source.ip(), destination.ip(), transport.len())[..], &transport].concat()
        ))
        .to_be_bytes()
        .to_vec(),
    };
    let at = checksum_offset(protocol);
    transport[at..at + sum.len()].copy_from_slice(&sum);
    wrap(number(protocol), source.ip(), destination.ip(), &transport)
}

/// Puts IP and Ethernet headers before a payload.
pub(crate) fn wrap(next: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let macs = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let mut ip = [&[0x45, 0], &total[..], &[0, 1, 0, 0, 64, next, 0, 0]].concat();
            ip.extend(source.octets().iter().chain(&destination.octets()));
            let checksum = (!sum(&ip)).to_be_bytes();
            ip[10..12].copy_from_slice(&checksum);
            [&macs[..], &[0x08, 0x00], &ip, payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let ip = [&[0x60, 0, 0, 0], &length[..], &[next, 64]].concat();
            [&macs[..], &[0x86, 0xdd], &ip, &source.octets(), &destination.octets(), payload].concat()
        }
        _ => panic!("{source} to {destination}"),
    }
}

pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Sctp => 8,
    }
}

pub(crate) fn pseudo(protocol: Protocol, source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
    pseudo_of(number(protocol), source, destination, length)
}

/// The pseudo header of a transport checksum.
pub(crate) fn pseudo_of(next: u8, source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&bytes(source)[..], &bytes(destination), &[0, 0, 0, next], &length].concat()
}

/// RFC 1071.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ if register & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

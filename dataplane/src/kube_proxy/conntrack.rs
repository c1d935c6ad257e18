//! The connections that netfilter tracks in this network namespace, over netlink.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};

use super::reserve::Tracked;
use crate::model::Protocol;

/// `TCP_CONNTRACK_TIME_WAIT` and what follows.
const TCP_OVER: u8 = 7;

/// All connections of TCP, UDP and SCTP. Where netfilter tracks none, or the kernel cannot, there are none.
///
/// # Errors
/// When they cannot be read.
pub(super) fn list() -> io::Result<Vec<Tracked>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length();
            let length = usize::try_from(length).map_err(io::Error::other)?;
            match NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => match error.to_io() {
                    // Of a kernel without `CONFIG_NF_CT_NETLINK`.
                    error if error.raw_os_error() == Some(libc::EINVAL) => return Ok(found),
                    error => return Err(error),
                },
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) => found.extend(tracked(&attributes)),
                _ => {}
            }
            // Messages begin at multiples of four.
            rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
        }
    }
}

/// `None` for protocols without ports, and for what is not understood.
fn tracked(attributes: &[ConntrackAttribute]) -> Option<Tracked> {
    let (mut asked, mut answered, mut over) = (None, None, false);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => asked = ends(tuples),
            ConntrackAttribute::CtaTupleReply(tuples) => answered = ends(tuples),
            ConntrackAttribute::CtaProtoInfo(infos) => over = infos.iter().any(is_over),
            _ => {}
        }
    }
    let ((protocol, asked), (_, answered)) = (asked?, answered?);
    Some(Tracked { protocol, asked, answered, over })
}

fn is_over(info: &ProtoInfo) -> bool {
    let ProtoInfo::TCP(all) = info else { return false };
    all.iter().any(|one| matches!(one, ProtoInfoTCP::State(state) if *state >= TCP_OVER))
}

fn ends(tuples: &[Tuple]) -> Option<(Protocol, (SocketAddr, SocketAddr))> {
    let (mut ips, mut ports) = ((None::<IpAddr>, None::<IpAddr>), (None::<u16>, None::<u16>));
    let mut protocol = None;
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(ip) => ips.0 = Some(*ip),
                        IPTuple::DestinationAddress(ip) => ips.1 = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = self::protocol(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                        ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let end = |ip: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(ip?, port?));
    Some((protocol?, (end(ips.0, ports.0)?, end(ips.1, ports.1)?)))
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        orlop_abi::PROTO_TCP => Some(Protocol::Tcp),
        orlop_abi::PROTO_UDP => Some(Protocol::Udp),
        orlop_abi::PROTO_SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

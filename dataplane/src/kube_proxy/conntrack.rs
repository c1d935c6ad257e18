//! The connections that netfilter tracks in this network namespace, over netlink.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use super::reserve::Tracked;
use crate::model::Protocol;
use crate::netlink::{NETLINK_NETFILTER, Netlink};

/// `TCP_CONNTRACK_TIME_WAIT` and what follows.
const TCP_OVER: u8 = 7;

/// All connections of TCP, UDP and SCTP. Where netfilter tracks none, or the kernel cannot, there are none.
///
/// # Errors
/// When they cannot be read.
pub(super) fn list() -> io::Result<Vec<Tracked>> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
    let mut found = Vec::new();
    let asked = Netlink::open(NETLINK_NETFILTER)?.list(request, |answer: NetfilterMessage| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer.inner {
            found.extend(tracked(&attributes));
        }
    });
    match asked {
        // Of a kernel without `CONFIG_NF_CT_NETLINK`.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(found),
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

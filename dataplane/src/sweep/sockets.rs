//! Sockets of one network namespace, over netlink (`sock_diag`): found by their cookie, and ended (`SOCK_DESTROY`).
//!
//! The kernel compares the cookie again when it ends one: what was closed and opened anew meanwhile is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};

use super::plan::Connected;
use crate::model::Protocol;
use crate::netlink::{NETLINK_SOCK_DIAG, Netlink};

/// Why sockets could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No netlink.
    #[error("open a socket to the kernel's socket lists")]
    Open(#[source] io::Error),
    /// No list.
    #[error("list {protocol} sockets")]
    List {
        /// Of which protocol.
        protocol: Protocol,
        #[source]
        /// Cause.
        source: io::Error,
    },
    /// The kernel does not do it.
    #[error("this kernel ends no sockets of others (CONFIG_INET_DIAG_DESTROY)")]
    Unsupported,
    /// It did not this time.
    #[error("end a {protocol} socket")]
    End {
        /// Of which protocol.
        protocol: Protocol,
        #[source]
        /// Cause.
        source: io::Error,
    },
}

/// Ends those of `wanted` that are in the calling thread's network namespace, and names them.
///
/// # Errors
/// With the first step that failed.
pub(super) fn end(wanted: &BTreeMap<u64, Connected>) -> Result<BTreeSet<u64>, SocketError> {
    let mut lists = Lists(Netlink::open(NETLINK_SOCK_DIAG).map_err(SocketError::Open)?);
    let mut ended = BTreeSet::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let v6_only = |socket: &&Connected| socket.protocol == protocol && socket.at.is_ipv6();
        let any = wanted.values().any(|socket| socket.protocol == protocol);
        let v4 = wanted.values().filter(|socket| socket.protocol == protocol).count()
            > wanted.values().filter(v6_only).count();
        // Sockets of IPv6 also connect to IPv4, as `::ffff:a.b.c.d`.
        let families = [(AF_INET, v4), (AF_INET6, any)];
        for (family, _) in families.into_iter().filter(|(_, asked)| *asked) {
            let list = lists.list(family, protocol);
            for id in list.map_err(|source| SocketError::List { protocol, source })? {
                let cookie = cookie(&id);
                if wanted.get(&cookie).is_none_or(|socket| socket.protocol != protocol) {
                    continue;
                }
                match lists.destroy(family, protocol, id) {
                    Ok(()) => drop(ended.insert(cookie)),
                    // Closed, or connected elsewhere, since it was listed.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        return Err(SocketError::Unsupported);
                    }
                    Err(source) => return Err(SocketError::End { protocol, source }),
                }
            }
        }
    }
    Ok(ended)
}

/// Two words, the lower first.
fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    u64::from(u32::from_ne_bytes([e, f, g, h])) << 32 | u64::from(u32::from_ne_bytes([a, b, c, d]))
}

fn number(protocol: Protocol) -> u8 {
    if protocol == Protocol::Udp { IPPROTO_UDP } else { IPPROTO_TCP }
}

/// The kernel's lists of sockets.
struct Lists(Netlink);

impl Lists {
    /// Sockets that have a peer.
    fn list(&mut self, family: u8, protocol: Protocol) -> io::Result<Vec<SocketId>> {
        let mut found = Vec::new();
        let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let states = StateFlags::all()
            - (StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT | StateFlags::SYN_RECV);
        let request = SockDiagMessage::InetRequest(request(family, protocol, any, states));
        self.0.list(request, |answer: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(socket) = answer {
                found.push(socket.header.socket_id);
            }
        })?;
        Ok(found)
    }

    fn destroy(&mut self, family: u8, protocol: Protocol, id: SocketId) -> io::Result<()> {
        let request = SockDiagMessage::InetRequest(request(family, protocol, id, StateFlags::all()));
        self.0.order(SockDiagDestroy::new(request))
    }
}

fn request(family: u8, protocol: Protocol, socket_id: SocketId, states: StateFlags) -> InetRequest {
    let extensions = ExtensionFlags::empty();
    InetRequest { family, protocol: number(protocol), extensions, states, socket_id }
}

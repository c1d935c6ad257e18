//! Which connected sockets are to be ended, from what stands in the maps.
//!
//! UDP: whose backend no longer answers, since a connected socket would go on sending to it for ever. TCP: only to
//! backends of services that asked for it, and only when one was seen to go.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::maps::Removed;
use crate::model::Protocol;
use crate::tables::{BackendId, ServiceId};

/// A socket that the programs connected to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connected {
    /// The kernel's name of the socket.
    pub cookie: u64,
    /// Its protocol.
    pub protocol: Protocol,
    /// The service it asked for.
    pub service: ServiceId,
    /// The backend it got.
    pub backend: BackendId,
    /// That backend's address.
    pub at: SocketAddr,
}

/// Sockets whose backend does not stand in the maps under its number, and whose end that would be.
pub fn suspects(
    sockets: impl IntoIterator<Item = Connected>,
    removed: &BTreeSet<Removed>,
    stands: impl Fn(BackendId) -> Option<(ServiceId, SocketAddr)>,
) -> Vec<Connected> {
    let closes = |socket: &Connected| {
        removed
            .iter()
            .any(|gone| gone.backend.close && (gone.id, gone.backend.at) == (socket.backend, socket.at))
    };
    let concerned = sockets.into_iter().filter(|socket| match socket.protocol {
        Protocol::Udp => true,
        Protocol::Tcp => closes(socket),
        Protocol::Sctp => false,
    });
    concerned.filter(|socket| stands(socket.backend) != Some((socket.service, socket.at))).collect()
}

/// Those of them whose backend is not back under another number, as it is when its slice was written anew.
pub fn ended(suspects: Vec<Connected>, standing: &BTreeSet<(ServiceId, SocketAddr)>) -> BTreeSet<Connected> {
    suspects.into_iter().filter(|socket| !standing.contains(&(socket.service, socket.at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Backend, Home};

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 42, 0, last], 8080))
    }

    fn socket(cookie: u64, protocol: Protocol, last: u8) -> Connected {
        let backend = BackendId(u32::from(last));
        Connected { cookie, protocol, service: ServiceId(1), backend, at: at(last) }
    }

    fn removed(last: u8, close: bool) -> Removed {
        let backend = Backend { at: at(last), cluster: true, local: false, close, home: Home::Unsaid };
        Removed { id: BackendId(u32::from(last)), backend }
    }

    /// Backends 5 and 6 stand in the maps, 7 went (its service asked for TCP connections to be closed), 8 went, too.
    fn check(sockets: &[Connected]) -> Vec<u64> {
        let standing = |id: BackendId| {
            (id == BackendId(5) || id == BackendId(6))
                .then(|| (ServiceId(1), at(u8::try_from(id.0).unwrap())))
        };
        let gone = BTreeSet::from([removed(7, true), removed(8, false)]);
        let suspects = suspects(sockets.iter().copied(), &gone, standing);
        let all = BTreeSet::from([(ServiceId(1), at(5)), (ServiceId(1), at(6))]);
        ended(suspects, &all).into_iter().map(|socket| socket.cookie).collect()
    }

    #[test]
    fn udp_ends_with_its_backend() {
        let sockets = [socket(1, Protocol::Udp, 5), socket(2, Protocol::Udp, 7), socket(3, Protocol::Udp, 8)];
        assert_eq!(check(&sockets), [2, 3]);
    }

    #[test]
    fn udp_of_a_backend_that_went_unseen_ends_too() {
        assert_eq!(check(&[socket(1, Protocol::Udp, 9)]), [1]);
    }

    #[test]
    fn tcp_ends_only_where_the_service_says_so() {
        let sockets = [socket(1, Protocol::Tcp, 5), socket(2, Protocol::Tcp, 7), socket(3, Protocol::Tcp, 8)];
        assert_eq!(check(&sockets), [2]);
        // Nobody saw it go: it may be of a service that did not ask for it.
        assert_eq!(check(&[socket(1, Protocol::Tcp, 9)]), [0; 0]);
    }

    #[test]
    fn a_number_that_now_means_another_backend_saves_nobody() {
        let moved = Connected { at: at(99), ..socket(1, Protocol::Udp, 5) };
        let of_another_service = Connected { service: ServiceId(2), ..socket(2, Protocol::Udp, 5) };
        assert_eq!(check(&[moved, of_another_service]), [1, 2]);
        // The removed one of that number was at another address.
        let other = Connected { at: at(99), ..socket(3, Protocol::Tcp, 7) };
        assert_eq!(check(&[other]), [0; 0]);
    }

    #[test]
    fn a_backend_that_came_back_under_another_number_keeps_its_sockets() {
        let renumbered = Connected { backend: BackendId(70), ..socket(1, Protocol::Udp, 6) };
        assert_eq!(check(&[renumbered]), [0; 0]);
    }
}

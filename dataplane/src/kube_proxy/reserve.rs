//! Which of netfilter's connections answer to ports that our packet programs give to masqueraded connections of their own.
//!
//! netfilter masquerades with any port. Were one of ours given out a second time towards the same backend, the answers to
//! netfilter's connection would be taken for ours.

use std::net::SocketAddr;

use crate::model::Protocol;

/// A connection that netfilter tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracked {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who asks, and whom.
    pub asked: (SocketAddr, SocketAddr),
    /// Who answers, and to whom, as it looks on the way back before it is translated.
    pub answered: (SocketAddr, SocketAddr),
    /// It is over, and its entry only waits to be removed.
    pub over: bool,
}

/// Connections under way whose source was translated to one of `ports` (first and last).
pub fn reserve(
    tracked: impl IntoIterator<Item = Tracked>,
    (first, last): (u16, u16),
) -> impl Iterator<Item = Tracked> {
    tracked.into_iter().filter(move |one| {
        let (client, to) = (one.asked.0, one.answered.1);
        !one.over && client != to && (first..=last).contains(&to.port())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(client: &str, back_to: &str) -> Tracked {
        let at = |text: &str| text.parse().unwrap();
        Tracked {
            protocol: Protocol::Tcp,
            asked: (at(client), at("192.0.2.10:30080")),
            answered: (at("10.42.1.10:8080"), at(back_to)),
            over: false,
        }
    }

    #[test]
    fn only_masqueraded_connections_under_way_on_our_ports_count() {
        let wanted = tracked("192.0.2.7:40000", "192.0.2.10:61000");
        let last = tracked("192.0.2.7:40001", "192.0.2.10:65535");
        let others = [
            tracked("192.0.2.7:40002", "192.0.2.10:60999"),
            // Nobody translated the source.
            tracked("192.0.2.7:62000", "192.0.2.7:62000"),
            Tracked { over: true, ..tracked("192.0.2.7:40003", "192.0.2.10:62000") },
        ];
        let all = [wanted, last].into_iter().chain(others);
        assert_eq!(reserve(all, (61_000, 65_535)).collect::<Vec<_>>(), [wanted, last]);
    }
}

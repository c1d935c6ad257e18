//! Which of netfilter's connections answer to addresses and ports that our packet programs might give out again.
//!
//! netfilter masquerades with any port, and a process of the node may have got the same for itself. Were it used a second
//! time towards the same backend, the answers to netfilter's connection would be taken for ours.

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

/// Connections under way to backends of services: those whose destination was translated.
pub fn reserve(tracked: impl IntoIterator<Item = Tracked>) -> impl Iterator<Item = Tracked> {
    tracked.into_iter().filter(|one| !one.over && one.asked.1 != one.answered.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(client: &str, to: &str, answered_to: &str) -> Tracked {
        let at = |text: &str| text.parse().unwrap();
        Tracked {
            protocol: Protocol::Tcp,
            asked: (at(client), at(to)),
            answered: (at("10.42.1.10:8080"), at(answered_to)),
            over: false,
        }
    }

    #[test]
    fn connections_to_services_under_way_count() {
        let masqueraded = tracked("192.0.2.7:40000", "192.0.2.10:30080", "192.0.2.10:52352");
        let of_a_pod = tracked("10.42.1.11:40000", "10.96.0.10:80", "10.42.1.11:40000");
        let over = Tracked { over: true, ..masqueraded };
        let past_services = tracked("10.42.1.11:40000", "10.42.1.10:8080", "192.0.2.10:61000");
        let all = [masqueraded, over, of_a_pod, past_services];
        assert_eq!(reserve(all).collect::<Vec<_>>(), [masqueraded, of_a_pod]);
    }
}

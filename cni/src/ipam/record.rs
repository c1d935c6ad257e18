//! One line of the ledger: text an operator can read, closed by a checksum. Pure.
//!
//! ```text
//!  assign 10.42.0.7,fd00::7 <uid> <namespace>/<name> <path of the network namespace> #1f2e3d4c
//!  release <uid> #…
//!  cursor 10.42.0.7 #…
//!  rest 10.42.0.5 #…
//! ```
//!
//! Lines of before there was IPv6 have one address and no path; they are read as ever.

use std::{fmt, net::IpAddr, path::PathBuf};

use super::Owner;
use orlop_model::hash::fnv64a;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A pod was given addresses.
    Assign(Vec<IpAddr>, Owner),
    /// A pod gave its addresses back.
    Release(String),
    /// Where to go on in this address's family; written when the ledger is rewritten.
    Cursor(IpAddr),
    /// An address that was freed not long ago; written when the ledger is rewritten.
    Rest(IpAddr),
}

impl Record {
    /// Reads one line without its newline.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (body, sum) = line.rsplit_once(" #")?;
        if sum != checksum(body) {
            return None;
        }
        let words: Vec<&str> = body.split(' ').collect();
        match words[..] {
            ["assign", addresses, uid, pod, ref netns @ ..] if netns.len() < 2 => {
                let addresses = addresses.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
                let netns = netns.first().map(PathBuf::from);
                Some(Self::Assign(addresses, Owner { uid: uid.into(), pod: pod.into(), netns }))
            }
            ["release", uid] => Some(Self::Release(uid.into())),
            ["cursor", address] => Some(Self::Cursor(address.parse().ok()?)),
            ["rest", address] => Some(Self::Rest(address.parse().ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match self {
            Self::Assign(addresses, Owner { uid, pod, netns }) => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                let netns = netns.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default();
                format!("assign {} {uid} {pod}{netns}", addresses.join(","))
            }
            Self::Release(uid) => format!("release {uid}"),
            Self::Cursor(address) => format!("cursor {address}"),
            Self::Rest(address) => format!("rest {address}"),
        };
        write!(f, "{body} #{}", checksum(&body))
    }
}

fn checksum(body: &str) -> String {
    format!("{:08x}", fnv64a(body.as_bytes()) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_reads_back(
            v4: Option<[u8; 4]>, v6: [u16; 8], uid in "[a-z0-9-]{1,40}", pod in "[a-z0-9./-]{1,60}",
            netns in proptest::option::of("/[a-z0-9./-]{1,60}"),
        ) {
            let addresses: Vec<IpAddr> = v4.map(IpAddr::from).into_iter().chain([v6.into()]).collect();
            let cursor = addresses[0];
            for record in [
                Record::Assign(addresses, Owner { uid: uid.clone(), pod, netns: netns.map(PathBuf::from) }),
                Record::Release(uid),
                Record::Cursor(cursor),
                Record::Rest(cursor),
            ] {
                prop_assert_eq!(Record::parse(&record.to_string()), Some(record));
            }
        }

        #[test]
        fn no_proper_prefix_of_a_line_is_a_line(cut in 0usize..90) {
            let netns = Some("/run/orlop/netns/x".into());
            let owner = Owner { uid: "0c2d5c7e-6c2a".into(), pod: "default/web".into(), netns };
            let line = Record::Assign(vec![[10, 0, 0, 2].into()], owner).to_string();
            prop_assume!(cut < line.len());
            prop_assert_eq!(Record::parse(&line[..cut]), None);
        }
    }

    #[test]
    fn lines_of_before_ipv6_are_read() {
        let record = |body: &str| Record::parse(&format!("{body} #{}", checksum(body)));
        let owner = Owner { uid: "u1".into(), pod: "default/web".into(), netns: None };
        assert_eq!(
            record("assign 10.0.0.2 u1 default/web"),
            Some(Record::Assign(vec![[10, 0, 0, 2].into()], owner))
        );
        assert_eq!(record("cursor 10.0.0.9"), Some(Record::Cursor([10, 0, 0, 9].into())));
    }
}

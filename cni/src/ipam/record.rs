//! One line of the ledger: text an operator can read, closed by a checksum. Pure.

use std::{fmt, net::Ipv4Addr};

use super::Owner;
use crate::names::fnv1a64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A pod was given an address.
    Assign(Ipv4Addr, Owner),
    /// A pod gave its address back.
    Release(String),
    /// Where to go on; written when the ledger is rewritten.
    Cursor(Ipv4Addr),
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
            ["assign", address, uid, pod] => {
                Some(Self::Assign(address.parse().ok()?, Owner { uid: uid.into(), pod: pod.into() }))
            }
            ["release", uid] => Some(Self::Release(uid.into())),
            ["cursor", address] => Some(Self::Cursor(address.parse().ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match self {
            Self::Assign(address, Owner { uid, pod }) => format!("assign {address} {uid} {pod}"),
            Self::Release(uid) => format!("release {uid}"),
            Self::Cursor(address) => format!("cursor {address}"),
        };
        write!(f, "{body} #{}", checksum(&body))
    }
}

fn checksum(body: &str) -> String {
    format!("{:08x}", fnv1a64(body.as_bytes()) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_reads_back(ip in any::<u32>(), uid in "[a-z0-9-]{1,40}", pod in "[a-z0-9./-]{1,60}") {
            let address = Ipv4Addr::from(ip);
            for record in [
                Record::Assign(address, Owner { uid: uid.clone(), pod }),
                Record::Release(uid),
                Record::Cursor(address),
            ] {
                prop_assert_eq!(Record::parse(&record.to_string()), Some(record));
            }
        }

        #[test]
        fn no_proper_prefix_of_a_line_is_a_line(cut in 0usize..60) {
            let owner = Owner { uid: "0c2d5c7e-6c2a".into(), pod: "default/web".into() };
            let line = Record::Assign([10, 0, 0, 2].into(), owner).to_string();
            prop_assume!(cut < line.len());
            prop_assert_eq!(Record::parse(&line[..cut]), None);
        }
    }
}

//! Numbers for what the maps speak of: made of what they stand for, so that they mean the same after a restart, and one
//! that is in a map for another moment never means something else meanwhile.

use std::collections::BTreeMap;

/// Numbers that are given, and to what.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeMap<u32, String>);

impl Taken {
    /// The number of what this text describes, among those with `kind` as their highest bit. Two texts with the same hash
    /// (one pair in some ten thousand texts) get numbers in the order they come.
    pub(super) fn number(&mut self, kind: bool, text: &str) -> u32 {
        let mut at = fnv64(text.as_bytes());
        loop {
            let number = (at & 0x7fff_ffff) | if kind { 0x8000_0000 } else { 0 };
            let free = number & 0x7fff_ffff != 0;
            match self.0.get(&number) {
                Some(known) if known == text => return number,
                None if free => {
                    self.0.insert(number, text.to_owned());
                    return number;
                }
                _ => at = at.wrapping_add(1),
            }
        }
    }
}

/// FNV-1a, folded: its lower half alone mixes little.
fn fnv64(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])
}

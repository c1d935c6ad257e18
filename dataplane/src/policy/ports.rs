//! Ranges of ports as prefixes: what a longest-prefix match finds with one lookup.

/// A port whose first `bits` bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    /// The first port.
    pub(super) port: u16,
    /// How many bits count.
    pub(super) bits: u8,
}

/// The fewest prefixes that hold these ports and no other: at most 30.
pub(super) fn prefixes(first: u16, last: u16) -> Vec<Prefix> {
    let mut all = Vec::new();
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    while at < end {
        let aligned = at.trailing_zeros().min(16);
        let fits = (end - at).ilog2();
        let size = aligned.min(fits);
        if let (Ok(port), Ok(bits)) = (u16::try_from(at), u8::try_from(16 - size)) {
            all.push(Prefix { port, bits });
        }
        at += 1 << size;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{Prefix, prefixes};

    #[test]
    fn ranges_are_covered_once_and_exactly() {
        let edges = [(0, 0), (0, 65535), (1, 65534), (80, 80), (1024, 2047), (8080, 8090), (65535, 65535)];
        for (first, last) in edges {
            let all = prefixes(first, last);
            assert!(all.len() <= 30, "{all:?}");
            let covered: u32 = all.iter().map(|at| 1_u32 << (16 - at.bits)).sum();
            assert_eq!(covered, u32::from(last - first) + 1, "{first}-{last}");
            assert!(all.iter().all(|at| at.port >= first && at.port <= last), "{first}-{last}: {all:?}");
        }
        assert_eq!(prefixes(0, 65535), [Prefix { port: 0, bits: 0 }]);
    }
}

//! A set of memory nodes.

use std::fmt;

/// Numbers below 64; upstream takes machines with eight nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nodes(u64);

/// More are not told apart: what lies on one of them lies anywhere.
const MOST: usize = 8;

impl Nodes {
    /// How many.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// None.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Nodes) -> Nodes {
        Nodes(self.0 & other.0)
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(self, node: u32) -> bool {
        node < u64::BITS && self.0 >> node & 1 == 1
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |node| self.has(*node))
    }

    /// All sets that can be made of them but the empty one; none where they are too many to try.
    pub fn parts(self) -> impl Iterator<Item = Nodes> {
        let most = if self.len() <= MOST { self.0 } else { 0 };
        // From the smallest number on: the next one with no bit outside.
        let next = move |part: &u64| Some((part.wrapping_sub(most)) & most).filter(|part| *part != 0);
        std::iter::successors(next(&0), next).map(Nodes)
    }
}

impl FromIterator<u32> for Nodes {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Nodes {
        Nodes(nodes.into_iter().filter(|node| *node < u64::BITS).fold(0, |all, node| all | 1 << node))
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|node| node.to_string()).collect();
        f.write_str(&numbers.join(","))
    }
}

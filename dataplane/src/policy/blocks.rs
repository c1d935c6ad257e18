//! Blocks of addresses that overlap, as classes: all addresses of a class are in the same blocks.
//!
//! A class is found by the longest prefix: whatever contains that also contains the address, and nothing longer does.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::model::Block;
use super::numbers::Taken;

/// Networks by class, and the classes of each block.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// 0: in no block.
    pub(super) of_net: BTreeMap<IpNet, u32>,
    of_block: BTreeMap<Block, BTreeSet<u32>>,
}

impl Classes {
    pub(super) fn new(blocks: &BTreeSet<Block>, taken: &mut Taken) -> Self {
        let mut classes = Self::default();
        let nets: BTreeSet<IpNet> =
            blocks.iter().flat_map(|block| block.except.iter().chain([&block.cidr])).copied().collect();
        for net in nets {
            let within: Vec<&Block> = blocks.iter().filter(|block| contains(block, &net)).collect();
            let class = if within.is_empty() { 0 } else { taken.number(true, &format!("block {within:?}")) };
            for block in within {
                classes.of_block.entry(block.clone()).or_default().insert(class);
            }
            classes.of_net.insert(net, class);
        }
        classes
    }

    /// The classes that make up a block.
    pub(super) fn of(&self, block: &Block) -> impl Iterator<Item = u32> {
        self.of_block.get(block).into_iter().flatten().copied()
    }
}

fn contains(block: &Block, net: &IpNet) -> bool {
    block.cidr.contains(net) && !block.except.iter().any(|except| except.contains(net))
}

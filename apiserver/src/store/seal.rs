//! A sum over everything on disk, written with every batch.
//!
//! The engine checks the bytes of a record, but not that records belong together: a flipped bit in a journal
//! entry's sequence number can hide a newer value behind an older one. The sum finds that.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::engine::{Batch, Loaded};

/// Number of records, sum of their hashes over key and revision, and the reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seal {
    revisions: HashMap<Arc<str>, u64>,
    sum: u64,
    reserved: u64,
}

impl Seal {
    /// Over what was read.
    pub(super) fn of(loaded: &Loaded) -> Self {
        let mut seal = Self { reserved: loaded.reserved, ..Self::default() };
        for record in &loaded.records {
            seal.put(&record.key, record.revision);
        }
        seal
    }

    /// After a batch.
    pub(super) fn apply(&mut self, batch: &Batch) {
        for record in &batch.puts {
            self.put(&record.key, record.revision);
        }
        for key in &batch.deletes {
            self.remove(key);
        }
        self.reserved = batch.reserved.unwrap_or(self.reserved);
    }

    fn put(&mut self, key: &Arc<str>, revision: u64) {
        self.remove(key);
        self.sum = self.sum.wrapping_add(hash(key, revision));
        self.revisions.insert(Arc::clone(key), revision);
    }

    fn remove(&mut self, key: &Arc<str>) {
        if let Some(revision) = self.revisions.remove(key) {
            self.sum = self.sum.wrapping_sub(hash(key, revision));
        }
    }

    /// As it stands on disk.
    pub(super) fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&(self.revisions.len() as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sum.to_le_bytes());
        bytes[16..].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }
}

fn hash(key: &str, revision: u64) -> u64 {
    let digest = Sha256::new().chain_update(revision.to_le_bytes()).chain_update(key.as_bytes()).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

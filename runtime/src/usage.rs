//! How much of the disk a directory takes: what a container has written besides its image, the image store.

use std::{collections::HashSet, fs, iter::Sum, ops::Add, os::unix::fs::MetadataExt, path::Path};

use crate::client::{Runtime, blocking};

/// Disk space of a directory tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Usage {
    /// Of a file, or a directory with all that is in it.
    pub fn of(path: &Path) -> Usage {
        let mut usage = Usage::default();
        add(path, &mut usage, &mut HashSet::new());
        usage
    }
}

impl From<&fs::Metadata> for Usage {
    /// Of a file or directory alone.
    fn from(meta: &fs::Metadata) -> Usage {
        Usage { bytes: meta.blocks() * 512, inodes: 1 }
    }
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Usage {
        all.fold(Usage::default(), Add::add)
    }
}

impl Runtime {
    /// What lies in a container's writable layer; nothing where there is no such container.
    pub async fn written(&self, id: &str) -> Usage {
        let upper = self.layout().writable(id).join("upper");
        blocking(move || Usage::of(&upper)).await
    }
}

/// What vanishes meanwhile does not count.
fn add(path: &Path, usage: &mut Usage, linked: &mut HashSet<u64>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_file() && meta.nlink() > 1 && !linked.insert(meta.ino()) {
        return;
    }
    *usage = *usage + Usage::from(&meta);
    if meta.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| add(&entry.path(), usage, linked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_two_names_count_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 64 << 10]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::File::open(dir.path().join("a")).unwrap().sync_all().unwrap();
        let usage = Usage::of(dir.path());
        assert_eq!(usage.inodes, 2);
        assert!((64 << 10..128 << 10).contains(&usage.bytes), "{usage:?}");
    }
}

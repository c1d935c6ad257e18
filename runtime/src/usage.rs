//! How much a container has written besides its image.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use crate::client::{Runtime, blocking};

/// Disk space of a directory tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Runtime {
    /// What lies in a container's writable layer; nothing where there is no such container.
    pub async fn written(&self, id: &str) -> Usage {
        let upper = self.layout().writable(id).join("upper");
        blocking(move || {
            let mut usage = Usage::default();
            add(&upper, &mut usage, &mut HashSet::new());
            usage
        })
        .await
    }
}

/// What vanishes meanwhile does not count.
fn add(path: &Path, usage: &mut Usage, linked: &mut HashSet<u64>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_file() && meta.nlink() > 1 && !linked.insert(meta.ino()) {
        return;
    }
    usage.bytes += meta.blocks() * 512;
    usage.inodes += 1;
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
        let mut usage = Usage::default();
        add(dir.path(), &mut usage, &mut HashSet::new());
        assert_eq!(usage.inodes, 2);
        assert!((64 << 10..128 << 10).contains(&usage.bytes), "{usage:?}");
    }
}

//! Removes a directory tree of any depth and any content without following symlinks.
//!
//! A hostile layer can nest deeper than there are file descriptors or stack, so nothing recurses: subdirectories are
//! moved up to the top before the walk goes on.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags},
    io::Errno,
};

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a directory and all in it; it being gone already is fine, and so is somebody else removing it too.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match rustix::fs::open(path, FLAGS, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut moved = 0_u64;
    loop {
        for name in unlink_files(&top)? {
            empty(&top, &name, &mut moved)?;
        }
        match rustix::fs::rmdir(path) {
            Err(Errno::NOTEMPTY) => {}
            other => return Ok(gone(other)?),
        }
    }
}

/// Removes everything but directories from a directory; those are returned.
fn unlink_files(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name.to_owned()),
            other => gone(other)?,
        }
    }
    Ok(directories)
}

/// Moves the subdirectories of `top/name` up into `top`, then removes it.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => {}
        other => return gone(other),
    }
    let dir = match rustix::fs::openat(top, name, FLAGS, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for child in unlink_files(&dir)? {
        // Names that layers cannot have chosen on purpose may still collide: try the next number.
        loop {
            *moved += 1;
            let target = format!(".moved-{moved}");
            match rustix::fs::renameat_with(&dir, &child, top, target, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => break gone(other)?,
            }
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        // Filled again by somebody who removes too; the caller comes back.
        Err(Errno::NOTEMPTY) => Ok(()),
        other => gone(other),
    }
}

fn gone(outcome: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_wide_trees_go() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let outside = scratch.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let mut dir = rustix::fs::open(&top, FLAGS, Mode::empty()).unwrap();
        for depth in 0..3000 {
            rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o700)).unwrap();
            if depth % 100 == 0 {
                rustix::fs::mkdirat(&dir, ".moved-7", Mode::from_raw_mode(0o700)).unwrap();
                rustix::fs::symlinkat(scratch.path(), &dir, "out").unwrap();
            }
            dir = rustix::fs::openat(&dir, "d", FLAGS, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
        remove_tree(&top).unwrap();
    }
}

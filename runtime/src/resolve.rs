//! Paths from outside, resolved below a directory by `openat2`. Not for: making what is missing.

use std::path::Path;

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, Result},
};

/// Renames and mounts are rare enough for the kernel to get a word in between.
const TRIES: usize = 1000;

/// `openat2` that close on exec. No link of `/proc` leads anywhere, whatever else `resolve` says.
///
/// # Errors
/// As openat2(2). Only if a rename or a mount anywhere on the machine raced with each of many tries to follow a `..`,
/// after which the kernel asks for another one, `EAGAIN`.
pub fn open(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let (flags, resolve) = (flags | OFlags::CLOEXEC, resolve | ResolveFlags::NO_MAGICLINKS);
    for _ in 1..TRIES {
        match openat2(&root, path.as_ref(), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    openat2(&root, path.as_ref(), flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let root = std::fs::File::open(dir.path().join("a")).unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, "").unwrap();
        let (done, again) = (AtomicBool::new(false), &|| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let opened = openat2(&root, "b/../b/..", flags, Mode::empty(), ResolveFlags::IN_ROOT);
            opened.is_err_and(|error| error == Errno::AGAIN)
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &other).unwrap();
                    std::fs::rename(&other, &one).unwrap();
                }
            });
            let mut asked = 0;
            for _ in 0..200_000 {
                asked += usize::from(again());
                open(&root, "b/../b/..", OFlags::PATH, ResolveFlags::IN_ROOT).unwrap();
                if asked == 20 {
                    break;
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(asked > 0, "nothing raced");
        });
    }
}

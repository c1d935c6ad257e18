//! Network namespaces as the programs know them: by a cookie, which the kernel gives once.
//!
//! Not for: making any, or working in them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sweep::namespaces;
use crate::sys;

/// The cookie of an open network namespace.
///
/// # Errors
/// When it cannot be entered.
pub fn cookie(netns: File) -> io::Result<u64> {
    // A thread of its own: it cannot come back from where it went.
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        sys::netns_cookie()
    });
    thread?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// The cookie of a pod that some kubelet runs below this cgroup: that of the first of its processes which is in another
/// namespace than we are. None while there is no such process.
///
/// # Errors
/// When its namespace cannot be entered.
pub fn of_pod(cgroup: &Path, uid: &str) -> io::Result<Option<u64>> {
    let own = std::fs::metadata("/proc/self/ns/net")?.ino();
    // The name of a systemd slice has no dashes in it.
    let names = [uid.to_owned(), uid.replace('-', "_")];
    let Some(dir) = find(cgroup, &names) else { return Ok(None) };
    let is_other = |file: &File| file.metadata().is_ok_and(|about| about.ino() != own);
    namespaces::below(&dir)?.into_iter().find(is_other).map(cookie).transpose()
}

fn find(dir: &Path, names: &[String; 2]) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let below: Vec<PathBuf> = dirs.map(|entry| entry.path()).collect();
    let is_pod = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        names.iter().any(|uid| name.contains(uid))
    };
    below.iter().find(is_pod).cloned().or_else(|| below.iter().find_map(|path| find(path, names)))
}

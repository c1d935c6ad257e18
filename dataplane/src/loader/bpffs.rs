//! The file system that holds pins: mounted where none is.

use std::ffi::CStr;
use std::path::Path;
use std::{fs, io};

use rustix::fs::fstatfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The kernel's own files, which stand in every bpffs.
const KERNEL_FILES: [&str; 2] = ["maps.debug", "progs.debug"];

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Whether this directory lies on a bpffs.
pub(super) fn is_bpffs(dir: &Path) -> io::Result<bool> {
    is_of(&fs::File::open(dir)?, BPF_FS_MAGIC)
}

/// Whether this file lies on a file system of this kind.
pub(super) fn is_of(file: &fs::File, magic: u64) -> io::Result<bool> {
    Ok(u64::try_from(fstatfs(file)?.f_type).is_ok_and(|kind| kind & 0xffff_ffff == magic))
}

/// Makes `dir` a directory on a bpffs, mounting one on it if needed.
pub(super) fn ensure(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_bpffs(dir)? {
        return Ok(());
    }
    let mode: &CStr = c"mode=0700";
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("bpf", dir, "bpf", flags, mode)?)
}

/// Undoes [`ensure`]: unmounts an empty bpffs that is mounted at `dir` itself, or removes the empty directory on one.
pub(super) fn release(dir: &Path) -> io::Result<()> {
    let others = |entry: io::Result<fs::DirEntry>| {
        entry.map_or(true, |entry| !KERNEL_FILES.iter().any(|name| entry.file_name() == *name))
    };
    if !dir.exists() || !is_bpffs(dir)? || fs::read_dir(dir)?.any(others) {
        return Ok(());
    }
    // The system's own mount is not ours to take away.
    if dir == Path::new("/sys/fs/bpf") {
        return Ok(());
    }
    let parent_is_bpffs = dir.parent().is_some_and(|parent| is_bpffs(parent).unwrap_or(false));
    if parent_is_bpffs { fs::remove_dir(dir) } else { Ok(unmount(dir, UnmountFlags::empty())?) }
}

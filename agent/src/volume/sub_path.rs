//! `subPath`: a part of a volume, opened step by step so that no link inside it leads out, and mounted from the opened
//! descriptor so that no later swap of names matters.

use std::{fs, io, path::Path};

use orlop_runtime::resolve;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, mkdirat, statx},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};

/// Binds `<volume>/<sub_path>` to `target`; missing directories are made with the volume's mode.
pub(super) fn prepare(volume: &Path, sub_path: &str, target: &Path) -> io::Result<()> {
    let opened = open(volume, sub_path)?;
    detach(target)?;
    place(target, FileType::from_raw_mode(fstat(&opened)?.st_mode) == FileType::Directory)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(opened.as_fd(), "", flags)?;
    move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// The part of the volume, made if it is not there; never anything outside.
fn open(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let inside = ResolveFlags::BENEATH;
    match resolve::open(&root, sub_path, OFlags::PATH, inside) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let mode = Mode::from_raw_mode(fstat(&root)?.st_mode & 0o7777);
    let mut at = root;
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(Errno::XDEV.into());
        }
        let step = |at: &OwnedFd| resolve::open(at, part, OFlags::PATH, inside);
        at = match step(&at) {
            Err(Errno::NOENT) => {
                mkdirat(&at, part, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let made = resolve::open(&at, part, flags, inside | ResolveFlags::NO_SYMLINKS)?;
                // The umask has no say.
                rustix::fs::fchmod(&made, mode)?;
                made
            }
            result => result?,
        };
    }
    Ok(at)
}

/// What the mount goes onto.
fn place(target: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().append(true).create(true).open(target).map(drop)
}

/// Takes away what an earlier instance had mounted there.
pub(crate) fn detach(target: &Path) -> io::Result<()> {
    while is_mount_root(target)? {
        unmount(target, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mount_root(path: &Path) -> io::Result<bool> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(stat) => Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn missing_directories_get_the_volumes_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let opened = open(dir.path(), "made/deep").unwrap();
        let made = fs::metadata(dir.path().join("made/deep")).unwrap();
        assert_eq!(fstat(&opened).unwrap().st_ino, made.ino());
        assert_eq!(made.permissions().mode() & 0o7777, 0o777);
    }

    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("..", dir.path().join("up")).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        symlink("in", dir.path().join("link")).unwrap();
        for path in ["out", "out/passwd", "up/x", "../x", "new/../../x"] {
            open(dir.path(), path).unwrap_err();
        }
        open(dir.path(), "link").unwrap();
        open(dir.path(), "link/below").unwrap();
        assert!(dir.path().join("in/below").is_dir());
    }
}

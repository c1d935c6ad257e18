//! A container's root file system: an overlay over the image's layers, and safe looks into it.

use std::{
    fs::{self, File},
    io::{Error, ErrorKind, Read, Result},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
    },
};

use crate::{
    create::tree,
    resolve,
    spec::{
        plan::{Mount, Users, What},
        user::Accounts,
    },
};

/// More than any account file needs.
const MAX_ACCOUNTS: u64 = 4 << 20;
/// Where the kernel's own file systems go.
const KERNEL: [&str; 3] = ["proc", "sys", "dev"];

/// Mounts the layers (top first) at `target`, writable in `writable/upper`.
///
/// Volatile: nothing is written through for its own sake. Else unmounting would first sync the whole file system below,
/// other people's data too, for files that are deleted right after; a container does not outlive a crash of the machine.
///
/// For a pod with users of its own the layers are mapped to them on the way: on the disk they stay what they are for all.
pub(crate) fn mount_overlay(
    layers: &[PathBuf],
    writable: &Path,
    target: &Path,
    users: Option<&Users>,
) -> Result<()> {
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    for dir in [&upper, &work, target] {
        fs::create_dir_all(dir)?;
    }
    // An overlay without a lower directory is none: an empty image gets an empty one.
    let empty = writable.join("empty");
    let layers = if layers.is_empty() {
        fs::create_dir_all(&empty)?;
        std::slice::from_ref(&empty)
    } else {
        layers
    };
    if let Some(users) = users {
        std::os::unix::fs::chown(&upper, Some(users.ids.first), Some(users.ids.first))?;
    }
    mount_mapped(layers, Some((&upper, &work)), target, users)
}

/// Mounts layers (top first) with nothing above them, at `target`, or what is found at `sub_path` in them.
///
/// The rule for links is the one for a process that has the image for its root: they lead to nowhere else.
pub(crate) fn mount_image(
    layers: &[PathBuf],
    writable: &Path,
    target: &Path,
    sub_path: &str,
    users: Option<&Users>,
) -> Result<()> {
    let mut layers = layers.to_vec();
    // An overlay that nobody writes to wants two of them.
    for n in layers.len()..2 {
        let empty = writable.join(format!("none-{n}"));
        fs::create_dir_all(&empty)?;
        layers.push(empty);
    }
    if sub_path.is_empty() {
        fs::create_dir_all(target)?;
        return mount_mapped(&layers, None, target, users);
    }
    let whole = target.with_extension("whole");
    fs::create_dir_all(&whole)?;
    mount_mapped(&layers, None, &whole, users)?;
    let part = attach_part(&whole, sub_path, target);
    unmount_all(&whole).and(part)
}

fn attach_part(whole: &Path, sub_path: &str, target: &Path) -> Result<()> {
    let part = open_in(&open_root(whole)?, Path::new(sub_path), OFlags::PATH)?;
    match FileType::from_raw_mode(fstat(&part)?.st_mode) {
        FileType::Directory => fs::create_dir_all(target)?,
        _ => drop(File::create(target)?),
    }
    let place = rustix::fs::open(target, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    tree::attach(&tree::copy_of(&part, false)?, &place)
}

fn mount_mapped(
    layers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    target: &Path,
    users: Option<&Users>,
) -> Result<()> {
    let Some(users) = users else { return mount_layers(layers, writable, target) };
    let mapped = map_layers(layers, &target.with_extension("layers"), users)?;
    let mounted = mount_layers(&mapped, writable, target);
    // The overlay has mounts of its own of what it was made from.
    unmount_all(&target.with_extension("layers")).and(mounted)
}

/// Each layer by way of a mount that maps its owners, in a small file system at `dir`.
fn map_layers(layers: &[PathBuf], dir: &Path, users: &Users) -> Result<Vec<PathBuf>> {
    let namespace = rustix::fs::open(&users.namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::create_dir_all(dir)?;
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    tree::attach(&tree::new("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())?, &open(dir)?)?;
    let map = |(n, layer): (usize, &PathBuf)| {
        let place = dir.join(n.to_string());
        fs::create_dir(&place)?;
        let layer = tree::copy_alone(layer)?;
        tree::map_owners(&layer, &namespace)?;
        tree::restrict(&layer, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        tree::attach(&layer, &open(&place)?)?;
        Ok(place)
    };
    layers.iter().enumerate().map(map).collect()
}

/// `writable` are the directories that take what is written, and where that is prepared.
fn mount_layers(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    match with_new_api(layers, writable, target) {
        // `lowerdir+` is younger than the calls themselves (6.8).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with_old_api(layers, writable, target),
        other => other,
    }
}

fn with_new_api(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&overlay, "lowerdir+", layer)?;
    }
    if let Some((upper, work)) = writable {
        fsconfig_set_string(&overlay, "upperdir", upper)?;
        fsconfig_set_string(&overlay, "workdir", work)?;
        fsconfig_set_flag(&overlay, "volatile")?;
    }
    fsconfig_create(&overlay)?;
    let mounted = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn with_old_api(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    let text = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace(':', "\\:");
    let lower = layers.iter().map(|layer| text(layer)).collect::<Vec<_>>().join(":");
    let above =
        writable.map(|(upper, work)| format!(",upperdir={},workdir={},volatile", text(upper), text(work)));
    let options = format!("lowerdir={lower}{}", above.unwrap_or_default());
    let options = std::ffi::CString::new(options).map_err(Error::other)?;
    Ok(mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())?)
}

/// Takes away whatever is mounted at a path, as often as it is; fine if nothing is.
pub(crate) fn unmount_all(path: &Path) -> Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    Ok(resolve::open(root, path, flags, ResolveFlags::IN_ROOT)?)
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Account files of the image. Links are followed inside the root only; no file is no entries.
pub(crate) fn accounts(root: &Path) -> Result<Accounts> {
    let root = open_root(root)?;
    let read = |path: &str| -> Result<String> {
        let file = match open_in(&root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(String::new());
            }
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(MAX_ACCOUNTS).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Accounts { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
}

/// Makes a directory inside the root for `owner`, with all above it; links are followed inside the root only.
pub(crate) fn make_dir(root: &Path, path: &str, owner: u32) -> Result<()> {
    let root = open_root(root)?;
    let mut at = PathBuf::from("/");
    for part in Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = open_in(&root, &at, OFlags::PATH | OFlags::DIRECTORY)?;
        match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) => tree::give(parent.as_fd(), part.as_os_str(), owner)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at.push(part);
    }
    Ok(())
}

/// Makes the places where a container's mounts go, as far as they are in its own root file system.
///
/// The creator would make them too, and tells what is wrong with one. But what is written there is charged to who writes it:
/// pages of new directories would keep the memory cgroup of a container in the kernel long after its end, and thousands of
/// dead cgroups make every start on the machine slower. They are made for `owner`, root of the container.
pub(crate) fn make_places(root: &Path, mounts: &[Mount], owner: u32) {
    let Ok(root) = open_root(root) else { return };
    for name in KERNEL {
        drop(tree::plain_directory(root.as_fd(), name, owner));
    }
    for (n, mount) in mounts.iter().enumerate() {
        let at = Path::new(&mount.at);
        let under = |other: &Path| at.starts_with(other);
        let (What::Bind(source, _) | What::AsIs(source, _)) = &mount.what else { continue };
        if KERNEL.iter().any(|name| under(&Path::new("/").join(name)))
            || mounts[..n].iter().any(|before| under(Path::new(&before.at)))
        {
            continue;
        }
        drop(match source.is_dir() {
            true => tree::directory(root.as_fd(), at, owner),
            false => tree::file(root.as_fd(), at, owner),
        });
    }
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return true };
    let id =
        |path: &Path| rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, rustix::fs::StatxFlags::MNT_ID);
    matches!((id(path), id(parent)), (Ok(here), Ok(above)) if here.stx_mnt_id != above.stx_mnt_id)
}

//! What the container's first process does when the root is its own: mounts, masks, working directory.
//!
//! By descriptors, in the order of the plan: each place is looked up inside the root when the mounts before it are there.
//! An image or a volume may have links wherever it likes; they lead to nowhere outside, and through /proc to nowhere.

use std::{
    fs::File,
    io::{Error, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use orlop_shim::{
    process::{self, Failure},
    protocol::Window,
    records::ProcessSpec,
};
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, symlinkat},
    mount::{MountAttrFlags, UnmountFlags, unmount},
};

use super::{failed, outside::Outside, tree};
use crate::spec::plan::{Flag, Mount, Plan, What};

pub(super) fn furnish(plan: &Plan, outside: &Outside, process: &ProcessSpec) -> Result<(), Failure> {
    let open = || rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = open().map_err(failed("open the root"))?;
    let root = opened.as_fd();
    let null = null(root).map_err(failed("open /dev/null"))?;
    for (mount, source) in plan.mounts.iter().zip(&outside.sources) {
        let mounted = match (&mount.what, source) {
            (What::New(kind, parameters), made) => {
                new(root, mount, kind, parameters, made.as_ref().or(outside.proc.as_ref()))
            }
            (What::Cgroups, _) => cgroups(root, mount, plan, &outside.hierarchies),
            (What::Bind(_, propagation) | What::AsIs(_, propagation), Some(source)) => {
                bind(root, mount, source).and_then(|()| tree::propagate(source, *propagation))
            }
            (What::Bind(..) | What::AsIs(..), None) => Err(ErrorKind::NotFound.into()),
        };
        mounted.map_err(failed(format_args!("mount {}", mount.at)))?;
    }
    if plan.terminal {
        console(root, process).map_err(failed("open a terminal"))?;
    }
    if plan.shared_root {
        // Not before: what is mounted on it would be shared too.
        tree::share(&opened).map_err(failed("share the root file system's mount"))?;
    }
    if plan.read_only_root {
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
        tree::restrict(&opened, read_only).map_err(failed("make the root file system read-only"))?;
    }
    for path in &plan.read_only {
        read_only(root, Path::new(path)).map_err(failed(format_args!("make {path} read-only")))?;
    }
    let mut empty = None;
    for path in &plan.masked {
        mask(root, Path::new(path), &null, &mut empty).map_err(failed(format_args!("mask {path}")))?;
    }
    let cwd = &process.cwd;
    enter(root, cwd).map_err(failed(format_args!("change to {cwd}")))
}

/// Standard input has been the way to the shim: the terminal's master goes there, and the terminal takes its place. The
/// session is one of its own already.
fn console(root: BorrowedFd<'_>, process: &ProcessSpec) -> Result<(), Error> {
    let shim = std::io::stdin().as_fd().try_clone_to_owned()?;
    process::use_terminal(&shim, Window::default(), process)?;
    let terminal = std::io::stdin().as_fd().try_clone_to_owned()?;
    let place = tree::file(root, Path::new("/dev/console"), 0)?;
    tree::attach(&tree::copy_of(&terminal, false)?, &place)
}

/// libcontainer has just made it. Whatever it is copied over must not be something else.
fn null(root: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let null = tree::find(root, Path::new("/dev/null"), OFlags::NOFOLLOW)?;
    let meta = File::from(null.try_clone()?).metadata()?;
    if !meta.file_type().is_char_device() || meta.rdev() != rustix::fs::makedev(1, 3) {
        return Err(Error::new(ErrorKind::InvalidData, "not the device"));
    }
    Ok(null)
}

/// Kernel file systems belong at exactly their place: what follows (masks) relies on it.
///
/// In a user namespace `help` is what was made outside: the file system itself, or for /proc one to look at meanwhile.
fn new(
    root: BorrowedFd<'_>,
    mount: &Mount,
    kind: &str,
    parameters: &[(String, String)],
    help: Option<&OwnedFd>,
) -> Result<(), Error> {
    let place = || match kind {
        "proc" | "sysfs" => tree::plain_directory(root, mount.at.trim_start_matches('/'), 0),
        _ => tree::directory(root, Path::new(&mount.at), 0),
    };
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let make = || tree::new(kind, &parameters, tree::attributes(&mount.flags));
    match (kind, help) {
        ("sysfs", Some(made)) => tree::attach(made, &place()?),
        ("proc", Some(sight)) => {
            tree::attach(sight, &place()?)?;
            let made = make();
            unmount(mount.at.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            tree::attach(&made?, &place()?)
        }
        _ => tree::attach(&make()?, &place()?),
    }
}

fn bind(root: BorrowedFd<'_>, mount: &Mount, source: &OwnedFd) -> Result<(), Error> {
    let at = Path::new(&mount.at);
    if at == Path::new("/dev") {
        // Its own takes the place of the one that libcontainer needed.
        match unmount("/dev", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // In a user namespace what came from outside stays, below.
            Err(rustix::io::Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let is_dir = FileType::from_raw_mode(fstat(source)?.st_mode) == FileType::Directory;
    let place = if is_dir { tree::directory(root, at, 0)? } else { tree::file(root, at, 0)? };
    tree::restrict(source, tree::attributes(&mount.flags))?;
    if mount.flags.contains(&Flag::RecursiveReadOnly) {
        tree::make_read_only(source)?;
    }
    tree::attach(source, &place)
}

/// v2: the directory itself. v1: one beside the other, and for controllers that are mounted together a link each.
fn cgroups(root: BorrowedFd<'_>, mount: &Mount, plan: &Plan, dirs: &[OwnedFd]) -> Result<(), Error> {
    let (at, flags) = (Path::new(&mount.at), tree::attributes(&mount.flags));
    let place = tree::directory(root, at, 0)?;
    if let ([hierarchy], [dir]) = (&plan.hierarchies[..], dirs)
        && hierarchy.name.is_empty()
    {
        tree::restrict(dir, flags)?;
        return tree::attach(dir, &place);
    }
    let table = tree::new("tmpfs", &[("mode", "755")], flags - MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    tree::attach(&table, &place)?;
    for (hierarchy, dir) in plan.hierarchies.iter().zip(dirs) {
        let place = tree::directory(table.as_fd(), Path::new(&hierarchy.name), 0)?;
        tree::restrict(dir, flags)?;
        tree::attach(dir, &place)?;
        for name in hierarchy.name.split(',').filter(|name| *name != hierarchy.name) {
            symlinkat(&hierarchy.name, &table, name)?;
        }
    }
    tree::restrict(&table, flags)
}

fn read_only(root: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    let copy = tree::copy_of(&place, true)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    tree::restrict(&copy, flags)?;
    tree::attach(&copy, &place)
}

/// A file becomes /dev/null, a directory an empty one that nobody can fill: one for all.
fn mask(root: BorrowedFd<'_>, path: &Path, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> Result<(), Error> {
    let Some(place) = existing(root, path)? else { return Ok(()) };
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::Directory {
        return tree::attach(&tree::copy_of(null, false)?, &place);
    }
    let tree = match empty {
        Some(first) => tree::copy_of(first, false)?,
        None => tree::new("tmpfs", &[("ro", "")], MountAttrFlags::MOUNT_ATTR_RDONLY)?,
    };
    tree::attach(&tree, &place)?;
    *empty = Some(tree);
    Ok(())
}

fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Error> {
    match tree::find(root, path, OFlags::empty()) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

/// By descriptor: a working directory behind a link of /proc would lead out through what is open here.
fn enter(root: BorrowedFd<'_>, cwd: &str) -> Result<(), Error> {
    let dir = tree::find(root, Path::new(cwd), OFlags::DIRECTORY)?;
    rustix::process::fchdir(&dir)?;
    // The kernel says so of a directory that cannot be reached from the root.
    let here = rustix::process::getcwd(Vec::new())?;
    if here.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::other("it is outside of the container"))
    }
}

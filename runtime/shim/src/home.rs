//! Where the shim belongs: the namespaces it leaves for a moment, so that a child is born into those of a container.
//!
//! Not for: anything that needs a path meanwhile.

use std::{
    fs::File,
    io::{Error, Result},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::sys;

/// Made once, by a shim that is at home.
#[derive(Debug)]
pub(crate) struct Home {
    mounts: OwnedFd,
    pids: OwnedFd,
    root: OwnedFd,
    dir: OwnedFd,
    proc: OwnedFd,
    null: OwnedFd,
}

impl Home {
    /// From now on nobody in a container, however privileged, looks into this process or into a child of it.
    pub(crate) fn here() -> Result<Home> {
        sys::set_undumpable()?;
        let open = |path: &str| {
            let opened = File::open(path).map(OwnedFd::from);
            opened.map_err(|error| Error::new(error.kind(), format!("open {path}: {error}")))
        };
        Ok(Home {
            mounts: open("/proc/self/ns/mnt")?,
            pids: open("/proc/self/ns/pid")?,
            root: open("/")?,
            dir: open(".")?,
            proc: open("/proc")?,
            null: File::options().read(true).write(true).open("/dev/null")?.into(),
        })
    }

    /// The mount namespace of a process is ours then, and its pid namespace that of our children.
    pub(crate) fn leave_for(&self, process: &OwnedFd) -> Result<()> {
        sys::join_namespaces(process, libc::CLONE_NEWNS | libc::CLONE_NEWPID)
    }

    /// The way back.
    ///
    /// # Errors
    /// The kernel has no memory. This process is nowhere then.
    pub(crate) fn come_back(&self) -> Result<()> {
        sys::join_namespaces(&self.pids, libc::CLONE_NEWPID)?;
        sys::join_namespaces(&self.mounts, libc::CLONE_NEWNS)?;
        sys::use_root(self.root.as_fd(), self.dir.as_fd())
    }

    /// `/proc` with the processes as the shim knows them.
    pub(crate) fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// `/dev/null`, both ways.
    pub(crate) fn null(&self) -> &OwnedFd {
        &self.null
    }
}

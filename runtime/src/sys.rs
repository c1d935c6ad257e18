//! The few system calls of this crate that need unsafe code.

#![expect(unsafe_code, reason = "kernel calls without a safe wrapper; each says why it holds")]

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    mount::{MountAttrFlags, MountPropagationFlags},
    thread::UnshareFlags,
};

/// Takes over a descriptor that the parent process left open for us. It will close on exec.
pub(crate) fn inherited(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: no pointers; fails if there is no such descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: it is open (just checked) and, by the contract with the parent, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Move this thread into new namespaces. Only for threads that end soon after.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    // SAFETY: none of the flags used here (net, ipc, uts, mnt) takes memory or descriptors away from other threads.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Error::from)
}

/// Set `lo` up in the network namespace of this thread.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(Error::other)?;
    // SAFETY: the request is ours and of the type this ioctl reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// End at once, without destructors: for processes whose memory libcontainer has cloned.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

/// Loads a program that decides over devices and attaches it to a cgroup2 directory, for as long as that exists.
pub(crate) fn attach_device_program(cgroup: &OwnedFd, program: &[[u8; 8]]) -> Result<()> {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest for zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
    }
    /// The same for BPF_PROG_ATTACH.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let fd = |fd: RawFd| u32::try_from(fd).map_err(Error::other);
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the struct is ours, of the size given, and points at instructions that live until after the call.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let Some(loaded) = RawFd::try_from(loaded).ok().filter(|fd| *fd >= 0) else {
        return Err(Error::last_os_error());
    };
    // SAFETY: just made by the kernel for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = Attach {
        target: fd(cgroup.as_raw_fd())?,
        program: fd(loaded.as_raw_fd())?,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the struct is ours and of the size given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// `struct mount_attr`: set, clear, propagation, user namespace.
#[repr(C)]
struct MountAttr([u64; 4]);

fn set_attributes(mount: &OwnedFd, attr: &MountAttr, recursive: bool) -> Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let (fd, attr, size) = (mount.as_raw_fd(), std::ptr::from_ref(attr), size_of::<MountAttr>());
    // SAFETY: an empty C string, and a struct of ours of the size given.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attr, size) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Maps the owners of files on a detached mount as a user namespace does: id 0 on the disk is its root.
pub(crate) fn map_owners(mount: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(Error::other)?;
    set_attributes(mount, &MountAttr([IDMAP, 0, 0, namespace]), recursive)
}

/// Adds flags to a mount that a descriptor is open on, or changes how it propagates; also to all below it if asked for.
pub(crate) fn mount_setattr(
    mount: &OwnedFd,
    set: MountAttrFlags,
    propagation: MountPropagationFlags,
    recursive: bool,
) -> Result<()> {
    // Access times are not a bit but a choice: a new one takes the place of the old.
    let times = MountAttrFlags::MOUNT_ATTR__ATIME;
    let clear = if set.intersects(times) { times.bits() } else { 0 };
    let attr = MountAttr([u64::from(set.bits()), u64::from(clear), u64::from(propagation.bits()), 0]);
    set_attributes(mount, &attr, recursive)
}

/// A descriptor that tokio tells about. It has to be non-blocking.
pub(crate) fn watched(fd: OwnedFd) -> Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and it is dropped with the registration.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}

/// How the process of a pidfd ended, as `waitpid` would say it, whoever reaped it; `None` until somebody has.
///
/// # Errors
/// The kernel is older than 6.15, or has nothing to tell.
pub(crate) fn exit_status(process: &OwnedFd) -> Result<Option<i32>> {
    const EXIT: u64 = 1 << 3;
    /// `struct pidfd_info` in its first form.
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_status: i32,
    }
    const _: () = assert!(size_of::<Info>() == 64);
    const GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Info>(0xFF, 11);
    let mut info = Info { mask: EXIT, cgroup: 0, ids: [0; 11], exit_status: 0 };
    // SAFETY: the struct is ours, and its size is part of the request.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok((info.mask & EXIT != 0).then_some(info.exit_status))
}

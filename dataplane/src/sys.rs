//! Raw `bpf(2)`: the few commands on links and maps that aya does not offer; one socket option, and a clock. The only unsafe code of this crate.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub(crate) mod batch;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Attributes of a command: plain integers, laid out as the kernel reads them, every byte initialised.
///
/// # Safety
/// `repr(C)`, no padding, and any address inside points to memory that the command may read or write.
unsafe trait Attr {}

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}
// SAFETY: `pathname` is a NUL-terminated string that outlives the call (`obj_get`).
unsafe impl Attr for ObjGet {}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}
// SAFETY: no addresses.
unsafe impl Attr for LinkUpdate {}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}
// SAFETY: no addresses.
unsafe impl Attr for LinkDetach {}

#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}
// SAFETY: `info` points to `info_len` writable bytes that outlive the call (`link_info`).
unsafe impl Attr for GetInfo {}

/// The start of `struct bpf_link_info`, as far as it concerns links at cgroups and devices.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    reserved: u32,
    /// A cgroup's id, or the index of a device and the attach type.
    place: u64,
    attach_type: u32,
    tail: u32,
}

/// What a link says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    place: u64,
}

impl LinkInfo {
    /// Of a cgroup link: the inode number of the cgroup's directory; 0 once the cgroup is gone.
    pub(crate) fn cgroup(&self) -> u64 {
        self.place
    }

    /// Of a link at a device: its interface index; 0 once the device is gone.
    pub(crate) fn device(&self) -> u32 {
        let [a, b, c, d, ..] = self.place.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// Opens a pinned object.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet { pathname: path.as_ptr().expose_provenance() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program under a link, at once and without a gap.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkUpdate { link_fd: number(link)?, new_prog_fd: number(program)?, flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// Takes a link out of force, whoever still holds it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &LinkDetach { link_fd: number(link)? }).map(drop)
}

/// Where a link is attached.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let len = u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?;
    let attr =
        GetInfo { bpf_fd: number(link)?, info_len: len, info: (&raw mut info).expose_provenance() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(LinkInfo { place: info.place })
}

/// The programs' clock: seconds since the machine started, without those it slept.
pub(crate) fn monotonic() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer. The call cannot fail with this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    std::time::Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// The same in whole seconds.
pub(crate) fn monotonic_seconds() -> i64 {
    i64::try_from(monotonic().as_secs()).unwrap_or(i64::MAX)
}

/// What the kernel calls this process's network namespace in programs.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the option writes at most `len` bytes, and `cookie` has as many.
    let result = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// As [`bpf`], for commands that also answer in their attributes.
fn bpf_answering<T: Attr>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: as in `bpf`; what the kernel writes into `attr` are integers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf<T: Attr>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is `size` readable bytes laid out for the command, and what it points to holds (`Attr`).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

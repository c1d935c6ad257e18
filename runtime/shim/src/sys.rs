//! The system calls std has no safe words for, each wrapped once. The only unsafe code besides `process`.

use std::{
    ffi::CString,
    io::{Error, ErrorKind, Result},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// −1 becomes the error in errno.
pub fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> Result<RawFd> {
    check(RawFd::try_from(result).unwrap_or(-1))
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller has just got this descriptor from the kernel and gives it to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// For paths and arguments of the kernel. A NUL inside is an error of the caller's input.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(ErrorKind::InvalidInput, "NUL in a string"))
}

/// Both ends close on exec: the read end, the write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: two ints, as the call wants.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// Reads never wait again.
pub fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

/// `None` when nothing is there now; 0 at the end.
pub fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    // SAFETY: the buffer is ours and that long.
    let got = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    match usize::try_from(got) {
        Ok(got) => Ok(Some(got)),
        Err(_) => match Error::last_os_error() {
            error if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            error => Err(error),
        },
    }
}

/// The same from a socket, with the descriptors that came along (they close on exec). More than eight at once are lost.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>> {
    let mut control = [0_u64; 8];
    let mut io = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid header without address, buffers and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut io;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: no pointers, arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(8 * FD) } as _;
    // SAFETY: the header points at buffers of ours with their true lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(got) = usize::try_from(got) else {
        return match Error::last_os_error() {
            error if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            error => Err(error),
        };
    };
    // SAFETY: the kernel has filled the header and says how much of the control data is valid.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: either null or a header inside the control data.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data of a header that the kernel wrote.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            // SAFETY: no pointers, arithmetic only.
            let head = u64::from(unsafe { libc::CMSG_LEN(0) });
            let mut left = (header.cmsg_len as u64).saturating_sub(head);
            let mut at = data;
            while left >= FD.into() {
                // SAFETY: within the length that the kernel wrote; need not be aligned.
                fds.push(own(unsafe { at.read_unaligned() }));
                at = at.wrapping_add(1);
                left -= u64::from(FD);
            }
        }
        // SAFETY: the same header and message as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(Some(got))
}

/// Sends one byte, and a descriptor with it.
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    let mut byte = [0_u8];
    let mut control = [0_u64; 8];
    let mut io = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: no pointers, arithmetic only.
    let space = unsafe { libc::CMSG_SPACE(FD) };
    // SAFETY: no pointers, arithmetic only.
    let length = unsafe { libc::CMSG_LEN(FD) };
    // SAFETY: all zero is a valid header without address, buffers and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut io;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    // SAFETY: the message points at control data with room for a header.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: there is room for one header and one descriptor, so this is null or a header of ours.
    let Some(header) = (unsafe { first.as_mut() }) else { return Err(ErrorKind::InvalidInput.into()) };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    header.cmsg_len = length as _;
    // SAFETY: a header with room for a descriptor behind it.
    let data = unsafe { libc::CMSG_DATA(first) }.cast::<RawFd>();
    // SAFETY: the data of that header; it need not be aligned.
    unsafe { data.write_unaligned(fd.as_raw_fd()) };
    // SAFETY: the header points at buffers of ours with their true lengths.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Bytes of one descriptor.
const FD: u32 = 4;

/// Writes what fits now. `None` when nothing does.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<Option<usize>> {
    // SAFETY: the buffer is ours and that long.
    let put = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    match usize::try_from(put) {
        Ok(put) => Ok(Some(put)),
        Err(_) => match Error::last_os_error() {
            error if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            error => Err(error),
        },
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the pid of the new.
    Parent(u32),
}

/// Only for single-threaded programs: the child may then go on as it likes.
pub fn fork() -> Result<Fork> {
    // SAFETY: this program has one thread, so no lock can be held by another one.
    let pid = check(unsafe { libc::fork() })?;
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map_or(Fork::Child, Fork::Parent))
}

/// The same, with the child born in a cgroup2 directory. Moving a process there later makes the kernel wait for every CPU
/// (some ten milliseconds); being born there costs nothing. Kernels before 5.7 refuse.
pub fn fork_into(cgroup: BorrowedFd<'_>) -> Result<Fork> {
    /// `struct clone_args`: flags, three pointers, exit signal, stack and size, tls, set_tid and size, cgroup.
    #[repr(C)]
    struct Args([u64; 11]);
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let number = |number: i32| u64::try_from(number).map_err(|_| Error::from(ErrorKind::InvalidInput));
    let exit_signal = number(libc::SIGCHLD)?;
    let args = Args([INTO_CGROUP, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, number(cgroup.as_raw_fd())?]);
    // SAFETY: without CLONE_VM this is a fork, and this program has one thread, so no lock can be held by another one.
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<Args>()) })?;
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map_or(Fork::Child, Fork::Parent))
}

/// Runs another program in place of this one, with the default answer to signals and no environment.
pub fn exec(program: &CString, args: &[CString]) -> Error {
    // SAFETY: all zero is a valid (empty) set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours, the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
    // SAFETY: the default needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp = [std::ptr::null()];
    // SAFETY: null-terminated arrays of C strings that live until after the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Error::last_os_error()
}

/// Ends a forked child without running what belongs to its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

/// One ended child, if there is one: pid and status.
pub fn reap() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| (pid, status))
}

/// Send a signal; a process that is gone already is no error.
pub fn kill(pid: u32, signal: i32) -> Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or(Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: no pointers.
    match check(unsafe { libc::kill(pid, signal) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Blocks SIGCHLD and SIGTERM and gives a descriptor that becomes readable instead ([`terminated`]); ignores what else would
/// end a keeper.
pub fn signals() -> Result<OwnedFd> {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT] {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: all zero is a valid (empty) set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in [libc::SIGCHLD, libc::SIGTERM] {
        // SAFETY: the set is ours.
        check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    }
    // SAFETY: the set is ours, the old one is not wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: the set is ours.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd).map(own)
}

/// Whether SIGTERM is among the `struct signalfd_siginfo` that were read from [`signals`].
#[must_use]
pub fn terminated(read: &[u8]) -> bool {
    let term = u32::try_from(libc::SIGTERM).unwrap_or_default().to_ne_bytes();
    // The number of the signal comes first.
    read.chunks_exact(size_of::<libc::signalfd_siginfo>()).any(|info| info.starts_with(&term))
}

/// A new session; orphans of our children become ours.
pub fn become_keeper() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() })?;
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Takes the lock of a file, for as long as the descriptor is open anywhere. False if another process has it.
pub fn try_lock(file: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: no pointers.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        other => other.map(|_| true),
    }
}

/// A new session for a forked child.
pub fn setsid() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Make `to` a copy of `from`, open over exec.
pub fn dup_to(from: BorrowedFd<'_>, to: RawFd) -> Result<()> {
    if from.as_raw_fd() == to {
        return keep_over_exec(to);
    }
    // SAFETY: no pointers.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Undo close-on-exec.
pub fn keep_over_exec(fd: RawFd) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// A descriptor for our child.
pub fn pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(own)
}

/// Join these namespaces of a process.
pub fn join_namespaces(process: &OwnedFd, flags: libc::c_int) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(process.as_raw_fd(), flags) }).map(drop)
}

/// Root and working directory, after the mount namespace was changed.
pub fn use_root(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchdir(root.as_raw_fd()) })?;
    // SAFETY: a C string.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }).map(drop)
}

/// Write to a file of the kernel's below a directory.
pub fn write_at(dir: BorrowedFd<'_>, path: &str, bytes: &[u8]) -> Result<()> {
    let path = c_string(path)?;
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a C string that lives until after the call.
    let fd = check(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags) })?;
    std::io::Write::write_all(&mut std::fs::File::from(own(fd)), bytes)
}

/// Soft and hard value of a resource limit of this process.
pub fn rlimit(resource: u32) -> Result<[u64; 2]> {
    let mut now = [0_u64; 2];
    let none = std::ptr::null::<u64>();
    // SAFETY: two numbers of 64 bits, as `struct rlimit64`.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, now.as_mut_ptr()) };
    check_long(result).map(|_| now)
}

/// Sets both.
pub fn set_rlimit(resource: u32, values: [u64; 2]) -> Result<()> {
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: two numbers of 64 bits, as `struct rlimit64`.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, values.as_ptr(), none) };
    check_long(result).map(drop)
}

/// Closes everything but the standard streams: what whoever started this process had open by mistake.
pub fn close_others() -> Result<()> {
    // SAFETY: called before this process has opened anything.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }).map(drop)
}

/// Nothing but the standard streams goes on to the next program. Kernels before 5.11 refuse.
pub fn keep_none_over_exec() -> Result<()> {
    const CLOEXEC: u32 = 1 << 2;
    // SAFETY: no pointers; what is open stays open here.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOEXEC) }).map(drop)
}

/// What this process is called in lists.
pub fn set_name(name: &CString) -> Result<()> {
    // SAFETY: a C string; the kernel takes sixteen bytes at most.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// Move this process into new namespaces.
pub fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: no pointers; this program has one thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// After joining a user namespace: its root, instead of an id of the host that is nobody's there.
pub fn become_root() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setresgid(0, 0, 0) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresuid(0, 0, 0) }).map(drop)
}

/// Makes an empty file system that nobody can write to the root of this mount namespace, and takes all others away.
pub fn use_empty_root() -> Result<()> {
    // A place that is there for everybody; it goes with the rest.
    let dir = c"/proc";
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: a C string; what is not needed is null.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (kind, options) = (c"tmpfs".as_ptr(), c"mode=0555,size=4k,nr_inodes=2".as_ptr());
    // SAFETY: C strings.
    check(unsafe { libc::mount(kind, dir.as_ptr(), kind, flags, options.cast()) })?;
    // SAFETY: C strings.
    check(unsafe { libc::chdir(dir.as_ptr()) })?;
    let here = c".".as_ptr();
    // SAFETY: C strings. The old root is mounted over the new one, and the first to be taken away again.
    if unsafe { libc::syscall(libc::SYS_pivot_root, here, here) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a C string.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    // SAFETY: a C string.
    check(unsafe { libc::chdir(c"/".as_ptr()) }).map(drop)
}

/// Children that end leave nothing to be collected.
pub fn let_children_go() -> Result<()> {
    // SAFETY: ignoring needs no handler.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// No ptrace and no look into /proc by others while we are half way into a container.
pub fn set_undumpable() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// File mode creation mask.
pub fn umask(mask: libc::mode_t) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) };
}

/// A pipe, a socket or a terminal: something that was made for one process, unlike `/dev/null`.
pub fn is_stream(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: all zero is a valid struct to be filled in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours.
    if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } != 0 {
        return false;
    }
    // SAFETY: no pointers.
    let terminal = || unsafe { libc::isatty(fd.as_raw_fd()) } == 1;
    matches!(stat.st_mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFSOCK) || terminal()
}

/// The user of a descriptor's file; for those whose file can be given away at all.
pub fn give_to(fd: BorrowedFd<'_>, uid: libc::uid_t) -> Result<()> {
    // SAFETY: no pointers; a group of -1 stays as it is.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, libc::gid_t::MAX) }).map(drop)
}

/// Whether this is the multiplexer of a devpts mount: what a container put in its place is not.
fn is_ptmx(fd: &OwnedFd) -> Result<bool> {
    const MULTIPLEXER: (u32, u32) = (5, 2);
    const DEVPTS: i128 = 0x1cd1;
    // SAFETY: all zero is a valid struct to be filled in.
    let (mut stat, mut fs): (libc::stat, libc::statfs) = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    // SAFETY: the struct is ours.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut fs) })?;
    let device = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFCHR && device == MULTIPLEXER && fs.f_type as i128 == DEVPTS)
}

/// A new terminal of the devpts instance at `/dev/pts`: master and slave. For processes that are inside a container.
pub fn open_terminal() -> Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // SAFETY: a C string.
    let master = check(unsafe { libc::open(c"/dev/pts/ptmx".as_ptr(), flags) }).map(own)?;
    if !is_ptmx(&master)? {
        return Err(Error::new(ErrorKind::InvalidData, "/dev/pts/ptmx is not a terminal multiplexer"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: no pointers; by descriptor, so that nothing in the container's /dev is trusted.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as _, flags) }).map(own)?;
    Ok((master, slave))
}

/// `_IO('T', 0x41)`: opens the other side of a terminal. Linux 4.13.
const TIOCGPTPEER: u32 = 0x5441;

/// Size of a terminal, by either side.
pub fn set_window(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct is ours.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) }).map(drop)
}

/// Makes a terminal that of this session.
pub fn control_terminal(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// An event counter.
pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(own)
}

/// Waits for any of these, or the time. An interrupt counts as nothing ready.
pub fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) -> Result<()> {
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(libc::nfds_t::MAX);
    // SAFETY: the slice is ours and that long.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), count, timeout_ms) }) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|fd| fd.revents = 0);
            Ok(())
        }
        other => other.map(drop),
    }
}

fn clock(id: libc::clockid_t) -> (u64, u64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is ours.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    let (secs, nanos) = clock(libc::CLOCK_REALTIME);
    secs * 1_000_000_000 + nanos
}

/// Milliseconds of a clock that never jumps.
pub fn monotonic_ms() -> u64 {
    let (secs, nanos) = clock(libc::CLOCK_MONOTONIC);
    secs * 1000 + nanos / 1_000_000
}

/// Whether a file is one of the kernel's /proc.
pub(crate) fn is_proc(file: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: all zero is a valid value of this struct of numbers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the struct is ours.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) })?;
    Ok(u32::try_from(found.f_type).is_ok_and(|kind| kind == 0x9fa0))
}

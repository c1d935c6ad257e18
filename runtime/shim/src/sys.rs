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

/// Blocks SIGCHLD and gives a descriptor that becomes readable instead; ignores what would end a keeper.
pub fn child_signals() -> Result<OwnedFd> {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: all zero is a valid (empty) set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    check(unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) })?;
    // SAFETY: the set is ours, the old one is not wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: the set is ours.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd).map(own)
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

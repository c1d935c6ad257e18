//! The last steps of a process that is inside its container already: user, capabilities, filter, exec.
//!
//! Both the creator (first process) and the shim (exec) end here, so both give the same guarantees. Not for:
//! joining or making namespaces.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{Error, ErrorKind, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use crate::{
    protocol::{Step, Window},
    records::{ProcessSpec, candidates},
    sys::{self, c_string, check},
};

/// Which step failed, and why, in words for the operator.
#[derive(Debug)]
pub struct Failure {
    /// Which kind of step.
    pub step: Step,
    /// Why.
    pub text: String,
}

/// A step's error with its name.
fn at(step: Step, what: &str) -> impl FnOnce(Error) -> Failure + '_ {
    move |error| Failure { step, text: format!("{what}: {error}") }
}

/// Finds the program by the container's PATH, with the rights of this process. The words are runc's.
pub fn find_program(spec: &ProcessSpec) -> Result<String, Failure> {
    let program = spec.args.first().map_or("", String::as_str);
    let mut denied = None;
    for path in candidates(program, spec.var("PATH").unwrap_or_default()) {
        match runnable(&path) {
            Ok(()) => return Ok(path),
            Err(error) if missing(&error) => {}
            Err(error) => denied = denied.or(Some(error)),
        }
    }
    let (step, why) = match denied {
        Some(error) if error.kind() == ErrorKind::PermissionDenied => {
            (Step::NotExecutable, "permission denied".to_owned())
        }
        Some(error) => (Step::NotExecutable, error.to_string()),
        None if program.contains('/') => {
            (Step::NotFound, format!("stat {program}: no such file or directory"))
        }
        None => (Step::NotFound, "executable file not found in $PATH".to_owned()),
    };
    Err(Failure { step, text: format!("exec: \"{program}\": {why}") })
}

fn missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn runnable(path: &str) -> Result<(), Error> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(Error::other("is a directory"));
    }
    if meta.mode() & 0o111 == 0 {
        return Err(Error::from(ErrorKind::PermissionDenied));
    }
    let path = c_string(path)?;
    // SAFETY: a C string that lives until after the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }).map(drop)
}

/// Makes these the standard streams.
pub fn use_files(files: [&OwnedFd; 3]) -> Result<(), Error> {
    (0..).zip(files).try_for_each(|(to, file)| sys::dup_to(file.as_fd(), to))
}

/// Makes a terminal of the container the standard streams and the session's, and sends its master to `console`.
pub fn use_terminal(console: &OwnedFd, window: Window, spec: &ProcessSpec) -> Result<(), Error> {
    let (master, slave) = sys::open_terminal()?;
    sys::set_window(slave.as_fd(), window.rows, window.columns)?;
    sys::control_terminal(slave.as_fd())?;
    sys::send_fd(console.as_fd(), master.as_fd())?;
    own(slave.as_fd(), spec.uid);
    use_files([&slave; 3])
}

/// A program that opens `/dev/stdout` opens the pipe or terminal anew, by the rights of its user: without this only root
/// could. `uid` is that user as this process has to call it: pipes are the host's, so they are given away before a user
/// namespace is joined. What nobody can own (`/dev/null` of the host is nobody's to give) stays as it is.
pub fn own(stream: BorrowedFd<'_>, uid: u32) {
    if sys::is_stream(stream) {
        drop(sys::give_to(stream, uid));
    }
}

/// The standard streams of this process.
pub fn own_streams(uid: u32) {
    [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
        .into_iter()
        .for_each(|stream| own(stream, uid));
}

/// Groups, group and user of the spec; permitted and effective capabilities stay for the next step.
pub fn assume_user(spec: &ProcessSpec) -> Result<(), Failure> {
    let (uid, gid) = (spec.uid, spec.gid);
    // SAFETY: the list is ours and that long.
    check(unsafe { libc::setgroups(spec.groups.len(), spec.groups.as_ptr()) })
        .map_err(at(Step::Start, "set supplementary groups"))?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresgid(gid, gid, gid) }).map_err(at(Step::Start, "set group"))?;
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })
        .map_err(at(Step::Start, "keep capabilities"))?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map_err(at(Step::Start, "set user"))?;
    raise_capabilities().map_err(at(Step::Start, "raise capabilities"))
}

/// The change of user took the effective set away; what is permitted comes back into effect.
fn raise_capabilities() -> Result<(), Error> {
    let header = HEADER;
    let mut data = [0_u32; 6];
    // SAFETY: header and data have the layout of version 3.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if result != 0 {
        return Err(Error::last_os_error());
    }
    let [_, low, _, _, high, _] = data;
    set_capabilities(u64::from(high) << 32 | u64::from(low))
}

/// _LINUX_CAPABILITY_VERSION_3, and 0 for this process.
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// Ends in the program, or tells what failed. `filter` is compiled BPF, empty for none.
///
/// Wants CAP_SYS_ADMIN and CAP_SETPCAP in effect; the wanted set is what stays.
pub fn run(spec: &ProcessSpec, program: &str, filter: &[u8]) -> Failure {
    match prepare(spec, filter) {
        Ok(()) => exec(spec, program),
        Err(failure) => failure,
    }
}

fn prepare(spec: &ProcessSpec, filter: &[u8]) -> Result<(), Failure> {
    reset_signals();
    limit(&spec.rlimits).map_err(at(Step::Start, "set resource limits"))?;
    confine(&spec.apparmor)
        .map_err(at(Step::Start, &format!("apply the AppArmor profile {:?}", spec.apparmor)))?;
    drop_bounding(spec.capabilities).map_err(at(Step::Start, "drop capabilities"))?;
    let wanted = if spec.uid == 0 { spec.capabilities } else { 0 };
    if spec.no_new_privs {
        // SAFETY: no pointers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
            .map_err(at(Step::Start, "set no_new_privs"))?;
        set_capabilities(wanted).map_err(at(Step::Start, "set capabilities"))?;
        load_filter(filter).map_err(at(Step::Start, "load the system call filter"))
    } else {
        // Without no_new_privs the load needs CAP_SYS_ADMIN, so the filter has to allow capset and execve.
        load_filter(filter).map_err(at(Step::Start, "load the system call filter"))?;
        set_capabilities(wanted).map_err(at(Step::Start, "set capabilities"))
    }
}

/// From the exec on. Kernels without several security modules at once have only the second file.
fn confine(profile: &str) -> Result<(), Error> {
    if profile.is_empty() {
        return Ok(());
    }
    let open = |path: &str| File::options().write(true).open(path);
    let mut file = open("/proc/self/attr/apparmor/exec").or_else(|_| open("/proc/self/attr/exec"))?;
    // A volume may have been mounted there: what is written to it would confine nobody.
    if !sys::is_proc(file.as_fd())? {
        return Err(Error::other("/proc is not the kernel's"));
    }
    file.write_all(exec_word(profile).as_bytes())
}

fn exec_word(profile: &str) -> String {
    format!("exec {profile}")
}

/// Rust's std ignores SIGPIPE, and shims ignore more: a program expects the defaults and an empty mask. By the kernel's
/// own call: C libraries refuse to touch the two signals they keep to themselves, which a parent may have left ignored.
fn reset_signals() {
    // Handler, flags, restorer, mask: all zero is the default.
    let default = [0_u64; 4];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let (new, old) = (default.as_ptr(), std::ptr::null::<u64>());
        // SAFETY: the kernel reads its struct of four words; the old one is not wanted.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8) };
    }
    // SAFETY: all zero is a valid (empty) set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours, the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
}

/// A hard limit that we may not raise stays as it is.
fn limit(limits: &[(u32, u64, u64)]) -> Result<(), Error> {
    for &(resource, soft, hard) in limits {
        match sys::set_rlimit(resource, [soft, hard]) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let [_, hard] = sys::rlimit(resource)?;
                sys::set_rlimit(resource, [soft.min(hard), hard])?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// No capability, no group, no user but this, and no way back.
pub fn give_everything_up(user: u32) -> Result<(), Error> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    drop_bounding(0)?;
    // SAFETY: an empty list.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresgid(user, user, user) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::setresuid(user, user, user) })?;
    set_capabilities(0)
}

fn drop_bounding(keep: u64) -> Result<(), Error> {
    for capability in (0..64_u32).filter(|bit| keep & (1 << bit) == 0) {
        // SAFETY: no pointers.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            // Not known to this kernel: the end of the list.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 31 => break,
            other => drop(other?),
        }
    }
    Ok(())
}

/// Effective and permitted; nothing is inheritable.
fn set_capabilities(wanted: u64) -> Result<(), Error> {
    let [low, high] = halves(wanted);
    let header = HEADER;
    let data = [low, low, 0, high, high, 0];
    // SAFETY: header and data have the layout of version 3: two sets of effective, permitted, inheritable.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn halves(bits: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn load_filter(filter: &[u8]) -> Result<(), Error> {
    if filter.is_empty() {
        return Ok(());
    }
    let read = |chunk: &[u8]| libc::sock_filter {
        code: u16::from_ne_bytes([chunk[0], chunk[1]]),
        jt: chunk[2],
        jf: chunk[3],
        k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
    };
    let mut program: Vec<libc::sock_filter> = filter.chunks_exact(8).map(read).collect();
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the program points at `len` instructions that live until after the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn exec(spec: &ProcessSpec, program: &str) -> Failure {
    // All of ours close by themselves; a descriptor of the host in a container is worth a second look.
    drop(sys::keep_none_over_exec());
    let strings = |list: &[String]| list.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>();
    let prepared = (|| Ok::<_, Error>((c_string(program)?, strings(&spec.args)?, strings(&spec.env)?)))();
    let (path, args, env) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return at(Step::NotExecutable, &format!("exec: \"{program}\""))(error),
    };
    let pointers = |list: &[CString]| {
        list.iter().map(|text| CStr::as_ptr(text)).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: null-terminated arrays of C strings that live until after the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let error = Error::last_os_error();
    let why = match error.raw_os_error() {
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Failure { step: Step::NotExecutable, text: format!("exec: \"{program}\": {why}") }
}

//! Starts the creator of one container: pipes, fork, exec. What it tells comes through the status pipe.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Result, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use crate::{
    protocol::Step,
    report,
    sys::{self, Fork},
};

/// Pipes of a container whose creator has just been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) creator: u32,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) status: OwnedFd,
}

/// `<creator> create <bundle> <id> <status fd>`, with nothing of our environment; born in `cgroup` where that can be.
pub(crate) fn start(
    creator: &str,
    bundle: &str,
    id: &str,
    stdin: bool,
    cgroup: Option<&str>,
) -> Result<Started> {
    let (stdout, stdout_end) = sys::pipe()?;
    let (stderr, stderr_end) = sys::pipe()?;
    let (status, status_end) = sys::pipe()?;
    let (stdin_end, stdin) = match stdin.then(sys::pipe).transpose()? {
        Some((read, write)) => (read, Some(write)),
        None => (File::open("/dev/null")?.into(), None),
    };
    [&stdout, &stderr, &status].into_iter().chain(&stdin).try_for_each(sys::set_nonblocking)?;
    let words = [creator, "create", bundle, id, &status_end.as_raw_fd().to_string()];
    let args: Vec<CString> = words.into_iter().map(sys::c_string).collect::<Result<_>>()?;
    let into = cgroup.and_then(|dir| fs::create_dir_all(dir).and_then(|()| File::open(dir)).ok());
    let forked = match into.and_then(|dir| sys::fork_into(dir.as_fd()).ok()) {
        Some(forked) => forked,
        None => sys::fork()?,
    };
    if let Fork::Parent(creator) = forked {
        return Ok(Started { creator, stdout, stderr, stdin, status });
    }
    let ready = || -> Result<()> {
        sys::dup_to(stdin_end.as_fd(), 0)?;
        sys::dup_to(stdout_end.as_fd(), 1)?;
        sys::dup_to(stderr_end.as_fd(), 2)?;
        sys::keep_over_exec(status_end.as_raw_fd())?;
        std::env::set_current_dir("/")
    };
    let error = ready().err().unwrap_or_else(|| sys::exec(&args[0], &args));
    let line = report::error_line(Step::Shim, &format!("start {creator}: {error}"));
    drop(File::from(status_end).write_all(line.as_bytes()));
    sys::exit_now(127)
}

/// The CRI log file, appended to; its directory is made.
pub(crate) fn open_log(path: &str) -> Result<File> {
    if let Some(dir) = Path::new(path).parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

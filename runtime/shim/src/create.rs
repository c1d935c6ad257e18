//! Starts the creator of one container: pipes, fork, exec. What it tells comes through the status pipe.
//!
//! A terminal belongs to the container's own devpts, so it is made in there; its master comes back through the creator's
//! standard input, a socket.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Result, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
};

use crate::{
    protocol::{Stdio, Step},
    report,
    sys::{self, Fork},
};

/// Pipes of a container whose creator has just been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) creator: u32,
    /// stdout and stderr.
    pub(crate) output: [Option<OwnedFd>; 2],
    pub(crate) stdin: Option<OwnedFd>,
    /// Brings the master of the container's terminal, if it gets one.
    pub(crate) console: Option<OwnedFd>,
    pub(crate) status: OwnedFd,
}

/// `<creator> create <bundle> <id> <status fd>`, with nothing of our environment; born in `cgroup` where that can be.
pub(crate) fn start(
    creator: &str,
    bundle: &str,
    id: &str,
    stdio: Stdio,
    cgroup: Option<&str>,
) -> Result<Started> {
    let (status, status_end) = sys::pipe()?;
    let Ends { near: Near { output, stdin, console }, far } = ends(stdio)?;
    let ours = output.iter().flatten().chain(&stdin).chain(&console).chain([&status]);
    ours.into_iter().try_for_each(sys::set_nonblocking)?;
    let words = [creator, "create", bundle, id, &status_end.as_raw_fd().to_string()];
    let args: Vec<CString> = words.into_iter().map(sys::c_string).collect::<Result<_>>()?;
    let into = cgroup.and_then(|dir| fs::create_dir_all(dir).and_then(|()| File::open(dir)).ok());
    let forked = match into.and_then(|dir| sys::fork_into(dir.as_fd()).ok()) {
        Some(forked) => forked,
        None => sys::fork()?,
    };
    if let Fork::Parent(creator) = forked {
        return Ok(Started { creator, output, stdin, console, status });
    }
    let ready = || -> Result<()> {
        (0..).zip(&far).try_for_each(|(to, end)| sys::dup_to(end.as_fd(), to))?;
        sys::keep_over_exec(status_end.as_raw_fd())?;
        std::env::set_current_dir("/")
    };
    let error = ready().err().unwrap_or_else(|| sys::exec(&args[0], &args));
    let line = report::error_line(Step::Shim, &format!("start {creator}: {error}"));
    drop(File::from(status_end).write_all(line.as_bytes()));
    sys::exit_now(127)
}

/// Both ends of a container's standard streams.
struct Ends {
    near: Near,
    far: [OwnedFd; 3],
}

struct Near {
    output: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    console: Option<OwnedFd>,
}

fn ends(stdio: Stdio) -> Result<Ends> {
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    if stdio.terminal {
        let (console, far) = UnixStream::pair()?;
        let near = Near { output: [None, None], stdin: None, console: Some(console.into()) };
        return Ok(Ends { near, far: [far.into(), null()?, null()?] });
    }
    let (stdout, stdout_end) = sys::pipe()?;
    let (stderr, stderr_end) = sys::pipe()?;
    let (stdin_end, stdin) = match stdio.stdin.then(sys::pipe).transpose()? {
        Some((read, write)) => (read, Some(write)),
        None => (null()?, None),
    };
    let near = Near { output: [Some(stdout), Some(stderr)], stdin, console: None };
    Ok(Ends { near, far: [stdin_end, stdout_end, stderr_end] })
}

/// The CRI log file, appended to; its directory is made.
pub(crate) fn open_log(path: &str) -> Result<File> {
    if let Some(dir) = Path::new(path).parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

//! The first process of a pod whose containers see each other's processes: it holds their process namespace, reaps what
//! they leave behind, and ends with its shim; the kernel ends them all with it.
//!
//! ```text
//!  shim ── fork ─▶ A: namespaces of the pod ── fork ─▶ B: exec ─▶ orlop-init: empty root, no rights, waits
//!   └── write end of a pipe, never written to ───────────────────▶ read end: its end is ours
//! ```
//! Containers look at it as they look at each other, so it has nothing: no file system, no capability, no user, no name of
//! the host. Not for: pods whose containers are each a first process of their own.

use std::{
    fs::{self, File},
    io::{Error, Read, Result, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::{
    process,
    records::{PidRecord, start_ticks},
    report,
    sys::{self, Fork},
};

/// What it is called, and how the program knows that it is to be it.
pub const NAME: &str = "orlop-init";
/// Nobody's.
const USER: u32 = 65_535;

/// A first process, as its shim holds it.
#[derive(Debug)]
pub struct Init {
    /// As the host counts.
    pub pid: u32,
    /// It lives as long as this.
    pub life: OwnedFd,
}

/// Starts it. The working directory is the pod's.
///
/// # Errors
/// A step of the kernel's, named.
pub fn start() -> Result<Init> {
    let (life_end, life) = sys::pipe()?;
    let (told, tell) = sys::pipe()?;
    if let Fork::Child = sys::fork()? {
        let mut tell = File::from(tell);
        let error = match enter() {
            Ok(Fork::Parent(pid)) => {
                drop(tell.write_all(report::pid_line(pid).as_bytes()));
                sys::exit_now(0)
            }
            Ok(Fork::Child) => become_init(&life_end, tell.as_fd()),
            Err(error) => error,
        };
        drop(tell.write_all(error.to_string().as_bytes()));
        sys::exit_now(1)
    }
    drop((tell, life_end));
    let mut text = Vec::new();
    File::from(told).read_to_end(&mut text)?;
    match report::pid(&text).filter(|pid| text == report::pid_line(*pid).as_bytes()) {
        Some(pid) => record(pid).map(|()| Init { pid, life }),
        None => Err(Error::other(format!("first process: {}", String::from_utf8_lossy(&text)))),
    }
}

/// For those who start containers: which process's namespace it is.
fn record(pid: u32) -> Result<()> {
    let ticks = start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).unwrap_or(0);
    fs::write("init.tmp", PidRecord { pid, ticks, started: sys::now_ns() }.to_text())?;
    fs::rename("init.tmp", "init")
}

fn enter() -> Result<Fork> {
    for name in ["user", "net", "ipc", "uts"] {
        // A pod that uses the host's has none.
        if let Ok(namespace) = File::open(format!("ns/{name}")) {
            sys::join_namespaces(&namespace.into(), 0).map_err(at("join a namespace"))?;
            if name == "user" {
                // Before the others: they belong to it.
                sys::become_root().map_err(at("become root of the pod"))?;
            }
        }
    }
    sys::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP).map_err(at("unshare"))?;
    sys::fork().map_err(at("fork"))
}

/// A process of its own name, with nothing of the shim's memory.
fn become_init(life: &OwnedFd, tell: BorrowedFd<'_>) -> Error {
    let ready = || -> Result<_> {
        // Copies first: the places may be taken by these very descriptors.
        let (life, tell) = (life.try_clone()?, tell.try_clone_to_owned()?);
        sys::dup_to(life.as_fd(), LIFE)?;
        sys::dup_to(tell.as_fd(), TELL)?;
        Ok((sys::c_string("/proc/self/exe")?, sys::c_string(NAME)?))
    };
    match ready() {
        Ok((program, name)) => at("exec")(sys::exec(&program, &[name])),
        Err(error) => error,
    }
}

/// Standard input: ends with the shim.
const LIFE: i32 = 0;
/// Standard output: takes the error, and is closed when there is none.
const TELL: i32 = 1;

fn at(step: &str) -> impl FnOnce(Error) -> Error + '_ {
    move |error| Error::new(error.kind(), format!("{step}: {error}"))
}

/// What the program does when it is called by [`NAME`].
///
/// # Errors
/// It could not lay down what it has. The shim was told.
pub fn run() -> Result<()> {
    if let Err(error) = lay_down() {
        drop(writeln!(std::io::stdout(), "{error}"));
        return Err(error);
    }
    let life = std::io::stdin();
    // The shim waits for the end of this one.
    sys::dup_to(life.as_fd(), TELL)?;
    sys::dup_to(life.as_fd(), TELL + 1)?;
    let mut byte = [0];
    while let Err(error) = life.lock().read(&mut byte) {
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

fn lay_down() -> Result<()> {
    sys::set_undumpable().map_err(at("set dumpable"))?;
    sys::set_name(&sys::c_string(NAME)?).map_err(at("set name"))?;
    sys::setsid().map_err(at("new session"))?;
    sys::use_empty_root().map_err(at("empty root"))?;
    sys::let_children_go().map_err(at("ignore SIGCHLD"))?;
    process::give_everything_up(USER).map_err(at("give up rights"))
}

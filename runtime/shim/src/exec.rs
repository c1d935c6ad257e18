//! Runs a command inside a running container.
//!
//! ```text
//!  shim ── setns: file systems, pids of children ── fork ──▶ command: cgroups, other namespaces, user, filter, exec
//!   └ setns: back home                                        └ the shim's own child
//! ```
//! What can see the command from its first moment on, the container, cannot look into it or trace it: it has no other
//! file systems than its own, and is not dumpable. It has a cgroup of its own below the container's, for the case that
//! it has to be killed with all its children. Its streams are those of whoever asked: descriptors that the shim hands on
//! and closes. No byte of them passes here.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Error, Write},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use crate::{
    cgroup::{Dirs, Door, Nest},
    home::Home,
    process::{self, Failure},
    protocol::{Step, Window},
    records::ProcessSpec,
    report,
    sys::{self, Fork},
};

/// A command that runs, or is about to.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) output: Option<OwnedFd>,
    pub(crate) status: Option<OwnedFd>,
    pub(crate) told: Vec<u8>,
    pub(crate) kept: Vec<u8>,
    pub(crate) max_output: usize,
    pub(crate) deadline: Option<u64>,
    pub(crate) timed_out: bool,
    pub(crate) pid: u32,
    pub(crate) exit: Option<i32>,
    /// `None`: no hierarchy will do, sessions and parents have to tell who belongs to it.
    pub(crate) nest: Option<Nest>,
    pub(crate) client: u64,
    pub(crate) number: u32,
}

/// Where the command's streams go.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// Input, output, errors; what is missing is `/dev/null`.
    Files([Option<OwnedFd>; 3]),
    /// A terminal of the container, made on the way; its master is sent to this socket.
    Terminal(OwnedFd, Window),
}

/// What the child needs; all of it is read before the container is entered.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: ProcessSpec,
    /// The unified cgroup's directory: it is born there.
    pub(crate) birthplace: Option<OwnedFd>,
    pub(crate) init: OwnedFd,
    pub(crate) entry: Entry,
}

/// What was found out about a container when it was entered, and is the same for the next command. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its first process.
    pub(crate) pid: u32,
    /// The container has a user namespace of its own; its root is this user of the host.
    pub(crate) root: Option<u32>,
    /// File of the compiled filter, and its content.
    pub(crate) filter: (String, Rc<[u8]>),
    /// Cgroups but the unified one.
    pub(crate) doors: Vec<Rc<Door>>,
}

impl Entry {
    /// `last` is that of the command before.
    pub(crate) fn find(pid: u32, seccomp: &str, dirs: &Dirs, last: Option<&Entry>) -> Result<Entry, Error> {
        let last = last.filter(|last| last.pid == pid);
        let root = last.map_or_else(|| root_of(pid), |last| Ok(last.root))?;
        let filter = match last.map(|last| &last.filter).filter(|(path, _)| path == seccomp) {
            Some((_, bytes)) => Rc::clone(bytes),
            None if seccomp.is_empty() => Rc::default(),
            None => fs::read(seccomp)?.into(),
        };
        let doors = Door::open(dirs, last.map_or(&[], |last| &last.doors))?;
        Ok(Entry { pid, root, filter: (seccomp.to_owned(), filter), doors })
    }
}

/// Beside those that it is born into.
const NAMESPACES: i32 = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// The user that is root in the user namespace of a process; `None` if that is our own.
fn root_of(pid: u32) -> Result<Option<u32>, Error> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user"));
    if namespace(&pid.to_string())? == namespace("self")? {
        return Ok(None);
    }
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let mut words = map.split_ascii_whitespace();
    let root = words.next().filter(|inside| *inside == "0").and_then(|_| words.next()?.parse().ok());
    root.map(Some).ok_or_else(|| Error::other("the container's user namespace has no root"))
}

/// Forks; gives the child and the read end of its status.
pub(crate) fn start(plan: &Plan, home: &Home, stdio: &Stdio) -> Result<(u32, OwnedFd), Error> {
    let (status, status_end) = sys::pipe()?;
    sys::set_nonblocking(&status)?;
    home.leave_for(&plan.init)
        .map_err(|error| Error::new(error.kind(), format!("join namespaces: {error}")))?;
    let born_there = plan.birthplace.as_ref().and_then(|dir| sys::fork_into(dir.as_fd()).ok());
    let is_born_there = born_there.is_some();
    let forked = born_there.map_or_else(sys::fork, Ok);
    if let Ok(Fork::Child) = forked {
        let failure = match enter(plan, home, stdio, is_born_there) {
            Ok(()) => inside(plan, stdio, home.null()),
            Err(failure) => failure,
        };
        drop(File::from(status_end).write_all(report::error_line(failure.step, &failure.text).as_bytes()));
        sys::exit_now(255)
    }
    if home.come_back().is_err() {
        // With a container's file systems nothing that a shim does would be what it means. Its end is noticed.
        sys::exit_now(1)
    }
    match forked? {
        Fork::Parent(child) => Ok((child, status)),
        Fork::Child => Err(Error::other("a child that goes on as its parent")),
    }
}

/// `cgroup.procs` makes its writer wait for a grace period of the kernel. A single thread may move itself through v1's
/// `tasks`, which does not. All paths lead into the container already.
fn enter(plan: &Plan, home: &Home, stdio: &Stdio, is_born_there: bool) -> Result<(), Failure> {
    let at =
        |what: String| move |error: Error| Failure { step: Step::Create, text: format!("{what}: {error}") };
    for door in &plan.entry.doors {
        door.enter().map_err(at(format!("join cgroup {}", door.dir)))?;
    }
    if let Some(dir) = plan.birthplace.as_ref().filter(|_| !is_born_there) {
        sys::write_at(dir.as_fd(), "cgroup.procs", b"0").map_err(at("join the cgroup".to_owned()))?;
    }
    if let Some(score) = plan.spec.oom_score_adj {
        let score = score.to_string();
        sys::write_at(home.proc(), "self/oom_score_adj", score.as_bytes())
            .map_err(at("set oom_score_adj".to_owned()))?;
    }
    if let Stdio::Files(files) = stdio {
        let uid = plan.entry.root.unwrap_or(0).saturating_add(plan.spec.uid);
        files.iter().flatten().for_each(|file| process::own(file.as_fd(), uid));
    }
    let user = if plan.entry.root.is_some() { libc::CLONE_NEWUSER } else { 0 };
    sys::join_namespaces(&plan.init, NAMESPACES | user).map_err(at("join namespaces".to_owned()))?;
    if plan.entry.root.is_some() {
        sys::become_root().map_err(at("become root of the user namespace".to_owned()))?;
    }
    // Programs look for their limits where /proc/self/cgroup says: at the root they find the container's, the mounts
    // are the same. Without it they only see a directory more.
    drop(sys::unshare(libc::CLONE_NEWCGROUP));
    Ok(())
}

fn inside(plan: &Plan, stdio: &Stdio, null: &OwnedFd) -> Failure {
    let ready = || -> Result<(), Error> {
        sys::setsid()?;
        match stdio {
            Stdio::Files(files) => {
                process::use_files(files.each_ref().map(|file| file.as_ref().unwrap_or(null)))?;
            }
            Stdio::Terminal(console, window) => process::use_terminal(console, *window, &plan.spec)?,
        }
        sys::umask(0o022);
        std::env::set_current_dir(&plan.spec.cwd)
    };
    if let Err(error) = ready() {
        return Failure { step: Step::Create, text: format!("prepare the process: {error}") };
    }
    let program = match process::assume_user(&plan.spec).and_then(|()| process::find_program(&plan.spec)) {
        Ok(program) => program,
        Err(failure) => return failure,
    };
    process::run(&plan.spec, &program, &plan.entry.filter.1)
}

impl Running {
    /// KILL to the command and to all that came of it.
    pub(crate) fn kill(&self) {
        match &self.nest {
            Some(nest) => {
                // It may be on its way in.
                if self.exit.is_none() {
                    drop(sys::kill(self.pid, libc::SIGKILL));
                }
                nest.kill();
            }
            None => kill_tree(self.pid),
        }
    }
}

/// KILL to a command, its descendants and everything of its session.
fn kill_tree(pid: u32) {
    let mut doomed = BTreeSet::from([pid]);
    let all: Vec<(u32, u32, u32)> = processes().collect();
    loop {
        let before = doomed.len();
        let follow = |(_, parent, session): &&(u32, u32, u32)| *session == pid || doomed.contains(parent);
        let more: Vec<u32> = all.iter().filter(follow).map(|(id, ..)| *id).collect();
        doomed.extend(more);
        if doomed.len() == before {
            break;
        }
    }
    doomed.into_iter().for_each(|pid| drop(sys::kill(pid, libc::SIGKILL)));
}

/// Pid, parent and session of everything.
fn processes() -> impl Iterator<Item = (u32, u32, u32)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        Some((pid, parent, fields.nth(1)?.parse().ok()?))
    })
}

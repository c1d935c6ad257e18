//! The creator: a process of one thread that builds one container and ends. The only user of libcontainer.
//!
//! ```text
//!  shim ── fork + exec ──▶ orlop create <bundle> <id> <status fd>
//!                            │ build(): clones with CLONE_PARENT, so the container is the shim's child
//!                            │ start(): the container goes on to `Steps::exec`
//!                            └ pid into the status pipe; the pipe closes when the program runs
//! ```
//!
//! libcontainer changes what belongs to the whole process (oom_score_adj, dumpable, working directory), leaks on
//! errors, and allocates between clone and exec, which deadlocks where there are threads. All of that is harmless
//! in a process like this one, and nowhere else. Not for: anything that runs longer.

use std::{
    collections::HashMap,
    error::Error,
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
};

use libcontainer::{
    container::builder::ContainerBuilder,
    error::LibcontainerError,
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use orlop_shim::{
    process::{self, Failure},
    protocol::Step,
    records::ProcessSpec,
    report,
};

use crate::{bundle, devices, enter, sys, view};

/// `args` are those after `create`. Must be called before the process has a second thread.
pub fn create_main(args: &[String]) -> ! {
    let [bundle, id, status] = args else { sys::exit_now(2) };
    let Some(status) = status.parse().ok().and_then(|fd| sys::inherited(fd).ok()) else { sys::exit_now(2) };
    let status = Status(Rc::new(status));
    match create(Path::new(bundle), id, &status) {
        Ok(pid) => {
            status.tell(&report::pid_line(pid));
            sys::exit_now(0)
        }
        Err(failure) => {
            status.fail(&failure);
            sys::exit_now(1)
        }
    }
}

/// The shim's end of the story.
#[derive(Clone)]
struct Status(Rc<OwnedFd>);

impl Status {
    fn tell(&self, line: &str) {
        // A shim that is gone cannot be told.
        rustix::io::write(self.0.as_fd(), line.as_bytes()).ok();
    }
    fn fail(&self, failure: &Failure) {
        self.tell(&report::error_line(failure.step, &failure.text));
    }
}

fn failed(what: &str, error: &dyn Error) -> Failure {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    Failure { step: Step::Create, text }
}

fn create(dir: &Path, id: &str, status: &Status) -> Result<u32, Failure> {
    let bytes = fs::read(dir.join(bundle::PROCESS)).map_err(|error| failed("read the process", &error))?;
    let spec = ProcessSpec::from_bytes(&bytes).map_err(|error| failed("read the process", &error))?;
    let filter = match spec.seccomp.as_str() {
        "" => Vec::new(),
        path => fs::read(path).map_err(|error| failed("read the system call filter", &error))?,
    };
    let narrowed = narrow(dir).map_err(|error| failed("leave the mounts of other pods", &error))?;
    let cgroups = fs::read_to_string(dir.join(bundle::CGROUPS));
    let cgroups = cgroups.map_err(|error| failed("read the cgroups", &error))?;
    join_unified(dir, &cgroups).map_err(|error| failed("prepare the cgroup2 directory", &error))?;
    if narrowed {
        enter::join_v1(&cgroups);
    }
    let state = dir.join(bundle::STATE);
    fs::create_dir_all(&state).map_err(|error| failed("make the state directory", &error))?;
    let steps = Steps { spec, filter, status: status.clone() };
    let pid = build(dir.to_owned(), id, &state, steps).map_err(|error| failed("create container", &error))?;
    pid.ok_or_else(|| Failure { step: Step::Create, text: "libcontainer told no pid".to_owned() })
}

/// Without the list (a volume wants its mounts to reach the host) everything stays in sight. Whether this process now
/// has mounts of its own.
fn narrow(dir: &Path) -> std::io::Result<bool> {
    let mounts = match fs::read_to_string(dir.join(bundle::MOUNTS)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut lines = mounts.lines();
    let Some(pods) = lines.next().map(Path::new) else { return Ok(false) };
    view::narrow(pods, &lines.collect::<Vec<_>>()).map(|()| true)
}

/// On a hybrid machine libcontainer knows only v1; programs attached to cgroup2 must see the container too. There, v1
/// decides over devices, and a kernel that cannot do it by program is fine.
fn join_unified(dir: &Path, cgroups: &str) -> std::io::Result<()> {
    let Some(unified) = cgroups.lines().find_map(|line| line.strip_prefix("unified ")) else { return Ok(()) };
    let hybrid = cgroups.lines().any(|line| !line.starts_with("unified "));
    fs::create_dir_all(unified)?;
    if dir.join(bundle::DEVICES).exists() {
        let cgroup = File::open(unified)?.into();
        match sys::attach_device_program(&cgroup, &devices::program()) {
            Err(error) if !hybrid => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    // The shim has started us there, unless the kernel is too old for that.
    if hybrid && !enter::is_in(unified)? {
        File::options().write(true).open(format!("{unified}/cgroup.procs"))?.write_all(b"0")?;
    }
    Ok(())
}

fn build(dir: PathBuf, id: &str, state: &Path, steps: Steps) -> Result<Option<u32>, LibcontainerError> {
    let mut container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)?
        .with_executor(steps)
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    container.start()?;
    Ok(container.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok()))
}

/// What runs last, inside the container.
#[derive(Clone)]
struct Steps {
    spec: ProcessSpec,
    filter: Vec<u8>,
    status: Status,
}

impl Executor for Steps {
    /// The last point where an error still reaches `build`: look for the program here, by the container's PATH.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        process::find_program(&self.spec).map(drop).map_err(|failure| {
            self.status.fail(&failure);
            ExecutorValidationError::ArgValidationError(failure.text)
        })
    }

    /// The environment is handed to `execve` whole; this process keeps none.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failure = match process::find_program(&self.spec) {
            Ok(program) => process::run(&self.spec, &program, &self.filter),
            Err(failure) => failure,
        };
        self.status.fail(&failure);
        Err(ExecutorError::Other(failure.text))
    }
}

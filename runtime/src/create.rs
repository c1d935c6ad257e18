//! The creator: a process of one thread that builds one container and ends. The only user of libcontainer.
//!
//! ```text
//!  shim ── fork + exec ──▶ orlop create <bundle> <id> <status fd>
//!                            │ cgroups: limits, then this process goes in; all that follows is born there
//!                            │ outside: namespaces of the pod, sources of mounts, a small world for libcontainer
//!                            │ build(): clones with CLONE_PARENT, so the container is the shim's child
//!                            │    └─ pid and mount namespace, /dev, pivot_root, then our `Steps`:
//!                            │         word to itself to go on ── inside: mounts, masks ── user ── filter, exec
//!                            └ pid into the status pipe; the pipe closes when the program runs
//! ```
//!
//! libcontainer changes what belongs to the whole process (oom_score_adj, dumpable, working directory), leaks on
//! errors, and allocates between clone and exec, which deadlocks where there are threads. All of that is harmless
//! in a process like this one, and nowhere else. It is asked for the little that has to be done between its clones:
//! what it does with cgroups and mounts takes ten times as long as the kernel needs (docs/performance.md).
//! Not for: anything that runs longer.

mod cgroups;
mod config;
mod inside;
mod outside;
pub(crate) mod tree;

use std::{
    collections::HashMap,
    error::Error,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
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

use self::outside::Outside;
use crate::{bundle, spec::plan::Plan, sys};

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

/// For `map_err`: what could not be done, with the whole chain of causes.
fn failed<E: Error>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |error| {
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
}

fn create(dir: &Path, id: &str, status: &Status) -> Result<u32, Failure> {
    let bytes = fs::read(dir.join(bundle::PROCESS)).map_err(failed("read the process"))?;
    let spec = ProcessSpec::from_bytes(&bytes).map_err(failed("read the process"))?;
    let filter = match spec.seccomp.as_str() {
        "" => Vec::new(),
        path => fs::read(path).map_err(failed("read the system call filter"))?,
    };
    let plan = fs::read(dir.join(bundle::PLAN)).map_err(failed("read the plan"))?;
    let plan: Plan = serde_json::from_slice(&plan).map_err(failed("read the plan"))?;
    if !plan.terminal {
        process::own_streams(plan.root().saturating_add(spec.uid));
    }
    let cgroups = fs::read_to_string(dir.join(bundle::CGROUPS)).map_err(failed("read the cgroups"))?;
    let cgroups = cgroups::enter(&cgroups, &plan)?;
    let outside = outside::prepare(&plan, &spec, &cgroups, id)?;
    let bundle = outside.bundle();
    let steps =
        Steps { spec, filter, plan: Rc::new(plan), outside: Rc::new(outside), status: status.clone() };
    let pid = build(&bundle, id, steps).map_err(failed("create container"))?;
    pid.ok_or_else(|| Failure { step: Step::Create, text: "libcontainer told no pid".to_owned() })
}

/// No `start()`: the container has told itself to go on.
fn build(dir: &Path, id: &str, steps: Steps) -> Result<Option<u32>, LibcontainerError> {
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(outside::state(dir))?
        .with_executor(steps)
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    Ok(container.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok()))
}

/// What runs last, inside the container.
#[derive(Clone)]
struct Steps {
    spec: ProcessSpec,
    filter: Vec<u8>,
    plan: Rc<Plan>,
    outside: Rc<Outside>,
    status: Status,
}

impl Steps {
    fn ready(&self) -> Result<(), Failure> {
        self.outside.go_on().map_err(failed("tell libcontainer to go on"))?;
        inside::furnish(&self.plan, &self.outside, &self.spec)?;
        process::assume_user(&self.spec)?;
        process::find_program(&self.spec).map(drop)
    }
}

impl Executor for Steps {
    /// The last point where an error still reaches `build`: everything that may fail is done here.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.ready().map_err(|failure| {
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

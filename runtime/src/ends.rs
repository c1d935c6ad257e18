//! Ends of containers whose shim is gone, as the kernel tells them.
//!
//! A descriptor is held of the first process of each running container. From Linux 6.15 on it says how the process
//! ended, whoever reaped it, as long as it was open at that moment. Not for: ends that a shim wrote down, which are
//! the truth where they are there.

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use orlop_shim::records::{PidRecord, start_ticks};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open},
};

use crate::sys;

/// How long all that was killed together may take to be gone and reaped.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at one that has ended and is not reaped yet.
const PAUSE: Duration = Duration::from_millis(1);

/// Descriptors of processes by container id.
#[derive(Debug, Default)]
pub(crate) struct Ends(Mutex<HashMap<String, OwnedFd>>);

impl Ends {
    fn held(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an eye on a container's process, if it is still there and still that one.
    pub(crate) fn hold(&self, id: &str, process: &PidRecord) {
        if self.held().contains_key(id) {
            return;
        }
        match open(process) {
            // Others need descriptors more.
            Ok(Some(fd)) if i64::from(fd.as_raw_fd()) >= room() => {}
            Ok(Some(fd)) => drop(self.held().insert(id.to_owned(), fd)),
            Ok(None) => {}
            // Without it the end of the container is only told by its shim.
            Err(error) => tracing::warn!(id, %error, "hold the process of a container"),
        }
    }

    /// Its end is known, or nobody's business any more.
    pub(crate) fn forget(&self, id: &str) {
        drop(self.held().remove(id));
    }

    /// How processes that were held ended, as `waitpid` would say it. Those that were killed just now are waited for, all
    /// together not for long. `None` where the kernel does not tell.
    pub(crate) fn take<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Vec<(&'a str, Option<i32>)> {
        let until = Instant::now() + PATIENCE;
        let taken: Vec<_> = ids.map(|id| (id, self.held().remove(id))).collect();
        taken.into_iter().map(|(id, fd)| (id, fd.and_then(|fd| status(&fd, until)))).collect()
    }
}

/// Half of what this process may open: the kernel gives the lowest numbers that are free.
fn room() -> i64 {
    getrlimit(Resource::Nofile).current.map_or(i64::MAX, |limit| i64::try_from(limit / 2).unwrap_or(i64::MAX))
}

/// `None` if the process is gone. Its descriptor is bound to one process; the start time says whether it is ours.
pub(crate) fn open(&PidRecord { pid: number, ticks, .. }: &PidRecord) -> std::io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        other => other?,
    };
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    Ok(Some(fd).filter(|_| start_ticks(&stat) == Some(ticks)))
}

fn status(fd: &OwnedFd, until: Instant) -> Option<i32> {
    let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()?;
    retry_on_intr(|| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)))
        .ok()
        .filter(|ended| *ended > 0)?;
    // Poll tells the end; what it was is there as soon as somebody has reaped it.
    loop {
        match sys::exit_status(fd) {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => return None,
        }
    }
}

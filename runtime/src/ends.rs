//! Ends of containers whose shim is gone, as the kernel tells them.
//!
//! A descriptor is held of the first process of each running container. How it ended, `/proc` says until it is reaped:
//! the machine's init may take seconds. From Linux 6.15 on the descriptor says it afterwards, whoever reaped it, as long
//! as it was open at that moment. Not for: ends that a shim wrote down, which are the truth where they are there.

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

/// How long all that was killed together may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Processes by container id, each with a descriptor of it.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    held: Mutex<HashMap<String, (OwnedFd, PidRecord)>>,
    writing: Mutex<()>,
}

impl Ends {
    fn held(&self) -> MutexGuard<'_, HashMap<String, (OwnedFd, PidRecord)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held from the question which ends are not written until they are: two that bury a pod at once would write two,
    /// and only one of them was told by the kernel.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an eye on a container's process, if it is still there and still that one.
    pub(crate) fn hold(&self, id: &str, process: &PidRecord) {
        if self.held().contains_key(id) {
            return;
        }
        match open(process) {
            // Others need descriptors more.
            Ok(Some(fd)) if i64::from(fd.as_raw_fd()) >= room() => {}
            Ok(Some(fd)) => drop(self.held().insert(id.to_owned(), (fd, process.clone()))),
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
        let status = |(fd, process)| status(&fd, &process, until);
        taken.into_iter().map(|(id, held)| (id, held.and_then(status))).collect()
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

fn status(fd: &OwnedFd, process: &PidRecord, until: Instant) -> Option<i32> {
    let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()?;
    retry_on_intr(|| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)))
        .ok()
        .filter(|ended| *ended > 0)?;
    // The descriptor knows as soon as somebody has reaped it: which may happen between the two questions.
    let stat = || fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok();
    let reaped = || sys::exit_status(fd).ok().flatten();
    reaped().or_else(|| unreaped(&stat()?, process)).or_else(reaped)
}

/// How a process ended that nobody has reaped, from the text of its `/proc/<pid>/stat`: field 52, as `waitpid` would say it.
fn unreaped(stat: &str, process: &PidRecord) -> Option<i32> {
    if start_ticks(stat) != Some(process.ticks) {
        return None;
    }
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if !matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(48)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(script: &str) -> Option<i32> {
        let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let path = format!("/proc/{}/stat", child.id());
        let ticks = start_ticks(&fs::read_to_string(&path).unwrap()).unwrap();
        let process = PidRecord { pid: child.id(), ticks, started: 0 };
        let fd = open(&process).unwrap().unwrap();
        let told = status(&fd, &process, Instant::now() + Duration::from_secs(60));
        let other = PidRecord { ticks: ticks + 1, ..process.clone() };
        assert_eq!(unreaped(&fs::read_to_string(&path).unwrap(), &other), None, "another process's end");
        assert_eq!(Some(child.wait().unwrap().into_raw()), told);
        told
    }

    #[test]
    fn an_end_that_nobody_has_reaped_is_told_as_to_a_parent() {
        assert_eq!(ended("exit 0"), Some(0));
        assert_eq!(ended("exit 42"), Some(42 << 8));
        assert_eq!(ended("kill -9 $$"), Some(9));
    }

    #[test]
    fn what_runs_has_no_end() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let process = PidRecord { pid: std::process::id(), ticks: start_ticks(&stat).unwrap(), started: 0 };
        assert_eq!(unreaped(&stat, &process), None);
        let fd = open(&process).unwrap().unwrap();
        assert_eq!(status(&fd, &process, Instant::now() + Duration::from_millis(10)), None);
    }
}

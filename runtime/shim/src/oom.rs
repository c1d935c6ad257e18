//! Notices that the kernel killed a process of a container for want of memory.
//!
//! v1: an eventfd on `memory.oom_control` wakes us (also when the cgroup goes away: no proof), the `oom_kill` line
//! is the truth. v2: `memory.events` is both.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use crate::sys;

/// One container's memory cgroup.
#[derive(Debug)]
pub(crate) struct Watch {
    counter: String,
    seen: u64,
    wake: Wake,
}

#[derive(Debug)]
enum Wake {
    V1 { event: OwnedFd, _control: File },
    V2(File),
}

impl Watch {
    /// `None` when the kernel offers neither: then only the exit code speaks.
    pub(crate) fn open(dir: &str) -> Option<Watch> {
        let v1 = format!("{dir}/memory.oom_control");
        if let Ok(control) = File::open(&v1) {
            let event = sys::eventfd().ok()?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            fs::write(format!("{dir}/cgroup.event_control"), line).ok()?;
            return Some(Watch { counter: v1, seen: 0, wake: Wake::V1 { event, _control: control } });
        }
        let file = File::open(format!("{dir}/memory.events")).ok()?;
        let watch = Watch { counter: v1, seen: 0, wake: Wake::V2(file) };
        // An event file that was never read counts as changed. What it says now is for the first look.
        watch.count();
        Some(watch)
    }

    /// What to poll, and for what.
    pub(crate) fn poll(&self) -> (BorrowedFd<'_>, i16) {
        match &self.wake {
            Wake::V1 { event, .. } => (event.as_fd(), libc::POLLIN),
            Wake::V2(file) => (file.as_fd(), libc::POLLPRI),
        }
    }

    /// Whether there were kills since the last look.
    pub(crate) fn look(&mut self) -> bool {
        let count = self.count();
        let more = count > self.seen;
        self.seen = self.seen.max(count);
        more
    }

    /// Takes the wake-up back and reads the counter. On v2 both are one: the change is acknowledged by reading from the
    /// very descriptor that is polled.
    fn count(&self) -> u64 {
        let text = match &self.wake {
            Wake::V1 { event, .. } => {
                drop(sys::read(event, &mut [0; 8]));
                fs::read_to_string(&self.counter).unwrap_or_default()
            }
            Wake::V2(file) => {
                let mut buffer = [0; 512];
                let got = file.read_at(&mut buffer, 0).unwrap_or(0);
                String::from_utf8_lossy(&buffer[..got]).into_owned()
            }
        };
        let value = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0)
    }
}

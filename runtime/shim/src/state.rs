//! What a shim knows of its containers, and what follows from each thing that happens. Pure.
//!
//! ```text
//!  begin ─▶ Creating ─ reported(pid) ─▶ Running ─ reaped ─▶ Exited ─ forget ─▶ gone
//!               └───── failed ─▶ gone
//! ```
//!
//! SIGCHLD may tell of a container's end before its creator has told its pid: such ends are kept for a while.

use std::collections::BTreeMap;

use crate::{protocol::ContainerInfo, records::ExitRecord};

/// Ends of unknown pids that are kept. Most are creators, intermediates and orphans of containers.
const EARLY: usize = 64;
/// After KILL, it is sent again at this interval (a process may fork while the list is read).
const KILL_AGAIN_MS: u64 = 500;

/// All containers of one shim.
#[derive(Debug, Default)]
pub struct Table {
    containers: BTreeMap<String, Entry>,
    early: Vec<Early>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// When to send KILL, in milliseconds of the monotonic clock.
    kill_at: Option<u64>,
    oom: bool,
}

#[derive(Debug)]
enum Phase {
    Creating { since: u64 },
    Running { pid: u32, started: u64 },
    Exited { pid: u32, exit: ExitRecord },
}

#[derive(Debug)]
struct Early {
    pid: u32,
    status: i32,
    finished: u64,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the `pid` file, answer those who wait.
    Created {
        /// Container id.
        id: String,
        /// Its pid.
        pid: u32,
        /// Nanoseconds since the epoch.
        started: u64,
    },
    /// Write the `exit` file, then tell the subscribers.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: ExitRecord,
    },
    /// Send a signal to one process.
    Signal {
        /// To whom.
        pid: u32,
        /// Which.
        signal: i32,
    },
    /// KILL everything in the container's cgroup.
    KillAll {
        /// Container id.
        id: String,
    },
}

/// Where a container is, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never heard of it.
    No,
    /// Its creator runs.
    Creating,
    /// It runs, or ran, with this pid since then.
    Started(u32, u64),
}

impl Table {
    /// A creator is about to be started.
    pub fn begin(&mut self, id: &str, now: u64) {
        let entry = Entry { phase: Phase::Creating { since: now }, kill_at: None, oom: false };
        self.containers.insert(id.to_owned(), entry);
    }

    /// Where a container is.
    pub fn known(&self, id: &str) -> Known {
        match self.containers.get(id).map(|entry| &entry.phase) {
            None => Known::No,
            Some(Phase::Creating { .. }) => Known::Creating,
            Some(Phase::Running { pid, started }) => Known::Started(*pid, *started),
            Some(Phase::Exited { pid, exit }) => Known::Started(*pid, exit.started),
        }
    }

    /// Pid of a running container.
    pub fn pid(&self, id: &str) -> Option<u32> {
        match self.containers.get(id)?.phase {
            Phase::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Whether it ran, and does not any more.
    pub fn has_ended(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|entry| matches!(entry.phase, Phase::Exited { .. }))
    }

    /// Whose first process this is.
    pub fn owner(&self, pid: u32) -> Option<&str> {
        let mine = |phase: &Phase| matches!(phase, Phase::Running { pid: p, .. } if *p == pid);
        self.containers.iter().find(|(_, entry)| mine(&entry.phase)).map(|(id, _)| id.as_str())
    }

    /// The creator told the pid and the program was started.
    pub fn reported(&mut self, id: &str, pid: u32, now: u64) -> Vec<Action> {
        let Some(entry) = self.containers.get_mut(id) else { return Vec::new() };
        let since = if let Phase::Creating { since } = entry.phase { since } else { now };
        entry.phase = Phase::Running { pid, started: now };
        let mut actions = vec![Action::Created { id: id.to_owned(), pid, started: now }];
        if let Some(early) = self.take_early(pid, since) {
            actions.extend(self.reaped(pid, early.status, early.finished.max(now)));
        } else if self.containers.get(id).is_some_and(|entry| entry.kill_at.is_some()) {
            actions.push(Action::KillAll { id: id.to_owned() });
        }
        actions
    }

    /// There will be no such container: what its creator left must go.
    pub fn failed(&mut self, id: &str) -> Vec<Action> {
        self.containers.remove(id);
        vec![Action::KillAll { id: id.to_owned() }]
    }

    /// A child's end was seen.
    pub fn reaped(&mut self, pid: u32, status: i32, now: u64) -> Vec<Action> {
        let Some(id) = self.owner(pid).map(str::to_owned) else {
            if self.early.len() == EARLY {
                self.early.remove(0);
            }
            self.early.push(Early { pid, status, finished: now });
            return Vec::new();
        };
        let Some(entry) = self.containers.get_mut(&id) else { return Vec::new() };
        let Phase::Running { started, .. } = entry.phase else { return Vec::new() };
        let exit = ExitRecord::from_wait(status, entry.oom, started, now);
        entry.phase = Phase::Exited { pid, exit: exit.clone() };
        entry.kill_at = None;
        vec![Action::KillAll { id: id.clone() }, Action::Exited { id, exit }]
    }

    fn take_early(&mut self, pid: u32, since: u64) -> Option<Early> {
        let at = self.early.iter().position(|early| early.pid == pid && early.finished >= since)?;
        Some(self.early.swap_remove(at))
    }

    /// The kernel killed a process of this container.
    pub fn oom(&mut self, id: &str) {
        if let Some(entry) = self.containers.get_mut(id) {
            entry.oom = true;
        }
    }

    /// Ask to end; asked again, the earlier KILL counts, and the process hears nothing more: a handler that runs would run
    /// again. As containerd does.
    pub fn stop(&mut self, id: &str, signal: i32, kill_at: u64) -> Vec<Action> {
        let Some(entry) = self.containers.get_mut(id) else { return Vec::new() };
        match entry.phase {
            Phase::Exited { .. } => return Vec::new(),
            // Without a pid there is nobody to ask: it is killed as soon as it is known.
            Phase::Creating { .. } => entry.kill_at = Some(kill_at),
            Phase::Running { .. } => {
                if let Some(at) = entry.kill_at {
                    entry.kill_at = Some(at.min(kill_at));
                    return Vec::new();
                }
                entry.kill_at = Some(kill_at);
            }
        }
        self.pid(id).map(|pid| Action::Signal { pid, signal }).into_iter().collect()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for (id, entry) in &mut self.containers {
            if entry.kill_at.is_some_and(|at| at <= now) && matches!(entry.phase, Phase::Running { .. }) {
                entry.kill_at = Some(now + KILL_AGAIN_MS);
                actions.push(Action::KillAll { id: id.clone() });
            }
        }
        actions
    }

    /// When `tick` has something to do.
    pub fn next_tick(&self) -> Option<u64> {
        let running = |entry: &&Entry| matches!(entry.phase, Phase::Running { .. });
        self.containers.values().filter(running).filter_map(|entry| entry.kill_at).min()
    }

    /// Drops an ended container. False if it has not ended.
    pub fn forget(&mut self, id: &str) -> bool {
        match self.containers.get(id).map(|entry| &entry.phase) {
            None => true,
            Some(Phase::Exited { .. }) => self.containers.remove(id).is_some(),
            Some(_) => false,
        }
    }

    /// Whether no container runs or is being created.
    pub fn idle(&self) -> bool {
        self.containers.values().all(|entry| matches!(entry.phase, Phase::Exited { .. }))
    }

    /// All, for `State`.
    pub fn infos(&self) -> Vec<ContainerInfo> {
        let info = |(id, entry): (&String, &Entry)| {
            let (pid, started, exit) = match &entry.phase {
                Phase::Creating { .. } => (0, 0, None),
                Phase::Running { pid, started } => (*pid, *started, None),
                Phase::Exited { pid, exit } => (*pid, exit.started, Some(exit.clone())),
            };
            ContainerInfo { id: id.clone(), pid, started, exit }
        };
        self.containers.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32, signal: i32, started: u64, finished: u64) -> Vec<Action> {
        let exit = ExitRecord { code, signal, oom: false, started, finished };
        vec![Action::KillAll { id: "a".into() }, Action::Exited { id: "a".into(), exit }]
    }

    fn running() -> Table {
        let mut table = Table::default();
        table.begin("a", 20);
        assert_eq!(table.known("a"), Known::Creating);
        assert_eq!(table.reported("a", 10, 100), [Action::Created { id: "a".into(), pid: 10, started: 100 }]);
        table
    }

    #[test]
    fn an_end_is_recorded_once() {
        let mut table = running();
        assert_eq!(table.reaped(10, 3 << 8, 200), exited(3, 0, 100, 200));
        assert_eq!(table.reaped(10, 0, 300), []);
        assert_eq!(table.known("a"), Known::Started(10, 100));
        assert!(table.idle() && table.forget("a"));
        assert_eq!(table.known("a"), Known::No);
    }

    #[test]
    fn an_end_seen_before_the_pid_is_known_is_not_lost() {
        let mut table = Table::default();
        table.begin("a", 20);
        assert_eq!(table.reaped(10, 7 << 8, 50), []);
        let mut expected = vec![Action::Created { id: "a".into(), pid: 10, started: 100 }];
        expected.extend(exited(7, 0, 100, 100));
        assert_eq!(table.reported("a", 10, 100), expected);
    }

    #[test]
    fn ends_of_strangers_are_forgotten_in_time() {
        let mut table = Table::default();
        (0..200).for_each(|pid| drop(table.reaped(pid, 0, 1)));
        assert_eq!(table.early.len(), EARLY);
        let mut status = |pid, since| table.take_early(pid, since).map(|early| early.status);
        assert_eq!(status(199, 2), None, "another process of that pid");
        assert_eq!(status(199, 1), Some(0));
        assert_eq!(status(1, 0), None);
    }

    #[test]
    fn stop_asks_then_kills_and_kills_again() {
        let mut table = running();
        assert_eq!(table.stop("a", 15, 1000), [Action::Signal { pid: 10, signal: 15 }]);
        assert_eq!((table.tick(999), table.next_tick()), (vec![], Some(1000)));
        assert_eq!(table.tick(1000), [Action::KillAll { id: "a".into() }]);
        assert_eq!(table.tick(1400), []);
        assert_eq!(table.tick(1500), [Action::KillAll { id: "a".into() }]);
        assert_eq!(table.reaped(10, 9, 7), exited(137, 9, 100, 7));
        assert_eq!(table.next_tick(), None);
    }

    #[test]
    fn a_second_stop_can_only_shorten() {
        let mut table = running();
        assert_eq!(table.stop("a", 15, 1000), [Action::Signal { pid: 10, signal: 15 }]);
        assert_eq!(table.stop("a", 15, 5000), []);
        assert_eq!(table.next_tick(), Some(1000));
        assert_eq!(table.stop("a", 15, 10), []);
        assert_eq!(table.next_tick(), Some(10));
    }

    #[test]
    fn stop_while_creating_kills_as_soon_as_there_is_somebody() {
        let mut table = Table::default();
        table.begin("a", 20);
        assert_eq!(table.stop("a", 15, 1000), []);
        assert_eq!(table.next_tick(), None);
        assert_eq!(table.reported("a", 10, 5).last(), Some(&Action::KillAll { id: "a".into() }));
        assert!(!table.idle() && !table.forget("a"));
    }

    #[test]
    fn oom_is_part_of_the_record() {
        let mut table = running();
        table.oom("a");
        let actions = table.reaped(10, 9, 1);
        assert!(matches!(&actions[1], Action::Exited { exit, .. } if exit.oom && exit.code == 137));
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let mut table = Table::default();
        table.begin("a", 20);
        assert_eq!(table.failed("a"), [Action::KillAll { id: "a".into() }]);
        assert_eq!(table.known("a"), Known::No);
    }
}

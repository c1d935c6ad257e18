//! Containers on their way: the creator is started, and what it tells is waited for in the poll set.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

use super::{Live, Server, drain, error};
use crate::{
    cgroup, create,
    logs::Logs,
    oom::Watch,
    protocol::{Response, Stdio, Step},
    report::{self, Outcome},
    state::Known,
    sys,
};

/// A creator that has not said everything yet.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) id: String,
    pub(super) creator: u32,
    pub(super) status: OwnedFd,
    /// Brings the master of the container's terminal.
    pub(super) console: Option<OwnedFd>,
    /// Whether the terminal, or a pipe, takes input.
    pub(super) stdin: bool,
    pub(super) told: Vec<u8>,
    pub(super) deadline: u64,
    pub(super) waiting: Vec<(u64, u32)>,
}

/// Milliseconds after which a creator that has said nothing is given up.
pub(super) const CREATE_MS: u64 = 120_000;

impl Server {
    pub(super) fn create(
        &mut self,
        client: u64,
        number: u32,
        id: &str,
        bundle: String,
        log_path: String,
        stdio: Stdio,
    ) -> Option<Response> {
        match self.table.known(id) {
            Known::Started(pid, started) => return Some(Response::Created { pid, started }),
            Known::Creating => {
                let creation = self.creations.iter_mut().find(|creation| creation.id == id)?;
                creation.waiting.push((client, number));
                return None;
            }
            Known::No => {}
        }
        let now = sys::now_ns();
        let started = fs::read_to_string(format!("{bundle}/cgroups")).and_then(|dirs| {
            let (dirs, log) = (cgroup::parse(&dirs), create::open_log(&log_path)?);
            let cgroup = cgroup::unified(&dirs);
            let started = create::start(&self.config.creator, &bundle, id, stdio, cgroup)?;
            Ok((dirs, log, started))
        });
        let (dirs, log, started) = match started {
            Ok(started) => started,
            Err(cause) => return Some(error(Step::Shim, format!("start the creator: {cause}"))),
        };
        let create::Started { creator, output, stdin, console, status } = started;
        let logs = Logs::new(log, output);
        let stdin_once = stdio.stdin_once;
        let live = Live { bundle, log_path, logs, told_full: false, dirs, oom: None, stdin, stdin_once };
        self.table.begin(id, now);
        self.live.insert(id.to_owned(), live);
        let waiting = vec![(client, number)];
        let (id, told, deadline) = (id.to_owned(), Vec::new(), sys::monotonic_ms() + CREATE_MS);
        let stdin = stdio.stdin;
        self.creations.push(Creation { id, creator, status, console, stdin, told, deadline, waiting });
        None
    }

    /// Reads what the creator told. At its end without a pid nothing more can come, though the pipe may still be open.
    pub(super) fn read_creation(&mut self, creator: u32, ended: bool) {
        let Some(at) = self.creations.iter().position(|creation| creation.creator == creator) else { return };
        let creation = &mut self.creations[at];
        let closed = drain(&creation.status, &mut creation.told, usize::MAX);
        let dead = ended && report::pid(&creation.told).is_none();
        let failed = report::has_failed(&creation.told);
        if !closed && !dead && !failed {
            return;
        }
        if failed && !ended {
            // It would take its time to clean up what is cleaned up for it anyway.
            drop(sys::kill(creator, libc::SIGKILL));
        }
        let Creation { id, told, waiting, console, stdin, .. } = self.creations.swap_remove(at);
        match report::outcome(&told) {
            Outcome::Runs(pid) => {
                if let Some(live) = self.live.get_mut(&id) {
                    if let Some(console) = console {
                        live.use_terminal(&console, stdin);
                    }
                    live.oom = cgroup::memory(&live.dirs).and_then(Watch::open);
                }
                let actions = self.table.reported(&id, pid, sys::now_ns());
                self.act(actions);
                if let Known::Started(pid, started) = self.table.known(&id) {
                    let created = Response::Created { pid, started };
                    waiting.into_iter().for_each(|(client, number)| self.answer(client, number, &created));
                }
            }
            Outcome::Failed(step, text) => {
                let actions = self.table.failed(&id);
                self.act(actions);
                self.live.remove(&id);
                let failed = error(step, text);
                waiting.into_iter().for_each(|(client, number)| self.answer(client, number, &failed));
            }
        }
    }
}

impl Live {
    /// Sent before the program was started, so it is here.
    fn use_terminal(&mut self, console: &OwnedFd, stdin: bool) {
        let mut came = Vec::new();
        let master = sys::receive(console.as_fd(), &mut [0], &mut came).ok().and(came.pop());
        if let Some(master) = master {
            self.stdin = master.try_clone().ok().filter(|_| stdin);
            drop(self.logs.use_terminal(master));
        }
    }
}

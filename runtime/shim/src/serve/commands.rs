//! Commands inside containers: started by a request, answered when they have ended.

use std::{
    fs,
    io::{Error, Result},
    os::fd::OwnedFd,
};

use super::{Server, drain, error, not_running};
use crate::{
    cgroup::{self, Nest},
    exec::{self, Entry, Stdio},
    protocol::{ExecRequest, Response, Step, StreamRequest, Streams},
    records::{ExitRecord, ProcessSpec},
    report, sys,
};

/// Who asked, and where the answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) client: u64,
    pub(super) number: u32,
}

impl Server {
    /// A command whose output is kept and comes with the answer.
    pub(super) fn exec(&mut self, asked: Asked, request: &ExecRequest) -> std::result::Result<(), Response> {
        let ExecRequest { id, args, env, timeout_ms, max_output } = request;
        let (output, output_end) = sys::pipe().map_err(|cause| broken(&cause))?;
        let both = output_end.try_clone().and_then(|copy| sys::set_nonblocking(&output).map(|()| copy));
        let files = [None, Some(both.map_err(|cause| broken(&cause))?), Some(output_end)];
        let plan = self.plan(id, args, env)?;
        let key = self.start_command(asked, plan, &Stdio::Files(files), *timeout_ms)?;
        if let Some(running) = self.execs.get_mut(&key) {
            running.output = Some(output);
            running.max_output = *max_output as usize;
        }
        Ok(())
    }

    /// A command whose streams are the asker's own.
    pub(super) fn stream(
        &mut self,
        asked: Asked,
        request: &StreamRequest,
        fds: Vec<OwnedFd>,
    ) -> std::result::Result<(), Response> {
        let StreamRequest { id, args, env, timeout_ms, terminal, streams } = request;
        let stdio = match terminal {
            None => Stdio::Files(assign(*streams, fds)?),
            Some(window) => match <[OwnedFd; 1]>::try_from(fds) {
                Ok([console]) => Stdio::Terminal(console, *window),
                Err(_) => return Err(error(Step::Protocol, "a terminal needs one socket".to_owned())),
            },
        };
        let plan = self.plan(id, args, env)?;
        self.start_command(asked, plan, &stdio, *timeout_ms).map(drop)
    }

    /// Everything a command inside this container has to be like, and its nest.
    fn plan(
        &mut self,
        id: &str,
        args: &[String],
        env: &[String],
    ) -> std::result::Result<(exec::Plan, Option<Nest>), Response> {
        let (pid, live) = self.table.pid(id).zip(self.live.get(id)).ok_or_else(|| not_running(id))?;
        let mut dirs = live.dirs.clone();
        let read = || -> Result<_> {
            let bytes = fs::read(format!("{}/process", live.bundle))?;
            let mut spec = ProcessSpec::from_bytes(&bytes).map_err(Error::other)?;
            args.clone_into(&mut spec.args);
            env.iter().for_each(|pair| spec.set_var(pair));
            Ok((spec, sys::pidfd(pid)?))
        };
        let (spec, init) = read().map_err(|cause| broken(&cause))?;
        let nest = Nest::make(&mut dirs, self.key());
        let open = || -> Result<_> {
            let birthplace = cgroup::unified(&dirs).map(fs::File::open).transpose()?;
            Ok((birthplace.map(OwnedFd::from), Entry::find(pid, &spec.seccomp, &dirs, self.entry.as_ref())?))
        };
        match open() {
            Ok((birthplace, entry)) => {
                self.entry = Some(entry.clone());
                Ok((exec::Plan { spec, birthplace, init, entry }, nest))
            }
            Err(cause) => {
                self.leaving.extend(nest);
                Err(broken(&cause))
            }
        }
    }

    fn start_command(
        &mut self,
        Asked { client, number }: Asked,
        (plan, nest): (exec::Plan, Option<Nest>),
        stdio: &Stdio,
        timeout_ms: u64,
    ) -> std::result::Result<u64, Response> {
        let (pid, status) = match exec::start(&plan, &self.home, stdio) {
            Ok(started) => started,
            Err(cause) => {
                self.leaving.extend(nest);
                return Err(broken(&cause));
            }
        };
        let key = self.key();
        let limit = Some(timeout_ms).filter(|limit| *limit > 0);
        let running = exec::Running {
            output: None,
            status: Some(status),
            told: Vec::new(),
            kept: Vec::new(),
            max_output: 0,
            deadline: limit.map(|limit| sys::monotonic_ms().saturating_add(limit)),
            timed_out: false,
            pid,
            exit: None,
            nest,
            client,
            number,
        };
        self.execs.insert(key, running);
        Ok(key)
    }

    /// Takes what a command wrote; answers when it has ended.
    pub(super) fn read_exec(&mut self, key: u64) {
        let Some(running) = self.execs.get_mut(&key) else { return };
        if running.output.as_ref().is_some_and(|fd| drain(fd, &mut running.kept, running.max_output)) {
            running.output = None;
        }
        if running.status.as_ref().is_some_and(|fd| drain(fd, &mut running.told, usize::MAX)) {
            running.status = None;
        }
        if running.status.is_some() {
            return;
        }
        let answer = match (report::failure(&running.told), running.exit) {
            (Some((step, text)), _) => error(step, text),
            (None, None) => return,
            (None, Some(status)) => Response::Exec {
                code: ExitRecord::from_wait(status, false, 0, 0).code,
                timed_out: running.timed_out,
                output: std::mem::take(&mut running.kept),
            },
        };
        let (client, number) = (running.client, running.number);
        if let Some(running) = self.execs.remove(&key)
            && let Some(nest) = running.nest
        {
            if running.timed_out || !self.clients.contains_key(&client) {
                nest.kill();
            } else {
                nest.release();
            }
            self.leaving.push(nest);
        }
        self.answer(client, number, &answer);
    }

    pub(super) fn exec_of(&self, pid: u32) -> Option<u64> {
        self.execs.iter().find(|(_, running)| running.pid == pid).map(|(key, _)| *key)
    }
}

/// Descriptors to the streams they are for.
pub(super) fn assign(
    streams: Streams,
    fds: Vec<OwnedFd>,
) -> std::result::Result<[Option<OwnedFd>; 3], Response> {
    if fds.len() != streams.count() {
        let text = format!("{} descriptors for {} streams", fds.len(), streams.count());
        return Err(error(Step::Protocol, text));
    }
    let mut fds = fds.into_iter();
    Ok([streams.stdin, streams.stdout, streams.stderr].map(|wanted| if wanted { fds.next() } else { None }))
}

fn broken(cause: &Error) -> Response {
    error(Step::Shim, format!("start a command: {cause}"))
}

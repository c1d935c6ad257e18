//! Commands inside containers: started by a request, answered when they have ended.

use std::fs;

use super::{Server, drain, error, not_running};
use crate::{
    exec,
    protocol::{ExecRequest, Response, Step},
    records::{ExitRecord, ProcessSpec},
    report::{self, Outcome},
    sys,
};

impl Server {
    pub(super) fn exec(
        &mut self,
        client: u64,
        number: u32,
        request: &ExecRequest,
    ) -> std::result::Result<(), Response> {
        let id = &request.id;
        let (pid, live) = self.table.pid(id).zip(self.live.get(id)).ok_or_else(|| not_running(id))?;
        let broken = |cause: std::io::Error| error(Step::Shim, format!("start a command: {cause}"));
        let bytes = fs::read(format!("{}/process", live.bundle)).map_err(broken)?;
        let mut spec = ProcessSpec::from_bytes(&bytes).map_err(|bad| broken(std::io::Error::other(bad)))?;
        spec.args.clone_from(&request.args);
        request.env.iter().for_each(|pair| spec.set_var(pair));
        let filter = if spec.seccomp.is_empty() { Ok(Vec::new()) } else { fs::read(&spec.seccomp) };
        let init = sys::pidfd(pid).map_err(broken)?;
        let plan = exec::Plan { spec, filter: filter.map_err(broken)?, cgroups: live.dirs.clone(), init };
        let since = sys::now_ns();
        let (entering, output, status) = exec::start(&plan).map_err(broken)?;
        let limit = Some(request.timeout_ms).filter(|limit| *limit > 0);
        let running = exec::Running {
            output: Some(output),
            status: Some(status),
            told: Vec::new(),
            kept: Vec::new(),
            max_output: request.max_output as usize,
            deadline: limit.map(|limit| sys::monotonic_ms().saturating_add(limit)),
            timed_out: false,
            entering,
            pid: None,
            exit: None,
            since,
            client,
            number,
        };
        let key = self.key();
        self.execs.insert(key, running);
        Ok(())
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
        if running.pid.is_none() {
            running.pid = report::pid(&running.told);
            running.exit = running.pid.and_then(|pid| self.table.ended_early(pid, running.since));
        }
        if running.status.is_some() {
            return;
        }
        let answer = match (report::outcome(&running.told), running.exit) {
            (Outcome::Failed(step, text), _) => error(step, text),
            (Outcome::Runs(_), None) => return,
            (Outcome::Runs(_), Some(status)) => Response::Exec {
                code: ExitRecord::from_wait(status, false, 0, 0).code,
                timed_out: running.timed_out,
                output: std::mem::take(&mut running.kept),
            },
        };
        let (client, number) = (running.client, running.number);
        self.execs.remove(&key);
        self.answer(client, number, &answer);
    }

    pub(super) fn exec_of(&self, pid: u32) -> Option<u64> {
        self.execs.iter().find(|(_, running)| running.pid == Some(pid)).map(|(key, _)| *key)
    }
}

//! Files that outlive the processes that wrote them: how a container is to be run, its pid, its end. Pure.

use crate::wire::{Malformed, Reader, Writer};

/// How a container ended: the content of its `exit` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// Status, or 128 + signal.
    pub code: i32,
    /// 0: it exited by itself.
    pub signal: i32,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// Nanoseconds since the epoch.
    pub started: u64,
    /// Nanoseconds since the epoch.
    pub finished: u64,
}

impl ExitRecord {
    /// From the status of `waitpid`.
    pub fn from_wait(status: i32, oom: bool, started: u64, finished: u64) -> ExitRecord {
        let signal = status & 0x7f;
        let code = if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
        ExitRecord { code, signal, oom, started, finished }
    }

    /// One line.
    pub fn to_text(&self) -> String {
        let ExitRecord { code, signal, oom, started, finished } = self;
        format!("{code} {signal} {} {started} {finished}\n", u8::from(*oom))
    }

    /// From that line; anything else is `None`.
    pub fn from_text(text: &str) -> Option<ExitRecord> {
        let mut words = text.split_ascii_whitespace();
        let record = ExitRecord {
            code: words.next()?.parse().ok()?,
            signal: words.next()?.parse().ok()?,
            oom: words.next()? == "1",
            started: words.next()?.parse().ok()?,
            finished: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(record)
    }
}

/// A process that cannot be confused with a later one of the same pid: the content of `pid` files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidRecord {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub ticks: u64,
    /// Nanoseconds since the epoch.
    pub started: u64,
}

impl PidRecord {
    /// One line.
    pub fn to_text(&self) -> String {
        let PidRecord { pid, ticks, started } = self;
        format!("{pid} {ticks} {started}\n")
    }

    /// From that line.
    pub fn from_text(text: &str) -> Option<PidRecord> {
        let mut words = text.split_ascii_whitespace();
        let pid = words.next()?.parse().ok()?;
        Some(PidRecord { pid, ticks: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
    }
}

/// Start time in ticks from the text of `/proc/<pid>/stat`: field 22, counted after the name, which may hold anything.
pub fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Who a process of a container runs as, and within which limits: the content of a bundle's `process` file.
/// Both the first process (started by the creator) and later ones (exec) are made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Program and arguments of the first process.
    pub args: Vec<String>,
    /// `NAME=value`, complete: nothing is added.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Bits of the capabilities wanted.
    pub capabilities: u64,
    /// Sets no_new_privs.
    pub no_new_privs: bool,
    /// Host path of the compiled filter; empty is none.
    pub seccomp: String,
    /// Already clamped.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile; empty is none.
    pub apparmor: String,
    /// Number, soft and hard value of resource limits.
    pub rlimits: Vec<(u32, u64, u64)>,
}

impl ProcessSpec {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ProcessSpec { args, env, cwd, uid, gid, groups, capabilities, .. } = self;
        let mut w = Writer::default();
        w.strs(args);
        w.strs(env);
        w.str(cwd);
        w.u32(*uid);
        w.u32(*gid);
        w.u32(u32::try_from(groups.len()).unwrap_or(u32::MAX));
        groups.iter().for_each(|group| w.u32(*group));
        w.u64(*capabilities);
        w.bool(self.no_new_privs);
        w.str(&self.seccomp);
        w.bool(self.oom_score_adj.is_some());
        w.i32(self.oom_score_adj.unwrap_or(0));
        // Shims of earlier versions know of no more, and can do without it where there is none.
        if !self.apparmor.is_empty() || !self.rlimits.is_empty() {
            w.str(&self.apparmor);
        }
        if !self.rlimits.is_empty() {
            w.u32(u32::try_from(self.rlimits.len()).unwrap_or(u32::MAX));
            self.rlimits.iter().for_each(|(resource, soft, hard)| {
                w.u32(*resource);
                w.u64(*soft);
                w.u64(*hard);
            });
        }
        w.0
    }

    /// From the file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<ProcessSpec, Malformed> {
        let mut r = Reader::new(bytes);
        let (args, env, cwd, uid, gid) = (r.strs()?, r.strs()?, r.str()?, r.u32()?, r.u32()?);
        let count = r.u32()?;
        let groups = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
        let (capabilities, no_new_privs, seccomp) = (r.u64()?, r.bool()?, r.str()?);
        let (has_score, score) = (r.bool()?, r.i32()?);
        let apparmor = if r.end().is_ok() { String::new() } else { r.str()? };
        let count = if r.end().is_ok() { 0 } else { r.u32()? };
        let rlimits = (0..count).map(|_| Ok((r.u32()?, r.u64()?, r.u64()?))).collect::<Result<_, _>>()?;
        r.end()?;
        let oom_score_adj = has_score.then_some(score);
        Ok(ProcessSpec {
            args,
            env,
            cwd,
            uid,
            gid,
            groups,
            capabilities,
            no_new_privs,
            seccomp,
            oom_score_adj,
            apparmor,
            rlimits,
        })
    }

    /// Adds `NAME=value`, in place of an earlier one of that name: programs look at the first.
    pub fn set_var(&mut self, pair: &str) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        self.env.retain(|old| old.strip_prefix(name).is_none_or(|rest| !rest.starts_with('=')));
        self.env.push(pair.to_owned());
    }

    /// A variable's value.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Where to look for a program, in the order of PATH; a name with a slash is only itself.
pub fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let dirs = path.split(':').map(|dir| if dir.is_empty() { "." } else { dir });
    dirs.map(|dir| format!("{}/{program}", dir.trim_end_matches('/'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_codes() {
        for (status, code, signal) in [(0, 0, 0), (17 << 8, 17, 0), (9, 137, 9), (11 | 0x80, 139, 11)] {
            let record = ExitRecord::from_wait(status, false, 1, 2);
            assert_eq!((record.code, record.signal), (code, signal), "status {status:#x}");
        }
    }

    #[test]
    fn records_survive_the_file_and_reject_rubbish() {
        let exit = ExitRecord { code: 143, signal: 15, oom: true, started: 5, finished: u64::MAX };
        assert_eq!(ExitRecord::from_text(&exit.to_text()), Some(exit));
        for text in ["", "1 2 3", "1 2 3 4 5 6", "x 0 0 1 2"] {
            assert_eq!(ExitRecord::from_text(text), None, "{text:?}");
        }
        let pid = PidRecord { pid: 3, ticks: 4, started: 5 };
        assert_eq!(PidRecord::from_text(&pid.to_text()), Some(pid));
    }

    #[test]
    fn process_survives_the_file() {
        let spec = ProcessSpec {
            args: vec!["a".into(), String::new()],
            env: vec!["PATH=/x".into(), "PATH=/y".into()],
            groups: vec![1, 2],
            oom_score_adj: Some(-3),
            ..ProcessSpec::default()
        };
        assert_eq!(ProcessSpec::from_bytes(&spec.to_bytes()), Ok(spec.clone()));
        assert_eq!(spec.var("PATH"), Some("/y"));
        assert_eq!(spec.var("PAT"), None);
        assert!(ProcessSpec::from_bytes(&spec.to_bytes()[1..]).is_err());
        let confined = ProcessSpec { apparmor: "mine".into(), ..spec.clone() };
        assert_eq!(ProcessSpec::from_bytes(&confined.to_bytes()), Ok(confined.clone()));
        // What a shim of an earlier version reads is as long as it knows it, unless there is a profile that it cannot set.
        assert_eq!(confined.to_bytes().len(), spec.to_bytes().len() + 4 + "mine".len());
        for apparmor in ["", "mine"] {
            let limits = vec![(7, 1024, u64::MAX), (4, 0, 0)];
            let limited = ProcessSpec { apparmor: apparmor.into(), rlimits: limits, ..spec.clone() };
            assert_eq!(ProcessSpec::from_bytes(&limited.to_bytes()), Ok(limited.clone()));
            assert!(ProcessSpec::from_bytes(&limited.to_bytes()[..limited.to_bytes().len() - 1]).is_err());
        }
        let mut spec = spec;
        spec.set_var("PATH=/z");
        assert_eq!(spec.env, ["PATH=/z"]);
    }

    #[test]
    fn start_time_is_found_after_odd_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks("7 (a"), None);
    }

    #[test]
    fn programs_are_looked_up_in_the_given_path() {
        assert_eq!(candidates("sh", "/bin:/usr/bin/:"), ["/bin/sh", "/usr/bin/sh", "./sh"]);
        assert_eq!(candidates("./sh", "/bin"), ["./sh"]);
    }
}

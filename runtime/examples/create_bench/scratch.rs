//! A directory and a cgroup subtree of our own, gone afterwards whatever happened, a kill included.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::Result;

pub(crate) struct Scratch {
    dir: PathBuf,
    /// Relative to every hierarchy's mount point.
    pub(crate) cgroup: String,
    /// Tidies up when our end of its standard input closes, by us or by our death.
    janitor: Child,
}

impl Scratch {
    pub(crate) fn new(cgroup: &str) -> Result<Scratch> {
        let dir = tempfile::Builder::new().prefix("orlop-bench-").tempdir()?.keep();
        let name = format!("orlop-bench-{}", std::process::id());
        let cgroup = if cgroup.is_empty() { name } else { format!("{cgroup}/{name}") };
        let mut janitor = Command::new(std::env::current_exe()?);
        janitor.arg("tidy").arg(&dir).arg(&cgroup).stdin(Stdio::piped()).process_group(0);
        let scratch = Scratch { dir, cgroup, janitor: janitor.spawn()? };
        scratch.be_counted()?;
        let layer = scratch.layer();
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(layer.join(sub))?;
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox"))
            .map_err(|error| format!("copy /bin/busybox (package busybox-static): {error}"))?;
        symlink("busybox", layer.join("bin/echo"))?;
        symlink("busybox", layer.join("bin/sleep"))?;
        fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        Ok(scratch)
    }

    /// Where CPU time is counted by a hierarchy of its own, this process and those it starts are counted there.
    fn be_counted(&self) -> Result<()> {
        let counter = Path::new("/sys/fs/cgroup/cpuacct");
        if let (true, Some((parent, _))) = (counter.is_dir(), self.cgroup.rsplit_once('/')) {
            let leaf = counter.join(parent).join("self");
            fs::create_dir_all(&leaf)?;
            fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
        }
        Ok(())
    }

    /// Milliseconds of CPU time of all below the parent of our cgroup, where this machine counts them.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let (parent, _) = self.cgroup.rsplit_once('/')?;
        let read = |path: String| fs::read_to_string(path).ok();
        let v1 = || read(format!("/sys/fs/cgroup/cpuacct/{parent}/cpuacct.usage"))?.trim().parse().ok();
        let v2 = || {
            let stat = read(format!("/sys/fs/cgroup/{parent}/cpu.stat"))?;
            let micros: u64 = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()?;
            Some(micros * 1000)
        };
        let nanos: u64 = v1().or_else(v2)?;
        Some(Duration::from_nanos(nanos).as_secs_f64() * 1e3)
    }

    /// Megabytes of memory that a pod's shim shares with nobody.
    pub(crate) fn private_memory(&self, uid: &str) -> Result<f64> {
        let record = fs::read_to_string(self.path("run/pods").join(uid).join("pid"))?;
        let pid = record.split(' ').next().unwrap_or_default();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let lines = rollup
            .lines()
            .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
        let words = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Ok(words.sum::<f64>() * 1024.0 / 1e6)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The only layer of the image.
    pub(crate) fn layer(&self) -> PathBuf {
        self.path("layer")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        drop(self.janitor.wait());
    }
}

/// The janitor's own side: waits for the end of the measurement and removes all of it.
pub(crate) fn tidy(dir: &Path, cgroup: &str) -> Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    for pod in fs::read_dir(dir.join("run/pods")).into_iter().flatten().flatten() {
        let record = fs::read_to_string(pod.path().join("pid")).unwrap_or_default();
        let pid = record.split(' ').next().unwrap_or_default();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !pid.is_empty() && line.contains(&*dir.to_string_lossy()) {
            drop(Command::new("kill").args(["-9", pid]).status());
        }
    }
    for _ in 0..100 {
        let left = cgroups(cgroup);
        for dir in &left {
            for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                drop(Command::new("kill").args(["-9", pid]).status());
            }
            drop(fs::remove_dir(dir));
        }
        if left.is_empty() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    for point in mounts(dir) {
        drop(Command::new("umount").args(["-l", &point]).status());
    }
    let left = cgroups(cgroup).into_iter().map(|dir| dir.display().to_string()).chain(mounts(dir));
    let left: Vec<_> = left.collect();
    if !left.is_empty() {
        return Err(format!("left behind: {}", left.join(", ")).into());
    }
    Ok(fs::remove_dir_all(dir)?)
}

fn cgroups(cgroup: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let mut found = Vec::new();
    points.for_each(|point| deepest_first(&point.join(cgroup), &mut found));
    found
}

/// Innermost first.
fn mounts(below: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(below)).map(str::to_owned).collect()
}

fn deepest_first(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        deepest_first(&entry.path(), found);
    }
    found.push(dir.to_owned());
}

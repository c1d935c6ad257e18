//! Cgroups of pods and containers: made with limits, counted, removed; on v2, v1 and both at once.
//!
//! Those of containers are made by the creator (`create::cgroups`), from the files and values that are put together here.

mod actual;
mod details;
mod layout;
mod limits;
mod pressure;
mod stats;

use std::{
    fs,
    io::{Error, ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

pub use details::{Details, DiskUse};
pub use layout::Hierarchies;
pub use pressure::{Pressure, Pressures, Stall};
pub use stats::Stats;

use self::limits::{Level, Now, Setting};
use crate::{
    api::Resources,
    devices::{self, Rule},
    spec::plan::{Hierarchy, Whose},
};

/// One file or directory of a cgroup could not be made, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct CgroupError {
    what: &'static str,
    path: PathBuf,
    source: Error,
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { what, path, source }
}

impl Hierarchies {
    /// Of this machine.
    pub fn discover() -> Result<Hierarchies, Error> {
        let mut found = Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        if found.v1.is_empty() && found.unified.is_none() {
            return Err(Error::new(ErrorKind::NotFound, "no cgroup hierarchy is mounted"));
        }
        if let Some(root) = &found.unified {
            let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
            found.unified_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(found)
    }

    /// Makes a pod's cgroup and sets its limits; fine if it is there.
    pub fn create(&self, path: &str, limits: &Resources) -> Result<(), CgroupError> {
        let path = path.trim_start_matches('/');
        let settings = self.settings(limits, Level::Pod, Now::default());
        if let Some(root) = self.unified.as_deref() {
            // On a hybrid machine nothing is switched on there that nobody needs.
            let needed =
                self.is_v2() || settings.iter().any(|setting| self.limits_in_v2(&setting.controller));
            if needed { make_v2(root, path)? } else { make(&root.join(path))? }
        }
        let mut v1: Vec<&Path> = ["cpu", "memory", "pids"]
            .into_iter()
            .chain(settings.iter().map(|setting| setting.controller.as_str()))
            .filter_map(|controller| self.controller(controller))
            .collect();
        v1.sort_unstable();
        v1.dedup();
        v1.into_iter().try_for_each(|root| make(&root.join(path)))?;
        write_all(&self.pod_files(path, settings))
    }

    /// A pod goes without what the machine cannot limit.
    fn pod_files(&self, path: &str, settings: Vec<Setting>) -> Vec<(PathBuf, String)> {
        settings.into_iter().filter_map(|setting| self.file(path, setting)).collect()
    }

    /// Files of a new container's cgroups and what to write to them. Any that the machine does not have is an error.
    pub fn container_files(
        &self,
        path: &str,
        limits: &Resources,
    ) -> Result<Vec<(PathBuf, String)>, CgroupError> {
        self.files_at(path, limits, self.container_level(), Now::default())
    }

    /// On a hybrid machine: switches on for the containers of a pod what only v2 can limit, if one of them needs it.
    pub(crate) fn switch_on(&self, pod: &str, limits: &Resources) -> Result<(), CgroupError> {
        let settings = self.settings(limits, self.container_level(), Now::default());
        let needed = !self.is_v2() && settings.iter().any(|setting| self.limits_in_v2(&setting.controller));
        match &self.unified {
            Some(root) if needed => make_v2(root, pod.trim_start_matches('/')),
            _ => Ok(()),
        }
    }

    fn container_level(&self) -> Level {
        Level::Container { swap: self.limits_swap() }
    }

    fn files_at(
        &self,
        path: &str,
        limits: &Resources,
        level: Level,
        now: Now,
    ) -> Result<Vec<(PathBuf, String)>, CgroupError> {
        let file = |setting: Setting| {
            let what = PathBuf::from(&setting.file);
            let missing = || at("find", &what)(Error::new(ErrorKind::NotFound, "no such cgroup controller"));
            self.file(path.trim_start_matches('/'), setting).ok_or_else(missing)
        };
        self.settings(limits, level, now).into_iter().map(file).collect()
    }

    /// Changes the limits of a container that runs; what is `None` stays.
    pub fn update_container(&self, path: &str, limits: &Resources) -> Result<(), CgroupError> {
        let now = self.now(path);
        write_all(&self.files_at(path, limits, self.container_level(), now)?)
    }

    /// The same for a pod's cgroup. It has to be done before its containers grow, and after they shrank.
    pub fn update_pod(&self, path: &str, limits: &Resources) -> Result<(), CgroupError> {
        let path = path.trim_start_matches('/');
        write_all(&self.pod_files(path, self.settings(limits, Level::Pod, self.now(path))))
    }

    fn now(&self, path: &str) -> Now {
        let read = |controller, file| self.read(path, controller, file)?.trim().parse::<i64>().ok();
        Now {
            memory_swap: read("memory", "memory.memsw.limit_in_bytes"),
            cpu_period_us: read("cpu", "cpu.cfs_period_us").and_then(|period| u64::try_from(period).ok()),
        }
    }

    fn read(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        let root = self.root_of(controller)?;
        fs::read_to_string(root.join(path.trim_start_matches('/')).join(file)).ok()
    }

    /// Limits of a container as the kernel has them: processor, memory, tasks. What was rounded counts as what was
    /// `recorded`. No limit is −1, and what cannot be read is `None`.
    pub fn container_limits(&self, path: &str, recorded: &Resources) -> Resources {
        self.limits_now(path, recorded, self.container_level())
    }

    /// The same of a pod's cgroup.
    pub fn pod_limits(&self, path: &str, recorded: &Resources) -> Resources {
        self.limits_now(path, recorded, Level::Pod)
    }

    fn limits_now(&self, path: &str, recorded: &Resources, level: Level) -> Resources {
        let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let read = |controller: &str, file: &str| self.read(path, controller, file);
        if self.is_v2() { actual::v2(recorded, level, page, read) } else { actual::v1(recorded, page, read) }
    }

    /// What a new container's cgroups get besides its limits.
    pub(crate) fn container_rules(
        &self,
        path: &str,
        privileged: bool,
        devices: &[Rule],
    ) -> Vec<(PathBuf, String)> {
        let path = path.trim_start_matches('/');
        if let Some(root) = self.controller("devices") {
            let file = |(name, value): (&str, String)| (root.join(path).join(name), value);
            return devices::v1(privileged, devices).into_iter().map(file).collect();
        }
        // Out of memory ends the container as a whole, as Kubernetes has it on v2.
        let group = self.unified.as_ref().filter(|_| self.is_v2() && self.limits_in_v2("memory"));
        group.map(|root| (root.join(path).join("memory.oom.group"), "1".to_owned())).into_iter().collect()
    }

    /// What a container sees of its cgroups: what is mounted below `/sys/fs/cgroup`, v2 only where there is nothing else.
    pub(crate) fn views(&self, path: &str) -> Vec<Hierarchy> {
        let path = path.trim_start_matches('/');
        if let Some(root) = self.unified.as_ref().filter(|_| self.is_v2()) {
            return vec![Hierarchy { name: String::new(), of: Whose::Own(root.join(path)) }];
        }
        let view = |(controllers, point): &(String, PathBuf)| {
            let name = point.strip_prefix("/sys/fs/cgroup").ok()?.to_str()?.to_owned();
            let named = controllers.starts_with("name=");
            let of = if named {
                Whose::Creators(controllers.clone(), point.clone())
            } else {
                Whose::Own(point.join(path))
            };
            (!name.is_empty() && !name.contains('/')).then_some(Hierarchy { name, of })
        };
        self.v1.iter().filter_map(view).collect()
    }

    /// Each controller in the words of the hierarchy that has it. Files of v2 and shares, which are no limits, are left
    /// out where there is no controller for them.
    fn settings(&self, limits: &Resources, level: Level, now: Now) -> Vec<Setting> {
        let mut limits = limits.clone();
        limits.unified.retain(|file, _| self.limits_in_v2(file.split('.').next().unwrap_or_default()));
        limits.cpu_shares = limits.cpu_shares.filter(|_| self.root_of("cpu").is_some());
        let v1 = limits::v1(&limits, level, now).into_iter();
        let v2 = limits::v2(&limits, level).into_iter();
        if self.is_v2() {
            return v2.collect();
        }
        let in_v2 = |setting: &Setting| self.limits_in_v2(&setting.controller);
        v1.filter(|setting| !in_v2(setting)).chain(v2.filter(in_v2)).collect()
    }

    fn file(&self, path: &str, Setting { controller, file, value }: Setting) -> Option<(PathBuf, String)> {
        let file = self.root_of(&controller)?.join(path).join(file);
        Some((file, value))
    }

    /// Removes a cgroup and all below it, everywhere. What still runs in it is killed. Reports every failure.
    pub fn remove(&self, path: &str) -> Vec<CgroupError> {
        let directories = self.directories(path).into_iter().map(|(_, dir)| dir);
        directories.filter_map(|dir| remove_tree(&dir).err()).collect()
    }

    /// Kills everything in a cgroup and below it.
    pub fn kill(&self, path: &str) {
        self.directories(path).into_iter().for_each(|(_, dir)| kill_tree(&dir));
    }

    /// Content of a bundle's `cgroups` file.
    pub(crate) fn describe(&self, path: &str) -> String {
        let line = |(name, dir): (String, PathBuf)| format!("{name} {}\n", dir.display());
        self.directories(path).into_iter().map(line).collect()
    }

    /// Puts one of our own processes where service managers do not find it when they stop this one: they look at the
    /// unified hierarchy and at `name=systemd`. Where this process is in nobody's charge (the root), neither is the other.
    pub(crate) fn adopt(&self, path: &str, pid: u32) {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for (name, dir) in self.named(path) {
            let in_root = own
                .lines()
                .any(|line| line.split_once(':').is_some_and(|(_, rest)| rest == format!("{name}:/")));
            // Another pod's removal may take the directory away between the two steps.
            let moved = in_root
                || (0..3).any(|_| {
                    fs::create_dir_all(&dir).is_ok()
                        && fs::write(dir.join("cgroup.procs"), pid.to_string()).is_ok()
                });
            if !moved {
                tracing::debug!(dir = %dir.display(), pid, "shim stays in the cgroup of its starter");
            }
        }
    }

    /// Removes that directory when nobody is in it any more, and on `name=systemd`, where we are the only ones to make
    /// them, the empty ones above it.
    pub(crate) fn disown(&self, path: &str) {
        for (name, dir) in self.named(path) {
            let depth = if name.is_empty() { 1 } else { path.split('/').count() };
            let gone = dir.ancestors().take(depth).take_while(|dir| fs::remove_dir(dir).is_ok()).count();
            tracing::trace!(dir = %dir.display(), gone, "shims' cgroup");
        }
    }

    /// As in /proc/self/cgroup: the unified hierarchy has no name.
    fn named(&self, path: &str) -> Vec<(String, PathBuf)> {
        let v1 = self.v1.iter().filter(|(name, _)| name.starts_with("name="));
        let v1 = v1.map(|(name, point)| (name.clone(), point.join(path)));
        v1.chain(self.unified.iter().map(|point| (String::new(), point.join(path)))).collect()
    }

    /// Whether swap can be limited together with memory.
    pub(crate) fn limits_swap(&self) -> bool {
        match self.controller("memory") {
            Some(root) => root.join("memory.memsw.limit_in_bytes").exists(),
            None => self.limits_in_v2("memory"),
        }
    }

    /// Counters of a cgroup, summed by the kernel over all below it. Pressure is v2's to tell, on hybrid machines too.
    pub fn stats(&self, path: &str) -> Result<Stats, Error> {
        let path = path.trim_start_matches('/');
        let dir = self.unified.as_ref().map(|root| root.join(path));
        let text = |name: &str| fs::read_to_string(dir.as_ref()?.join(format!("{name}.pressure"))).ok();
        Ok(Stats { pressure: Pressures::read(text), ..self.counters(path)? })
    }

    fn counters(&self, path: &str) -> Result<Stats, Error> {
        let read = |root: &Path, file: &str| fs::read_to_string(root.join(path).join(file));
        match &self.unified {
            Some(root) if self.is_v2() => Ok(Stats::v2(
                &read(root, "cpu.stat")?,
                &read(root, "memory.current")?,
                &read(root, "memory.stat")?,
            )),
            _ => {
                let missing = || Error::new(ErrorKind::NotFound, "no cpuacct or memory controller");
                let cpu = self.controller("cpuacct").ok_or_else(missing)?;
                let memory = self.controller("memory").ok_or_else(missing)?;
                let usage = read(cpu, "cpuacct.usage").or_else(|_| {
                    // The pod level of cpuacct is made by its first container.
                    Ok::<_, Error>("0".to_owned())
                })?;
                Ok(Stats::v1(&usage, &read(memory, "memory.usage_in_bytes")?, &read(memory, "memory.stat")?))
            }
        }
    }

    /// All that is counted besides; what cannot be read is 0.
    pub fn details(&self, path: &str) -> Details {
        let path = path.trim_start_matches('/');
        let read =
            |root: &Path, name: &str| fs::read_to_string(root.join(path).join(name)).unwrap_or_default();
        match &self.unified {
            Some(root) if self.is_v2() => Details::v2(|name| read(root, name)),
            _ => Details::v1(|controller, name| {
                self.controller(controller).map(|root| read(root, name)).unwrap_or_default()
            }),
        }
    }

    /// Processes of a cgroup and of all below it.
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let root = if self.is_v2() { self.unified.as_deref() } else { self.controller("memory") };
        let mut found = Vec::new();
        if let Some(root) = root {
            add_processes(&root.join(path.trim_start_matches('/')), &mut found);
        }
        found
    }
}

fn add_processes(dir: &Path, found: &mut Vec<u32>) {
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(pids.lines().filter_map(|line| line.parse::<u32>().ok()));
    children(dir).for_each(|child| add_processes(&child, found));
}

/// Pressure on the machine as a whole.
pub fn node_pressure() -> Pressures {
    Pressures::read(|name| fs::read_to_string(format!("/proc/pressure/{name}")).ok())
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(dir).map_err(at("make cgroup", dir))
}

/// Writes one value after the other. What goes to the same file is written through one descriptor.
pub(crate) fn write_all(files: &[(PathBuf, String)]) -> Result<(), CgroupError> {
    for same in files.chunk_by(|(one, _), (next, _)| one == next) {
        let Some((path, _)) = same.first() else { continue };
        let mut file = fs::File::options().write(true).open(path).map_err(at("open", path))?;
        for (_, value) in same {
            file.write_all(value.as_bytes()).map_err(at("write", path))?;
        }
    }
    Ok(())
}

/// Controllers have to be switched on in every directory above the one that uses them: for a pod in its own too, for
/// its containers.
fn make_v2(root: &Path, path: &str) -> Result<(), CgroupError> {
    let mut dir = root.to_owned();
    for part in Path::new(path) {
        enable(&dir);
        dir.push(part);
        make(&dir)?;
    }
    enable(&dir);
    Ok(())
}

/// A controller that this machine does not have is missed only when a limit needs it.
fn enable(dir: &Path) {
    for controller in ["+cpu", "+memory", "+pids", "+cpuset", "+io", "+hugetlb"] {
        drop(fs::write(dir.join("cgroup.subtree_control"), controller));
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn kill_tree(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let pids = pids.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw);
    for pid in pids {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    children(dir).for_each(|child| kill_tree(&child));
}

/// rmdir says busy for a short while after the last process was reaped.
fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    let mut wait = Duration::from_millis(1);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && wait < Duration::from_secs(1) => {
                kill_tree(dir);
                std::thread::sleep(wait);
                wait *= 2;
            }
            Err(error) => return Err(at("remove cgroup", dir)(error)),
        }
    }
}

//! The cgroup directories of one container: killing what is in them; and one for each command beside its program.
//!
//! Not for: making or removing those of containers (the creator and the client do).

use std::{
    fs::{self, File},
    io::{Result, Write},
    path::Path,
    rc::Rc,
};

use crate::sys;

/// Lines of a bundle's `cgroups` file: what the directory is for (`memory`, `pids`, …, `unified`), and its path.
pub(crate) type Dirs = Vec<(String, String)>;

pub(crate) fn parse(text: &str) -> Dirs {
    let line = |line: &str| line.split_once(' ').map(|(name, dir)| (name.to_owned(), dir.to_owned()));
    text.lines().filter_map(line).collect()
}

/// The directory whose memory counters count: v1's, else the unified one.
pub(crate) fn memory(dirs: &Dirs) -> Option<&str> {
    let named = |name: &str| dirs.iter().find(|(is, _)| is == name).map(|(_, dir)| dir.as_str());
    named("memory").or_else(|| named("unified"))
}

/// A v1 cgroup, open for those who are to join it when there is no way to it any more.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) dir: String,
    tasks: File,
}

impl Door {
    /// Of all these but cgroup v2. Opening one costs more than to join it: those at hand are used again.
    pub(crate) fn open(dirs: &Dirs, at_hand: &[Rc<Door>]) -> Result<Vec<Rc<Door>>> {
        let door = |dir: &String| match at_hand.iter().find(|door| door.dir == *dir) {
            Some(door) => Ok(Rc::clone(door)),
            None => {
                let tasks = File::options().write(true).open(format!("{dir}/tasks"))?;
                Ok(Rc::new(Door { dir: dir.clone(), tasks }))
            }
        };
        dirs.iter().filter(|(name, _)| name != "unified").map(|(_, dir)| door(dir)).collect()
    }

    /// Moves this process, which has one thread.
    pub(crate) fn enter(&self) -> Result<()> {
        (&self.tasks).write_all(b"0")
    }
}

/// The directory in cgroup v2: a process can be born there.
pub(crate) fn unified(dirs: &Dirs) -> Option<&str> {
    dirs.iter().find(|(name, _)| name == "unified").map(|(_, dir)| dir.as_str())
}

/// A cgroup of a command's own, below that of its container: a child that goes to another session, or whose parent is
/// gone, is still in it. In one hierarchy only, and without controllers of its own: all limits are the container's.
#[derive(Debug)]
pub(crate) struct Nest {
    dir: String,
    /// The container's directory.
    home: String,
    /// When to try to remove it again, and how long to wait after that.
    pub(crate) again_at: u64,
    pause: u64,
}

/// Where a directory more changes nothing for those inside, in order of preference: v2 can kill it as a whole.
const NESTS: [&str; 4] = ["unified", "pids", "freezer", "devices"];
const FIRST_PAUSE_MS: u64 = 5;
const LONGEST_PAUSE_MS: u64 = 1000;

impl Nest {
    /// Makes it and puts it in the place of the container's directory. `None` where no hierarchy will do.
    pub(crate) fn make(dirs: &mut Dirs, key: u64) -> Option<Nest> {
        let at = NESTS.iter().find_map(|wanted| dirs.iter().position(|(name, _)| name == wanted))?;
        let (_, dir) = dirs.get_mut(at)?;
        let nest = format!("{dir}/orlop-exec-{key}");
        fs::create_dir(&nest).ok()?;
        let home = std::mem::replace(dir, nest.clone());
        Some(Nest { dir: nest, home, again_at: 0, pause: FIRST_PAUSE_MS })
    }

    /// KILL to everything in it.
    pub(crate) fn kill(&self) {
        kill_dir(Path::new(&self.dir));
    }

    /// The command has ended well: what it left running is the container's from now on, as with other runtimes.
    pub(crate) fn release(&self) {
        // A process that forks meanwhile is found the next time round.
        for _ in 0..4 {
            let procs = fs::read_to_string(format!("{}/cgroup.procs", self.dir)).unwrap_or_default();
            if procs.is_empty() {
                return;
            }
            let home = format!("{}/cgroup.procs", self.home);
            // One that has just ended, or a container that lets nobody in there any more: the directory then stays
            // until the container goes.
            procs.lines().for_each(|pid| drop(fs::write(&home, pid)));
        }
    }

    /// Tries to remove it; false if somebody is still on the way out.
    pub(crate) fn remove(&mut self, now: u64) -> bool {
        match fs::remove_dir(&self.dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && self.pause < LONGEST_PAUSE_MS => {
                self.again_at = now + self.pause;
                self.pause *= 2;
                false
            }
            _ => true,
        }
    }
}

/// KILL to every process in the container's cgroup. Errors cannot be helped here: the caller comes again.
pub(crate) fn kill_all(dirs: &Dirs) {
    dirs.iter().for_each(|(_, dir)| kill_dir(Path::new(dir)));
}

fn kill_dir(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_err() {
        kill_tree(dir);
    }
}

fn kill_tree(dir: &Path) {
    let me = std::process::id();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != me) {
        drop(sys::kill(pid, libc::SIGKILL));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_tree(&entry.path());
        }
    }
}

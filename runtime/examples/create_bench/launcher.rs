//! A process that starts other runtimes and times them, in a mount namespace in which they can work.
//!
//! crun refuses a machine with cgroup v1 and v2 side by side; without the v2 mount it sees plain v1. The namespace is
//! made once, so that none of this is in anybody's time. One line in, one line out.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _, stdin, stdout},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use crate::{LANES, Result};

pub(crate) struct Launcher {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Launcher {
    pub(crate) fn start() -> Result<Launcher> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?).arg("launch");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().ok_or("no pipe to the launcher")?;
        let from = BufReader::new(child.stdout.take().ok_or("no pipe from the launcher")?);
        Ok(Launcher { child, to, from })
    }

    /// Runs a bundle and gives the milliseconds to its first byte.
    pub(crate) fn first_byte(&mut self, runtime: &Path, root: &Path, bundle: &Path, id: &str) -> Result<f64> {
        self.ask(&format!(
            "byte {} --root {} run --bundle {} {id}",
            runtime.display(),
            root.display(),
            bundle.display()
        ))
    }

    /// Runs a command in a container and gives the milliseconds to its first byte.
    pub(crate) fn exec(&mut self, runtime: &Path, root: &Path, id: &str) -> Result<f64> {
        self.ask(&format!("byte {} --root {} exec {id} /bin/echo -n x", runtime.display(), root.display()))
    }

    /// Starts bundles in the background, some at a time, and gives the milliseconds until all run.
    pub(crate) fn hold(&mut self, runtime: &Path, root: &Path, bundles: &[(PathBuf, String)]) -> Result<f64> {
        let mut line = format!("hold {} {}", runtime.display(), root.display());
        bundles.iter().for_each(|(dir, id)| line.push_str(&format!(" {} {id}", dir.display())));
        self.ask(&line)
    }

    /// Ends and removes a container.
    pub(crate) fn delete(&mut self, runtime: &Path, root: &Path, id: &str) -> Result<()> {
        self.ask(&format!("done {} --root {} delete --force {id}", runtime.display(), root.display()))
            .map(drop)
    }

    fn ask(&mut self, request: &str) -> Result<f64> {
        writeln!(self.to, "{request}")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        line.trim().parse().map_err(|_| format!("{request:.200}: {}", line.trim()).into())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends by itself when its standard input does; this is for one that hangs.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The launcher's own side.
pub(crate) fn serve() -> Result<()> {
    hide_unified()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[..] {
            ["byte", program, ref args @ ..] => first_byte(program, args),
            ["done", program, ref args @ ..] => finish(Command::new(program).args(args)).map(|()| 0.0),
            ["hold", program, root, ref bundles @ ..] => hold(program, root, bundles),
            _ => return Err("not a request".into()),
        };
        match done {
            Ok(milliseconds) => println!("{milliseconds}"),
            Err(error) => println!("{}", error.to_string().replace('\n', " ")),
        }
        stdout().flush()?;
    }
    Ok(())
}

/// Only where v1 is there too.
fn hide_unified() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let of_kind = |kind: &str| fields.iter().filter(|f| f.get(2) == Some(&kind)).count();
    if of_kind("cgroup") == 0 {
        return Ok(());
    }
    for point in fields.iter().filter(|f| f.get(2) == Some(&"cgroup2")).filter_map(|f| f.get(1)) {
        rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH)?;
    }
    Ok(())
}

pub(crate) fn first_byte(program: &str, args: &[&str]) -> Result<f64> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut out = child.stdout.take().ok_or("no pipe")?;
    let mut byte = [0];
    let got = out.read(&mut byte)?;
    let took = began.elapsed();
    let output = child.wait_with_output()?;
    if got == 0 || !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(took.as_secs_f64() * 1e3)
}

/// As many at a time as ours, each lane one after the other.
fn hold(program: &str, root: &str, bundles: &[&str]) -> Result<f64> {
    let bundles: Vec<(&str, &str)> = bundles.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let began = Instant::now();
    let lane = |first: usize| -> std::result::Result<(), String> {
        for (dir, id) in bundles.iter().skip(first).step_by(LANES) {
            let mut command = Command::new(program);
            command.args(["--root", root, "run", "--detach", "--bundle", dir, id]);
            finish(&mut command).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|first| scope.spawn(move || lane(first))).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| "a lane died".to_owned())?)
    })?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// What a container that stays keeps open must not be a pipe of ours.
fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

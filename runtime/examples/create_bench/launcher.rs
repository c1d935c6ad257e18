//! A process that starts other runtimes and times them, in a mount namespace in which they can work.
//!
//! crun refuses a machine with cgroup v1 and v2 side by side; without the v2 mount it sees plain v1. The namespace is
//! made once, so that none of this is in anybody's time. One line in, one line out.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _, stdin, stdout},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use crate::Result;

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
        writeln!(self.to, "{} {} {} {id}", runtime.display(), root.display(), bundle.display())?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        line.trim().parse().map_err(|_| format!("{} run: {}", runtime.display(), line.trim()).into())
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
        let [runtime, root, bundle, id] = words[..] else { return Err("not a request".into()) };
        match run(runtime, root, bundle, id) {
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

fn run(runtime: &str, root: &str, bundle: &str, id: &str) -> Result<f64> {
    let mut command = Command::new(runtime);
    command.args(["--root", root, "run", "--bundle", bundle, id]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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

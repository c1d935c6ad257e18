//! A process that waits for the end of this one, however it comes, and then tidies up.
//!
//! Not for: the ordinary way out, where errors are told; there the work is done already, or done here and waited for.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};

pub(super) struct Janitor {
    process: Child,
    /// Closed by the kernel at the latest.
    alive: Option<ChildStdin>,
}

impl Janitor {
    /// `script` is shell; the words are its `$0`, `$1`, ….
    pub(super) fn hire(script: &str, words: &[&OsStr]) -> Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("cat; {script}")).args(words);
        // What ends this process group from the keyboard must not end it.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut process = command.spawn().context("start the process that tidies up")?;
        let alive = process.stdin.take();
        Ok(Self { process, alive })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.alive.take());
        match self.process.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!("  ✘ tidying up after the bench failed: {other:?}"),
        }
    }
}

//! Runs one plugin: a program, its environment, its input, its answer, and an end after a time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

use crate::spec::Fault;

/// Results of plugins are a few kilobytes.
const ANSWER_MAX: usize = 4 << 20;
/// What is kept of what a plugin says on the side.
const ASIDE_MAX: usize = 4 << 10;

/// A plugin gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such program.
    #[error("failed to find plugin {kind:?} in path [{}]", join(dirs, " "))]
    Missing {
        /// Its name.
        kind: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// It could not be run, or not be listened to.
    #[error("run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was killed.
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// Its own words.
    #[error("{0}")]
    Said(String),
    /// It failed without the words that the specification wants.
    #[error("{status} with no error message{}", aside(stderr))]
    Silent {
        /// How it ended.
        status: ExitStatus,
        /// What it said on the side.
        stderr: String,
    },
    /// It ended well with an answer that is none.
    #[error("its answer is not valid")]
    Answer(#[source] serde_json::Error),
    /// It ended well and said nothing where a result is due.
    #[error("it gave no result")]
    NoResult,
}

fn aside(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// Directories as the environment or a text has them.
pub(crate) fn join(dirs: &[PathBuf], separator: &str) -> String {
    dirs.iter().map(|dir| dir.to_string_lossy()).collect::<Vec<_>>().join(separator)
}

/// The first file of this name.
pub(crate) fn find(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    let mut candidates = dirs.iter().map(|dir| dir.join(kind));
    let found = candidates.find(|path| path.metadata().is_ok_and(|meta| meta.is_file()));
    found.ok_or_else(|| PluginError::Missing { kind: kind.to_owned(), dirs: dirs.to_vec() })
}

/// An input that nobody waits for: a file without a name.
pub(crate) fn stdin(text: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("cni-stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

/// Runs the program in a process group of its own, and returns what it printed if it ended well.
pub(crate) async fn run(
    program: &Path,
    environment: &BTreeMap<&str, String>,
    stdin: Stdio,
    limit: Duration,
) -> Result<Vec<u8>, PluginError> {
    let fault = |source| PluginError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CNI_")) {
        command.env_remove(name);
    }
    command.envs(environment).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(fault)?;
    // The command holds its input; whoever waits for that must wait for the plugin only.
    drop(command);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::join!(read(stdout, ANSWER_MAX), read(stderr, ASIDE_MAX), child.wait()) };
    let Ok((stdout, stderr, status)) = timeout(limit, all).await else {
        kill(&mut child).await;
        return Err(PluginError::TimedOut(limit));
    };
    let (stdout, status) = (stdout.map_err(fault)?, status.map_err(fault)?);
    let stderr = String::from_utf8_lossy(&stderr.unwrap_or_default()).trim().to_owned();
    if status.success() {
        if !stderr.is_empty() {
            tracing::debug!(plugin = %program.display(), stderr);
        }
        return Ok(stdout);
    }
    let said = serde_json::from_slice(&stdout).ok().map(|fault: Fault| fault.text());
    match said.filter(|text| !text.is_empty()) {
        Some(text) => Err(PluginError::Said(text)),
        None => Err(PluginError::Silent { status, stderr }),
    }
}

/// Reads to the end and keeps the beginning: a writer must never wait.
async fn read(stream: Option<impl AsyncRead + Unpin>, max: usize) -> io::Result<Vec<u8>> {
    let Some(mut stream) = stream else { return Ok(Vec::new()) };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(kept);
        }
        let room = max.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// With all that it has started.
async fn kill(child: &mut Child) {
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        tracing::warn!(%error, "kill a CNI plugin that takes too long");
    }
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "wait for a CNI plugin that was killed");
    }
}

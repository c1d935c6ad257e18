//! Runs a credential-provider plugin: the request on its standard input, the answer on its standard output.
//!
//! It gets the agent's environment (cloud plugins find their settings there) and a process group of its own, which ends
//! with it. Not for: deciding whether to ask, reading the answer.

use std::{io, path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use super::config::Provider;

/// Longer answers are none.
const OUTPUT_MAX: usize = 1 << 20;
/// Of what it complains.
const COMPLAINT_MAX: usize = 2 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("cannot be run: {0}")]
    Start(io::Error),
    #[error("did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("answered more than {OUTPUT_MAX} bytes")]
    TooLong,
    #[error("ended with {status}: {complaint}")]
    Failed { status: std::process::ExitStatus, complaint: String },
    #[error("cannot be talked to: {0}")]
    Talk(io::Error),
}

/// The plugin's process group; killed when dropped, children that it left included.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The leader is not reaped before this: tokio keeps the child, so its id cannot be someone else's yet.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _gone_already = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

pub(super) async fn run(
    program: &Path,
    provider: &Provider,
    repository: &str,
    limit: Duration,
) -> Result<Vec<u8>, RunError> {
    let request = json!({
        "apiVersion": provider.api_version, "kind": "CredentialProviderRequest", "image": repository,
    });
    let child = Command::new(program)
        .args(&provider.args)
        .envs(provider.env.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(RunError::Start)?;
    let mut group = Group(child);
    let pipes = (group.0.stdin.take(), group.0.stdout.take(), group.0.stderr.take());
    let talk = async {
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(RunError::Talk(io::ErrorKind::BrokenPipe.into()));
        };
        let ask = async {
            // A plugin that does not read its request may still know the answer.
            let _not_read = stdin.write_all(request.to_string().as_bytes()).await;
            drop(stdin);
        };
        let ((), answer, complaint) =
            tokio::join!(ask, read(stdout, OUTPUT_MAX), read(stderr, COMPLAINT_MAX));
        // Both ends are closed; what it does after that is bounded by the time limit too.
        Ok((answer.map_err(RunError::Talk)?, complaint.unwrap_or_default()))
    };
    let outcome = tokio::time::timeout(limit, async {
        let said = talk.await?;
        Ok::<_, RunError>((said, group.0.wait().await.map_err(RunError::Talk)?))
    });
    let ((answer, complaint), status) = outcome.await.map_err(|_| RunError::TimedOut(limit))??;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        return Err(RunError::Failed { status, complaint });
    }
    if answer.len() > OUTPUT_MAX {
        return Err(RunError::TooLong);
    }
    Ok(answer)
}

/// Reads to the end and keeps a little more than `max` bytes.
async fn read(mut from: impl AsyncRead + Unpin, max: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(kept);
        }
        if kept.len() <= max {
            kept.extend_from_slice(&buffer[..n]);
        }
    }
}

//! `orlop exec` and `orlop attach`: a container's streams, joined to those of this command.

use std::{io::IsTerminal as _, path::Path, process, time::Duration};

use anyhow::{Context as _, Result, bail};
use orlop::args::{DirArgs, TargetArgs};
use orlop_runtime::{
    Container, ContainerState,
    stream::{self, Ends, Session, StreamedCommand, Streams, Terminal},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
};

use super::{
    find,
    terminal::{Raw, window},
};

/// Runs a command and ends with its exit status.
///
/// # Errors
/// There is no such container here, it does not run, or the command is not there.
pub(crate) fn exec(
    stdin: bool,
    tty: bool,
    target: &TargetArgs,
    command: Vec<String>,
    dirs: &DirArgs,
) -> Result<()> {
    let (uid, Container { id, .. }) = running(target, dirs)?;
    let streams = Streams { stdin, stdout: true, stderr: true };
    let raw = tty.then(Raw::new).transpose()?;
    let command =
        StreamedCommand { command, terminal: tty.then(window), streams, ..StreamedCommand::default() };
    let code = block_on(async {
        let session = stream::stream(&dirs.run_dir, &uid, &id, command).await?;
        join(session).await
    });
    drop(raw);
    // Not by returning: a thread may still wait for standard input.
    process::exit(code?)
}

/// Shows what a container writes until it ends. Who types into a container's terminal sees what it makes of every key.
///
/// # Errors
/// There is no such container here, or it does not run.
pub(crate) fn attach(stdin: bool, target: &TargetArgs, dirs: &DirArgs) -> Result<()> {
    let (uid, Container { id, tty, .. }) = running(target, dirs)?;
    let streams = Streams { stdin, stdout: true, stderr: true };
    let raw = (stdin && tty && std::io::stdin().is_terminal()).then(Raw::new).transpose()?;
    let code = block_on(async {
        let session = stream::attach(&dirs.run_dir, &uid, &id, streams).await?;
        if raw.is_none() {
            return join(session).await;
        }
        tokio::select! {
            code = join(session) => code,
            error = keep_size(&dirs.run_dir, &uid, &id) => Err(error),
        }
    });
    drop(raw);
    process::exit(code?)
}

/// Gives the container's terminal the size of this one, and whatever it becomes.
async fn keep_size(run_dir: &Path, uid: &str, id: &str) -> anyhow::Error {
    let mut resized = match signal(SignalKind::window_change()) {
        Ok(resized) => resized,
        Err(error) => return error.into(),
    };
    loop {
        if let Err(error) = stream::resize(run_dir, uid, id, window()).await {
            return error.into();
        }
        resized.recv().await;
    }
}

/// UID of the pod, and the container.
fn running(target: &TargetArgs, dirs: &DirArgs) -> Result<(String, Container)> {
    let pods = orlop_runtime::list(&dirs.run_dir);
    let (pod, container) = find::container(&pods, &target.pod, target.container.as_deref())?;
    if !matches!(container.state, ContainerState::Running { .. }) {
        bail!("container {} of pod {}/{} does not run", container.name, pod.pod.namespace, pod.pod.name);
    }
    Ok((pod.pod.uid.clone(), container.clone()))
}

fn block_on(work: impl Future<Output = Result<i32>>) -> Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    let result = runtime.block_on(work);
    // Dropped, it would wait for the thread that reads standard input: until the next key.
    runtime.shutdown_background();
    result
}

/// What the command wrote last is still shown; a process that it left behind may hold its output for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Moves bytes both ways until the command has ended.
async fn join(mut session: Session) -> Result<i32> {
    let Ends { stdin, stdout, stderr, terminal } = std::mem::take(&mut session.ends);
    if let Some(terminal) = terminal {
        return until_the_end(use_terminal(terminal), session).await;
    }
    if let Some(stdin) = stdin {
        tokio::spawn(give(stdin));
    }
    let show = async {
        tokio::join!(show(stdout, tokio::io::stdout()), show(stderr, tokio::io::stderr()));
    };
    until_the_end(show, session).await
}

async fn until_the_end(shown: impl Future<Output = ()>, mut session: Session) -> Result<i32> {
    tokio::pin!(shown);
    let code = tokio::select! {
        () = &mut shown => return Ok(session.wait().await?),
        code = session.wait() => code?,
    };
    // Past the time there is nothing to wait for.
    tokio::time::timeout(LAST_WORDS, shown).await.ok();
    Ok(code)
}

async fn use_terminal(terminal: Terminal) {
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    let (mut here, mut out) = (tokio::io::stdin(), tokio::io::stdout());
    let mut terminal = terminal;
    let (mut typed, mut shown) = ([0; 1024], [0; 16 << 10]);
    loop {
        tokio::select! {
            got = terminal.read(&mut shown) => {
                let Ok(got @ 1..) = got else { return };
                if !put(&mut out, &shown[..got]).await {
                    return;
                }
            }
            got = here.read(&mut typed) => {
                let Ok(got @ 1..) = got else { return };
                if !put(&mut terminal, &typed[..got]).await {
                    return;
                }
            }
            _ = resized.recv() => drop(terminal.resize(window())),
        }
    }
}

async fn give(mut to: pipe::Sender) {
    // Dropped at the end: that is the end of the input over there.
    drop(tokio::io::copy(&mut tokio::io::stdin(), &mut to).await);
}

async fn show(from: Option<pipe::Receiver>, mut to: impl AsyncWrite + Unpin) {
    let Some(mut from) = from else { return };
    let mut bytes = vec![0; 16 << 10];
    while let Ok(got @ 1..) = read(&mut from, &mut bytes).await {
        if !put(&mut to, &bytes[..got]).await {
            return;
        }
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> std::io::Result<usize> {
    from.read(bytes).await
}

async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    to.write_all(bytes).await.is_ok() && to.flush().await.is_ok()
}

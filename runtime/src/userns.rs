//! A user namespace for a pod: made by a small process of its own, filled with a map, kept by whoever pins it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Error, Result, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::mount::MountAttrFlags;

use crate::{create::tree, ids::IdRange};

/// Whether pods can have users of their own here, by doing it: a user namespace, and mounts mapped to it of what is on the
/// disk and in memory.
pub(crate) fn possible(shim: &Path, state_dir: &Path) -> Result<()> {
    let holder = Holder::start(shim, IdRange::for_pods(1))?;
    let namespace = File::open(holder.namespace("user"))?.into();
    for (what, tree) in [
        (state_dir.display().to_string(), tree::copy_alone(state_dir)?),
        ("a file system in memory".to_owned(), tree::new("tmpfs", &[], MountAttrFlags::empty())?),
    ] {
        let failed = |error| Error::other(format!("{what}: {error}"));
        tree::map_owners(&tree, &namespace).map_err(failed)?;
    }
    Ok(())
}

/// A process in new user, network, IPC and UTS namespaces, the latter owned by the former. It ends when this is dropped.
pub(crate) struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts `orlop-shim hold`.
    pub(crate) fn start(shim: &Path, ids: IdRange) -> Result<Holder> {
        let mut command = Command::new(shim);
        command.arg("hold").env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let named = |error| Error::other(format!("start {}: {error}", shim.display()));
        let mut child = command.spawn().map_err(named)?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| Error::other("no pipe"))?;
        let mut holder = Holder { child, input, output: BufReader::new(output) };
        holder.done("make a user namespace")?;
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", holder.child.id());
            let failed = |error| Error::other(format!("write the pod's {map}: {error}"));
            std::fs::write(path, ids.map()).map_err(failed)?;
        }
        if let Some(input) = &mut holder.input {
            input.write_all(b"go\n")?;
        }
        holder.done("make namespaces in the user namespace")?;
        Ok(holder)
    }

    /// Link to a namespace of it, by its name in /proc.
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        format!("/proc/{}/ns/{name}", self.child.id()).into()
    }

    fn done(&mut self, step: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim_end() {
            "ok" => Ok(()),
            "" => Err(Error::other(format!("{step}: the process that does it died"))),
            error => Err(Error::other(format!("{step}: {error}"))),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "wait for the holder of namespaces");
        }
    }
}

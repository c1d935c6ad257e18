//! The files of a pod that its containers see in `/etc`, in a directory per pod. Not for: what stands in them.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::PathBuf};

/// `<run_dir>/cri/<pod>/{hosts,hostname,resolv.conf}`.
#[derive(Clone, Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    pub(super) fn dir(&self, pod: &str) -> PathBuf {
        self.0.join(pod)
    }

    pub(super) fn write(&self, pod: &str, name: &str, text: &str) -> io::Result<()> {
        let dir = self.dir(pod);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), text)
    }

    /// Fine if there is nothing.
    pub(super) fn remove(&self, pod: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.dir(pod)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes what belongs to none of these.
    pub(super) fn sweep(&self, pods: &[String]) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && !pods.contains(&name)
                && let Err(error) = self.remove(&name)
            {
                tracing::warn!(name, %error, "files of a pod that is gone");
            }
        }
    }
}

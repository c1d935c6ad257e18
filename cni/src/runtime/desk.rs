//! The file that plugins of one attachment read, locked for as long as one of them lives.
//!
//! A plugin inherits the open file as its standard input, and the lock with it. So a process that comes after a killed
//! one waits for the plugin that the other left behind, instead of taking away what is still being built.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(20);

/// Ours until it is dropped and no plugin lives.
pub(crate) struct Desk {
    path: PathBuf,
    file: File,
}

impl Desk {
    /// Waits for a plugin that an earlier process has started, but not for ever.
    pub(crate) async fn take(dir: &Path, uid: &str, patience: Duration) -> io::Result<Self> {
        let dir = dir.join("running");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let path = dir.join(uid);
        let until = Instant::now() + patience;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file }),
                Ok(()) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(io::Error::other(
                        "a plugin that an earlier process has started does not end",
                    ));
                }
                Err(TryLockError::WouldBlock) => sleep(PAUSE).await,
            }
        }
    }

    /// The input of the next plugin.
    pub(crate) fn stdin(&mut self, text: &[u8]) -> io::Result<Stdio> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(text)?;
        self.file.rewind()?;
        Ok(self.file.try_clone()?.into())
    }
}

impl Drop for Desk {
    /// While the lock is held: who waits for it finds that the file is another one.
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, file = %self.path.display(), "remove the input of CNI plugins");
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let (held, there) = (file.metadata().map(identity), fs::metadata(path).map(identity));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use tempfile::TempDir;

    #[tokio::test]
    async fn a_plugin_left_behind_is_waited_for() {
        let dir = TempDir::new().unwrap();
        let short = Duration::from_millis(100);
        // What a kill leaves: the locked file, and a child that has it.
        fs::create_dir(dir.path().join("running")).unwrap();
        let file = File::create(dir.path().join("running/c1")).unwrap();
        file.try_lock().unwrap();
        let mut plugin = Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
        let error = Desk::take(dir.path(), "c1", short).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), "a plugin that an earlier process has started does not end");
        Desk::take(dir.path(), "c2", short).await.map(drop).unwrap();
        plugin.kill().unwrap();
        plugin.wait().unwrap();
        Desk::take(dir.path(), "c1", short).await.map(drop).unwrap();
    }

    #[tokio::test]
    async fn one_after_the_other_has_it_and_nothing_is_left() {
        let dir = TempDir::new().unwrap();
        let long = Duration::from_secs(10);
        let first = Desk::take(dir.path(), "c1", long).await.unwrap();
        let (second, ()) = tokio::join!(Desk::take(dir.path(), "c1", long), async {
            sleep(PAUSE * 3).await;
            drop(first);
        });
        drop(second.unwrap());
        assert_eq!(fs::read_dir(dir.path().join("running")).unwrap().count(), 0);
    }
}

//! Network namespaces: opening them by path and running a function inside one.
//!
//! A socket stays in the namespace it was made in, so a visit needs only to last as long as opening one. The
//! visit happens on a thread of its own: the calling thread (tokio's) never changes its namespace, and a failed
//! return could not strand it.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing could be opened at the path.
    #[error("open network namespace {}", path.display())]
    Open {
        /// The namespace's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no network namespace, or entering it is not allowed.
    #[error("enter network namespace {}", path.display())]
    Enter {
        /// The namespace's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path leads to the namespace of the node itself.
    #[error("{} is the node's own network namespace", path.display())]
    Own {
        /// The namespace's path.
        path: PathBuf,
    },
    /// No thread could be started.
    #[error("start a thread to enter a network namespace")]
    Thread(#[source] io::Error),
}

/// Tells this thread's namespace from others, before and after the machine was started anew.
pub(crate) fn own_identity() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let own =
        std::fs::metadata("/proc/thread-self/ns/net").map(|meta| format!("{}:{}", meta.dev(), meta.ino()));
    format!("{}/{}", boot.trim(), own.unwrap_or_default())
}

/// An open network namespace that is not the node's.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Opens the namespace at `path` (a bind mount of, or a link in, `/proc/<pid>/ns/net`).
    pub(crate) fn open(path: &Path) -> Result<Self, NetnsError> {
        let fault = |source| NetnsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(fault)?;
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let own = std::fs::metadata("/proc/thread-self/ns/net").map(identity).map_err(fault)?;
        if file.metadata().map(identity).map_err(fault)? == own {
            return Err(NetnsError::Own { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// The open namespace, for messages that name it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Runs `visit` inside the namespace.
    pub(crate) fn run<T: Send>(&self, visit: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })?;
            Ok(visit())
        };
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            match visitor.map_err(NetnsError::Thread)?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

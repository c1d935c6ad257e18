//! Ends sockets that are connected to a backend that is gone, so that their programs connect anew: UDP always, TCP where
//! the Service is annotated `orlop.dev/close-connections: "true"`.
//!
//! ```text
//! removed backends ─┐
//! every minute ─────┴▶ PEERS (what the programs connected) ─▶ plan ─▶ per network namespace: sock_diag ─▶ SOCK_DESTROY
//! ```
//! Only sockets that our programs connected are known here, and they are found by their cookie: nobody else's is ended.
//! Unconnected UDP needs none of this: each datagram is decided for itself.
//! Not for: connections at the devices, where a packet of UDP moves on by itself, and TCP stays until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc;

use crate::loader;
use crate::maps::{MapError, Removed, seen};
use crate::reconcile::chain;
use crate::tables::{BackendId, ServiceId};

pub(crate) mod namespaces;
pub mod plan;
mod sockets;

pub use sockets::SocketError;

/// How long a backend may be gone before its sockets are: slices are rewritten in several steps.
const PATIENCE: Duration = Duration::from_millis(250);

/// Why sockets of backends that are gone go on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// What the programs wrote down.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// Who runs in the cgroup.
    #[error("list the processes of {cgroup}")]
    Processes {
        /// The cgroup.
        cgroup: PathBuf,
        #[source]
        /// Cause.
        source: io::Error,
    },
    /// The thread that goes into namespaces.
    #[error("start a thread that goes into network namespaces")]
    Thread(#[source] io::Error),
    /// A network namespace.
    #[error("go into a network namespace")]
    Enter(#[source] io::Error),
    /// The sockets there.
    #[error(transparent)]
    Sockets(#[from] SocketError),
}

/// Sweeps whenever backends were removed, until nobody sends any more.
pub(crate) async fn follow(
    bpffs: PathBuf,
    cgroup: PathBuf,
    mut removed: mpsc::UnboundedReceiver<BTreeSet<Removed>>,
) {
    let mut told = None;
    while let Some(mut gone) = removed.recv().await {
        tokio::time::sleep(PATIENCE).await;
        while let Ok(more) = removed.try_recv() {
            gone.extend(more);
        }
        let (bpffs, cgroup) = (bpffs.clone(), cgroup.clone());
        let swept = tokio::task::spawn_blocking(move || sweep(&bpffs, &cgroup, &gone)).await;
        let failed = match swept {
            Ok(Ok(0)) => None,
            Ok(Ok(ended)) => {
                tracing::info!(sockets = ended, "ended sockets whose backend is gone");
                None
            }
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(chain(&error)),
        };
        if failed != told
            && let Some(error) = &failed
        {
            tracing::warn!(error, "sockets stay connected to backends that are gone");
        }
        told = failed;
    }
}

/// Ends the sockets below `cgroup`, and in this network namespace, whose backend no longer stands in the maps; TCP only of those `removed`. Says how many.
///
/// # Errors
/// When maps, processes or sockets cannot be read, or the kernel ends no sockets. What could be ended was.
pub fn sweep(bpffs: &Path, cgroup: &Path, removed: &BTreeSet<Removed>) -> Result<usize, SweepError> {
    let pins = loader::pins(bpffs);
    let peers = seen::Peers::open(&pins)?;
    let connected = peers.all();
    if connected.is_empty() {
        return Ok(0);
    }
    let backends = seen::Backends::open(&pins)?;
    let suspects = plan::suspects(connected, removed, |id: BackendId| backends.get(id));
    if suspects.is_empty() {
        return Ok(0);
    }
    let standing: BTreeSet<(ServiceId, _)> = backends.all()?;
    let ended = plan::ended(suspects, &standing);
    let wanted: BTreeMap<u64, plan::Connected> =
        ended.into_iter().map(|socket| (socket.cookie, socket)).collect();
    if wanted.is_empty() {
        return Ok(0);
    }
    let places = namespaces::below_and_own(cgroup)
        .map_err(|source| SweepError::Processes { cgroup: cgroup.to_owned(), source })?;
    // A thread of its own: it cannot come back from where it went.
    let thread = std::thread::Builder::new().name("sweep".to_owned());
    let running = thread.spawn(move || {
        let mut peers = peers;
        let (mut left, mut count, mut failed) = (wanted, 0, None);
        for place in places {
            if left.is_empty() {
                break;
            }
            let entered = move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network));
            let ended = entered
                .map_err(|error| SweepError::Enter(error.into()))
                .and_then(|()| Ok(sockets::end(&left)?));
            match ended {
                Ok(ended) => {
                    count += ended.len();
                    ended.iter().filter_map(|cookie| left.remove(cookie)).for_each(|one| peers.forget(&one));
                }
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(count), Err)
    });
    let ended = running.map_err(SweepError::Thread)?.join();
    ended.unwrap_or_else(|_| Err(SweepError::Thread(io::Error::other("it panicked"))))
}

//! The ring that the programs write events to, and the word that says for how long somebody listens.

use std::path::Path;

use aya::maps::{Array, MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{EVENTS, MapError, WATCHED, pinned};

/// Both.
pub(crate) struct Ring {
    events: RingBuf<MapData>,
    watched: Array<MapData, u32>,
}

impl Ring {
    /// As pinned in this directory.
    ///
    /// # Errors
    /// When they are not there.
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        Ok(Self { events: pinned(pins, EVENTS)?, watched: pinned(pins, WATCHED)? })
    }

    /// The oldest event that `read` understands; none if there is none.
    pub(crate) fn take<T>(&mut self, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        loop {
            let item = self.events.next()?;
            if let Some(read) = read(&item) {
                return Some(read);
            }
        }
    }

    /// Waits for an event, but not longer than a second.
    pub(crate) fn wait(&self) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // A signal is no error: whoever waits looks, and comes again.
        let _interrupted = poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&second));
    }

    /// Has the programs tell until this second since the machine started; 0: no more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn listen(&mut self, until: u32) -> Result<(), MapError> {
        self.watched.set(0, until, 0).map_err(|source| MapError::new("say that somebody listens", source))
    }
}

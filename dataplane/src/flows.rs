//! New connections to services and what was decided about them, as the programs tell it: for `orlop flows`.
//!
//! One listener at a time: what one takes out of the ring nobody else sees. Not for: connections under way (`describe`).

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use orlop_abi::FlowEvent;
use rustix::fs::{FlockOperation, flock};

use crate::describe::protocol_name;
use crate::loader::pins;
use crate::maps::ring::Ring;
use crate::maps::{MapError, codec::address};
use crate::sys;

/// For how long the programs tell after the listener was last heard of, in seconds.
const PATIENCE: u32 = 5;

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The maps.
    #[error("listen to the programs")]
    Map(#[from] MapError),
    /// The file that keeps others away.
    #[error("lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        #[source]
        /// What the kernel says.
        source: io::Error,
    },
    /// There is one already.
    #[error("somebody else listens already: what one hears no other does")]
    Taken,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// Since the machine started.
    pub at: Duration,
    /// Protocol, by name.
    pub protocol: &'static str,
    /// Who sent the packet; none for calls of a process.
    pub source: Option<SocketAddr>,
    /// Whose call it was: process and its command.
    pub process: Option<(u32, String)>,
    /// What was asked for.
    pub asked: SocketAddr,
    /// What it got.
    pub backend: Option<SocketAddr>,
    /// Why it got nothing.
    pub refused: Option<&'static str>,
}

impl FlowView {
    /// By the clock of now.
    #[must_use]
    pub fn when(&self) -> SystemTime {
        SystemTime::now() - sys::monotonic().saturating_sub(self.at)
    }
}

/// A listener.
pub struct Flows {
    ring: Ring,
    _lock: File,
}

impl Flows {
    /// Begins to listen to the programs pinned there; `lock` is a file of ours.
    ///
    /// # Errors
    /// When nothing is pinned, or somebody else listens.
    pub fn listen(bpffs: &Path, lock: &Path) -> Result<Self, FlowsError> {
        let fail = |source| FlowsError::Lock { path: lock.to_owned(), source };
        let file = File::options().create(true).append(true).mode(0o600).open(lock).map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FlowsError::Taken),
            Err(error) => return Err(fail(error.into())),
        }
        let mut flows = Self { ring: Ring::open(&pins(bpffs))?, _lock: file };
        // What lies there was told to somebody before.
        while flows.ring.take(view).is_some() {}
        flows.stay()?;
        Ok(flows)
    }

    /// Waits until something happens, but not longer than a second; none if nothing did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self) -> Result<Option<FlowView>, FlowsError> {
        if let Some(view) = self.ring.take(view) {
            return Ok(Some(view));
        }
        self.stay()?;
        self.ring.wait();
        Ok(self.ring.take(view))
    }

    fn stay(&mut self) -> Result<(), MapError> {
        let now = u32::try_from(sys::monotonic().as_secs()).unwrap_or(u32::MAX);
        self.ring.listen(now.saturating_add(PATIENCE))
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        // The programs stop by themselves soon.
        let _refused = self.ring.listen(0);
    }
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").finish_non_exhaustive()
    }
}

/// None for what no version of ours wrote.
fn view(bytes: &[u8]) -> Option<FlowView> {
    let bytes: &[u8; size_of::<FlowEvent>()] = bytes.try_into().ok()?;
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let ip = |at: usize| address([word(at), word(at + 4), word(at + 8), word(at + 12)]);
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let end = |ip: IpAddr, port: u16| (!ip.is_unspecified()).then(|| SocketAddr::new(ip, port));
    let nanoseconds = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (pid, command) = (word(56), &bytes[72..]);
    let command = command.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(FlowView {
        at: Duration::from_nanos(nanoseconds),
        protocol: protocol_name(bytes[70]),
        source: end(ip(8), port(64)),
        process: (pid != 0).then(|| (pid, String::from_utf8_lossy(command).into_owned())),
        asked: SocketAddr::new(ip(24), port(66)),
        backend: end(ip(40), port(68)),
        refused: FlowEvent::reason(bytes[71]),
    })
}

impl fmt::Display for FlowView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4} ", self.protocol)?;
        match (&self.source, &self.process) {
            (Some(source), _) => write!(f, "{source}")?,
            // What a process calls itself may be anything.
            (None, Some((pid, command))) => write!(f, "{} ({pid})", command.escape_debug())?,
            (None, None) => f.write_str("?")?,
        }
        write!(f, " -> {}", self.asked)?;
        match (&self.backend, self.refused) {
            (Some(backend), None) => write!(f, " -> {backend}"),
            (Some(backend), Some(why)) => write!(f, " -> {backend}: {why}"),
            (None, why) => write!(f, ": {}", why.unwrap_or("left alone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(pid: u32, verdict: u8) -> Vec<u8> {
        let ip = |ip: [u8; 4]| [&[0; 10][..], &[0xff, 0xff], &ip].concat();
        let source = if pid == 0 { ip([10, 42, 0, 5]) } else { vec![0; 16] };
        let backend = if verdict == 0 { ip([10, 42, 0, 7]) } else { vec![0; 16] };
        let ports = [53412_u16.to_be_bytes(), 80_u16.to_be_bytes(), 8080_u16.to_be_bytes()].concat();
        let head = [&1_500_000_000_u64.to_ne_bytes()[..], &source, &ip([10, 96, 0, 1]), &backend].concat();
        let mut command = b"cu\nrl".to_vec();
        command.resize(16, 0);
        [&head[..], &pid.to_ne_bytes(), &3_u32.to_ne_bytes(), &ports, &[6, verdict], &command].concat()
    }

    #[test]
    fn what_was_told_is_said_in_words() {
        let said = |bytes: &[u8]| view(bytes).map(|view| view.to_string());
        assert_eq!(
            said(&bytes(0, 0)).as_deref(),
            Some("TCP  10.42.0.5:53412 -> 10.96.0.1:80 -> 10.42.0.7:8080")
        );
        assert_eq!(said(&bytes(7, 1)).as_deref(), Some("TCP  cu\\nrl (7) -> 10.96.0.1:80: no-endpoint"));
        assert_eq!(view(&bytes(0, 0)).unwrap().at, Duration::from_millis(1500));
        assert_eq!(view(&[0; 7]), None);
    }
}

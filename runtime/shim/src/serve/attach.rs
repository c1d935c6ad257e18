//! Who looks on while a container runs: copies of its output, and a way to its input.
//!
//! ```text
//!  container ── pipes or terminal ──▶ logs ── the same bytes ──▶ backlog ──▶ descriptors of each attachment
//!  descriptor of an attachment ──▶ pending ──▶ the container's input
//! ```
//! The container is never held up by who looks on: one that does not keep up is let go. Not for: what was written
//! before (that is in the log).

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{Server, commands::Asked, commands::assign, error, not_running};
use crate::{
    protocol::{Response, Step, Streams},
    sys,
};

/// Output that was not taken yet. A pipe holds 64 KiB more.
const MAX_BACKLOG: usize = 256 << 10;
/// Input is read in pieces of this size, and only when the last piece is gone.
const PIECE: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Attachment {
    id: String,
    client: u64,
    number: u32,
    input: Option<OwnedFd>,
    pending: Vec<u8>,
    /// stdout and stderr.
    outputs: [Option<OwnedFd>; 2],
    backlog: [Vec<u8>; 2],
    too_slow: bool,
}

pub(super) type Attached = BTreeMap<u64, Attachment>;

/// Hands a container's output on.
pub(super) fn feed(attached: &mut Attached, id: &str, which: usize, bytes: &[u8]) {
    for attachment in attached.values_mut().filter(|attachment| attachment.id == id) {
        if attachment.outputs[which].is_none() {
            continue;
        }
        attachment.backlog[which].extend_from_slice(bytes);
        attachment.flush(which);
        attachment.too_slow |= attachment.backlog[which].len() > MAX_BACKLOG;
    }
}

impl Attachment {
    fn flush(&mut self, which: usize) {
        while let Some(output) = self.outputs[which].as_ref().filter(|_| !self.backlog[which].is_empty()) {
            match sys::write(output.as_fd(), &self.backlog[which]) {
                Ok(Some(put)) => drop(self.backlog[which].drain(..put)),
                Ok(None) => return,
                // Nobody reads it any more.
                Err(_) => self.outputs[which] = None,
            }
        }
        self.backlog[which] = Vec::new();
    }

    /// Descriptors to wait for, given the container's input.
    pub(super) fn poll<'a>(&'a self, stdin: Option<&'a OwnedFd>) -> impl Iterator<Item = (&'a OwnedFd, i16)> {
        let idle = self.pending.is_empty();
        let from = self.input.as_ref().filter(|_| idle && stdin.is_some()).map(|fd| (fd, libc::POLLIN));
        let to = stdin.filter(|_| !idle).map(|fd| (fd, libc::POLLOUT));
        let out = self.outputs.iter().zip(&self.backlog).filter(|(_, backlog)| !backlog.is_empty());
        let out = out.filter_map(|(fd, _)| Some((fd.as_ref()?, libc::POLLOUT)));
        [from, to].into_iter().flatten().chain(out)
    }
}

impl Server {
    pub(super) fn attach(
        &mut self,
        Asked { client, number }: Asked,
        id: &str,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Response> {
        if self.table.pid(id).is_none() || !self.live.contains_key(id) {
            return Err(not_running(id));
        }
        let [input, stdout, stderr] = assign(streams, fds)?;
        for fd in [&input, &stdout, &stderr].into_iter().flatten() {
            sys::set_nonblocking(fd).map_err(|cause| error(Step::Shim, format!("attach: {cause}")))?;
        }
        let attachment = Attachment {
            id: id.to_owned(),
            client,
            number,
            input,
            pending: Vec::new(),
            outputs: [stdout, stderr],
            backlog: [Vec::new(), Vec::new()],
            too_slow: false,
        };
        let key = self.key();
        self.attached.insert(key, attachment);
        Ok(())
    }

    /// Moves what can be moved.
    pub(super) fn move_attached(&mut self, key: u64) {
        let Some(attachment) = self.attached.get_mut(&key) else { return };
        (0..2).for_each(|which| attachment.flush(which));
        let Some(live) = self.live.get_mut(&attachment.id) else { return };
        if let Some(input) = attachment.input.as_ref().filter(|_| attachment.pending.is_empty()) {
            match sys::read(input, &mut self.buffer[..PIECE]) {
                Ok(None) => {}
                Ok(Some(got)) if got > 0 => attachment.pending.extend_from_slice(&self.buffer[..got]),
                Ok(Some(_)) | Err(_) => {
                    attachment.input = None;
                    if live.stdin_once {
                        live.stdin = None;
                    }
                }
            }
        }
        while let Some(stdin) = live.stdin.as_ref().filter(|_| !attachment.pending.is_empty()) {
            match sys::write(stdin.as_fd(), &attachment.pending) {
                Ok(Some(put)) => drop(attachment.pending.drain(..put)),
                Ok(None) => return,
                // The container has closed its end.
                Err(_) => live.stdin = None,
            }
        }
        attachment.pending = Vec::new();
    }

    /// Ends what is over: the container and all it wrote, the connection, the patience.
    pub(super) fn sweep_attached(&mut self) {
        let mut over = Vec::new();
        for (key, attachment) in &self.attached {
            let known = self.live.get(&attachment.id);
            let ended = known.is_none_or(|live| live.logs.open().next().is_none());
            let taken = attachment.backlog.iter().all(Vec::is_empty);
            if attachment.too_slow || !self.clients.contains_key(&attachment.client) || ended && taken {
                over.push(*key);
            }
        }
        for key in over {
            let Some(gone) = self.attached.remove(&key) else { continue };
            let answer = match gone.too_slow {
                true => error(Step::Shim, "detached: the output was not read fast enough".to_owned()),
                false => Response::Ok,
            };
            if gone.input.is_some()
                && let Some(live) = self.live.get_mut(&gone.id).filter(|live| live.stdin_once)
            {
                live.stdin = None;
            }
            // The end of the streams comes before the answer.
            drop((gone.input, gone.outputs));
            self.answer(gone.client, gone.number, &answer);
        }
    }

    pub(super) fn attached_fds(&self) -> impl Iterator<Item = (u64, i32, i16)> {
        self.attached.iter().flat_map(|(key, attachment)| {
            let stdin = self.live.get(&attachment.id).and_then(|live| live.stdin.as_ref());
            attachment.poll(stdin).map(|(fd, events)| (*key, fd.as_raw_fd(), events))
        })
    }
}

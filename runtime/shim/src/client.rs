//! One connection: bytes in, whole frames out, and a bounded queue of answers.

use std::{
    io::{ErrorKind, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use crate::{
    protocol::{Response, next_frame},
    sys,
    wire::Malformed,
};

/// A client that does not read its answers is not waited for.
const MAX_QUEUE: usize = 8 << 20;
/// Streams of one command. Who sends more does not speak this protocol.
const MAX_FDS: usize = 3;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) subscribed: bool,
    pub(crate) gone: bool,
    /// Came along, and belong to the request that is read next.
    pub(crate) fds: Vec<OwnedFd>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Client {
        Client {
            stream,
            subscribed: false,
            gone: false,
            fds: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Reads what is there.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        loop {
            match sys::receive(self.stream.as_fd(), buffer, &mut self.fds) {
                Ok(None) => {}
                Ok(Some(got)) if got > 0 && self.fds.len() <= MAX_FDS => {
                    self.input.extend_from_slice(&buffer[..got]);
                    if got == buffer.len() {
                        continue;
                    }
                }
                Ok(Some(_)) | Err(_) => self.gone = true,
            }
            return;
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let frame = next_frame(&mut self.input);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        frame
    }

    pub(crate) fn send(&mut self, number: u32, response: &Response) {
        self.output.extend(response.frame(number));
        self.flush();
        self.gone |= self.output.len() > MAX_QUEUE;
    }

    pub(crate) fn flush(&mut self) {
        while !self.output.is_empty() && !self.gone {
            match self.stream.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
        self.output = Vec::new();
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }
}

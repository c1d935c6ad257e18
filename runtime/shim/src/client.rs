//! One connection: bytes in, whole frames out, and a bounded queue of answers.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use crate::{
    protocol::{Response, next_frame},
    wire::Malformed,
};

/// A client that does not read its answers is not waited for.
const MAX_QUEUE: usize = 8 << 20;

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) subscribed: bool,
    pub(crate) gone: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Client {
        Client { stream, subscribed: false, gone: false, input: Vec::new(), output: Vec::new() }
    }

    /// Reads what is there.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => self.gone = true,
                Ok(got) => {
                    self.input.extend_from_slice(&buffer[..got]);
                    if got == buffer.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.gone = true,
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

//! The output of one container: two pipes or a terminal in, one CRI log file out.

use std::{
    fs::File,
    io::{Result, Write},
    os::fd::OwnedFd,
};

use crate::{cri, cri::Splitter, sys};

/// Who else hears of output: which stream, and the bytes.
pub(crate) type Tap<'a> = &'a mut dyn FnMut(usize, &[u8]);

/// Reads per wake-up: a container that never stops writing must not stop the others.
const READS: usize = 16;

#[derive(Debug)]
pub(crate) struct Logs {
    pub(crate) file: File,
    /// Master of the container's terminal, where it has one: its output is all `stdout`.
    pub(crate) terminal: Option<OwnedFd>,
    pipes: [Option<OwnedFd>; 2],
    splitters: [Splitter; 2],
}

impl Logs {
    pub(crate) fn new(file: File, pipes: [Option<OwnedFd>; 2]) -> Logs {
        let splitters = [Splitter::new("stdout"), Splitter::new("stderr")];
        Logs { file, terminal: None, pipes, splitters }
    }

    /// The master of the container's terminal.
    pub(crate) fn use_terminal(&mut self, master: OwnedFd) -> Result<()> {
        sys::set_nonblocking(&master)?;
        self.pipes[0] = Some(master.try_clone()?);
        self.terminal = Some(master);
        Ok(())
    }

    /// Open pipes and their numbers.
    pub(crate) fn open(&self) -> impl Iterator<Item = (usize, &OwnedFd)> {
        self.pipes.iter().enumerate().filter_map(|(which, pipe)| Some((which, pipe.as_ref()?)))
    }

    /// Moves what is there. A disk that is full loses lines, never the container.
    pub(crate) fn pump(&mut self, which: usize, buffer: &mut [u8], tap: Tap<'_>) {
        for _ in 0..READS {
            let Some(pipe) = &self.pipes[which] else { return };
            let mut out = Vec::new();
            match sys::read(pipe, buffer) {
                Ok(None) => return,
                Ok(Some(got)) if got > 0 => {
                    let stamp = cri::timestamp(sys::now_ns());
                    self.splitters[which].push(&buffer[..got], &stamp, &mut out);
                    tap(which, &buffer[..got]);
                }
                Ok(Some(_)) | Err(_) => {
                    self.splitters[which].finish(&cri::timestamp(sys::now_ns()), &mut out);
                    self.pipes[which] = None;
                }
            }
            drop(self.file.write_all(&out));
        }
    }

    /// Both pipes, until nothing is there.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], tap: Tap<'_>) {
        (0..2).for_each(|which| self.pump(which, buffer, tap));
    }
}

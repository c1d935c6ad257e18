//! The output of one container: two pipes or a terminal in, one CRI log file out.

use std::{
    fs::File,
    io::{ErrorKind, Result, Write},
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
            append(&mut self.file, &out);
        }
    }

    /// Both pipes, until nothing is there.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], tap: Tap<'_>) {
        (0..2).for_each(|which| self.pump(which, buffer, tap));
    }
}

/// Whole records only: what a full disk cut off is taken away again, so that the next one does not go on in its middle.
fn append(file: &mut File, records: &[u8]) {
    let mut done = 0;
    while done < records.len() {
        match file.write(&records[done..]) {
            Ok(0) => break,
            Ok(written) => done += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let torn = records[..done].iter().rev().take_while(|byte| **byte != b'\n').count();
    if let (1.., Ok(meta)) = (torn, file.metadata()) {
        drop(file.set_len(meta.len().saturating_sub(torn as u64)));
    }
}

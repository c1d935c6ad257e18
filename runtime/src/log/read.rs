//! Reading a CRI log as the kubelet's log endpoint wants it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read, Result, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::Line;

const CHUNK: usize = 64 << 10;
/// A record is at most 16 KiB and a head; longer ones are not ours and are cut.
const MAX_RECORD: usize = 1 << 20;

/// Which part of a log, and how it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the last n records.
    pub tail: Option<u64>,
    /// Only records from then on.
    pub since: Option<Timestamp>,
    /// At most so many bytes of output.
    pub limit_bytes: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
}

/// A log file being read. Knows nothing of time: who follows calls [`Reader::next`] again when it may have grown.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    since: Option<Timestamp>,
    left: Option<u64>,
    timestamps: bool,
    rest: Vec<u8>,
    line_open: bool,
    /// There is a newer file: once more to the end of this one, then on.
    replaced: bool,
}

impl Reader {
    /// Opens a log and goes to where `tail` begins.
    pub fn open(path: &Path, options: &Options) -> Result<Reader> {
        let mut file = File::open(path)?;
        if let Some(tail) = options.tail {
            let start = tail_start(&mut file, tail)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let Options { since, limit_bytes, timestamps, tail: _ } = *options;
        let (path, rest) = (path.to_owned(), Vec::new());
        Ok(Reader {
            path,
            file,
            since,
            left: limit_bytes,
            timestamps,
            rest,
            line_open: false,
            replaced: false,
        })
    }

    /// The next piece of output. `None`: everything there is now has been read, or the limit is reached
    /// ([`Reader::finished`]).
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator ends once; this goes on when the file grows"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if self.finished() {
                return Ok(None);
            }
            let mut chunk = vec![0; CHUNK];
            let got = self.file.read(&mut chunk)?;
            if got == 0 {
                if self.reopen()? {
                    continue;
                }
                return Ok(None);
            }
            let out = self.show(&chunk[..got]);
            if !out.is_empty() {
                return Ok(Some(out));
            }
        }
    }

    /// The byte limit is reached: nothing more will come.
    pub fn finished(&self) -> bool {
        self.left == Some(0)
    }

    /// At the end of a file that was rotated away, goes on with the new one.
    fn reopen(&mut self) -> Result<bool> {
        let (mine, current) = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(mine), Ok(current)) => (mine, current),
            // Between rename and re-creation there is none.
            (_, Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(false),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        if (mine.dev(), mine.ino()) == (current.dev(), current.ino()) {
            // Truncated in place: start over.
            let position = self.file.stream_position()?;
            if current.len() < position {
                self.file.seek(SeekFrom::Start(0))?;
                return Ok(true);
            }
            return Ok(false);
        }
        // The writer has begun the new file by now, so this one does not grow any more; but it may have grown between
        // our last read and the look at the new one.
        if !std::mem::replace(&mut self.replaced, true) {
            return Ok(true);
        }
        self.replaced = false;
        self.file = File::open(&self.path)?;
        self.rest.clear();
        Ok(true)
    }

    fn show(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut bytes = bytes;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let mut record = std::mem::take(&mut self.rest);
            record.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.record(&record, &mut out);
        }
        let room = MAX_RECORD.saturating_sub(self.rest.len());
        self.rest.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= u64::try_from(out.len()).unwrap_or(*left).min(*left);
        }
        out
    }

    fn record(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(record) else { return };
        if self.since.is_some_and(|since| line.time < since) {
            return;
        }
        if self.timestamps && !self.line_open {
            out.extend_from_slice(line.stamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        self.line_open = line.partial;
    }
}

/// Offset where the last `count` records begin.
fn tail_start(file: &mut File, count: u64) -> Result<u64> {
    let mut at = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    // Starts of the last records; the newline before the oldest one wanted ends the search.
    let mut newlines: VecDeque<u64> = VecDeque::new();
    let end = at;
    while at > 0 {
        let size = u64::try_from(CHUNK).unwrap_or(u64::MAX).min(at);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut buffer[..usize::try_from(size).unwrap_or(CHUNK)];
        file.read_exact(part)?;
        let found = part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        for (offset, _) in found {
            let start = at + u64::try_from(offset).unwrap_or(0) + 1;
            // A newline at the very end closes the last record; it begins none.
            if start < end {
                newlines.push_front(start);
            }
            if u64::try_from(newlines.len()).unwrap_or(u64::MAX) >= count {
                return Ok(if count == 0 { end } else { newlines[0] });
            }
        }
    }
    Ok(if count == 0 { end } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n\
                       2026-01-01T00:00:02Z stdout P tw\n\
                       2026-01-01T00:00:03Z stdout F o\n\
                       rubbish\n\
                       2026-01-01T00:00:04Z stderr F three\n";

    fn read(reader: &mut Reader) -> String {
        let mut all = Vec::new();
        while let Some(piece) = reader.next().unwrap() {
            all.extend(piece);
        }
        String::from_utf8(all).unwrap()
    }

    fn check(options: Options, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, LOG).unwrap();
        let mut reader = Reader::open(&path, &options).unwrap();
        assert_eq!(read(&mut reader), expected, "{options:?}");
    }

    #[test]
    fn parts_and_shapes() {
        let all = Options::default();
        check(all.clone(), "one\ntwo\nthree\n");
        check(Options { tail: Some(0), ..all.clone() }, "");
        check(Options { tail: Some(1), ..all.clone() }, "three\n");
        check(Options { tail: Some(3), ..all.clone() }, "o\nthree\n");
        check(Options { tail: Some(99), ..all.clone() }, "one\ntwo\nthree\n");
        check(Options { limit_bytes: Some(5), ..all.clone() }, "one\nt");
        check(Options { since: "2026-01-01T00:00:03Z".parse().ok(), ..all.clone() }, "o\nthree\n");
        check(
            Options { timestamps: true, ..all },
            "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:04Z three\n",
        );
    }

    #[test]
    fn follows_growth_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:0").unwrap();
        let mut reader = Reader::open(&path, &Options::default()).unwrap();
        assert_eq!(read(&mut reader), "one\n");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"0:02Z stdout F two\n").unwrap();
        assert_eq!(read(&mut reader), "two\n");
        fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        file.write_all(b"2026-01-01T00:00:03Z stdout F three\n").unwrap();
        assert_eq!(read(&mut reader), "three\n");
        // The last line of the old file comes after our last look at it, and the new file is there when we look again.
        file.write_all(b"2026-01-01T00:00:03Z stdout F last\n").unwrap();
        fs::write(&path, "2026-01-01T00:00:04Z stdout F four\n").unwrap();
        assert_eq!(read(&mut reader), "last\nfour\n");
    }

    #[test]
    fn tail_looks_back_over_many_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines: String = (0..9000).map(|n| format!("2026-01-01T00:00:01Z stdout F line {n}\n")).collect();
        fs::write(&path, lines).unwrap();
        let options = Options { tail: Some(5000), ..Options::default() };
        let shown = read(&mut Reader::open(&path, &options).unwrap());
        assert_eq!(shown.lines().count(), 5000);
        assert!(shown.starts_with("line 4000\n"));
    }
}

//! Termination messages: a small file of the container, or the end of its log.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

const MAX_FILE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// Enough of the log's end: its lines carry a time and a stream name each, and are up to 16 KiB long; the first one is cut.
const LOG_TAIL: u64 = 48 << 10;

/// The end of the file's content; if it is empty, the end of `log` where one is given.
pub(super) fn read(file: &Path, log: Option<PathBuf>) -> Option<String> {
    let said = match tail(file, MAX_FILE) {
        Ok((said, _)) => said,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Some(format!("Error on reading termination log {}: {error}", file.display())),
    };
    if !said.is_empty() {
        return Some(said);
    }
    let (tail, cut) = tail(&log?, LOG_TAIL).ok()?;
    let whole = match cut {
        true => tail.split_once('\n').map_or("", |(_, rest)| rest),
        false => &tail,
    };
    Some(end_of_log(whole)).filter(|text| !text.is_empty())
}

/// The last bytes of a file, and whether there are more before them.
fn tail(path: &Path, most: u64) -> io::Result<(String, bool)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), size > most))
}

/// CRI lines without their heads: the last 80 lines, at most 2048 bytes.
fn end_of_log(text: &str) -> String {
    let mut content = String::new();
    for line in text.lines() {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, said) = (parts.next(), parts.next(), parts.next(), parts.next());
        content.push_str(said.unwrap_or_default());
        if tag != Some("P") {
            content.push('\n');
        }
    }
    let lines: Vec<_> = content.split_inclusive('\n').collect();
    let text = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].concat();
    let mut from = text.len().saturating_sub(MAX_LOG_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_first_then_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("f"), dir.path().join("l"));
        std::fs::write(&log, "t stdout P one-\nt stdout F half\nt stderr F two\n").unwrap();
        assert_eq!(read(&file, Some(log.clone())).as_deref(), Some("one-half\ntwo\n"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(read(&file, None), None);
        std::fs::write(&file, "said").unwrap();
        assert_eq!(read(&file, Some(log)).as_deref(), Some("said"));
    }

    #[test]
    fn the_end_of_a_long_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("f"), dir.path().join("l"));
        std::fs::write(&file, "x".repeat(5000) + "end").unwrap();
        let said = read(&file, None).unwrap();
        assert!(said.len() == 4096 && said.ends_with("xend"), "{} bytes", said.len());
        // The longest lines there are, and the last of them.
        let line = format!("2026-01-01T00:00:00.000000000Z stdout P {}\n", "y".repeat(16 << 10));
        std::fs::write(&log, line.repeat(4)).unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(read(&file, Some(log)), Some("y".repeat(2048)));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let said = read(dir.path(), Some(dir.path().join("l"))).unwrap();
        assert!(said.starts_with("Error on reading termination log "), "{said}");
        assert_eq!(read(&dir.path().join("f"), None), None);
    }

    #[test]
    fn log_is_cut_by_lines_and_bytes() {
        let many: String = (0..200).map(|i| format!("t stdout F line-{i}\n")).collect();
        let end = end_of_log(&many);
        assert!(end.starts_with("line-120\n") && end.ends_with("line-199\n"));
        let wide: String = (0..80).map(|_| format!("t stdout F {}\n", "x".repeat(99))).collect();
        assert_eq!(end_of_log(&wide).len(), 2048);
    }
}

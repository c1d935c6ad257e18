//! Termination messages: a small file of the container, or the end of its log.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

const MAX_FILE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// Enough of the log's end: its lines carry a time and a stream name each.
const LOG_TAIL: u64 = 16 << 10;

/// The file's content; if it is empty, the end of `log` where one is given.
pub(super) fn read(file: &Path, log: Option<PathBuf>) -> Option<String> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(file) {
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    }
    if !bytes.is_empty() {
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    let tail = log.and_then(|log| tail(&log))?;
    Some(end_of_log(&tail)).filter(|text| !text.is_empty())
}

fn tail(log: &Path) -> Option<String> {
    let mut log = File::open(log).ok()?;
    let size = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    log.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match size > LOG_TAIL {
        // The first line is cut.
        true => text.split_once('\n').map(|(_, rest)| rest.to_owned()),
        false => Some(text),
    }
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
    fn log_is_cut_by_lines_and_bytes() {
        let many: String = (0..200).map(|i| format!("t stdout F line-{i}\n")).collect();
        let end = end_of_log(&many);
        assert!(end.starts_with("line-120\n") && end.ends_with("line-199\n"));
        let wide: String = (0..80).map(|_| format!("t stdout F {}\n", "x".repeat(99))).collect();
        assert_eq!(end_of_log(&wide).len(), 2048);
    }
}

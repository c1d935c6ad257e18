//! One record of a CRI log: `2026-01-02T03:04:05.000000006Z stdout F text`. Pure.

use jiff::Timestamp;

/// A record, borrowed from the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was read from the container.
    pub time: Timestamp,
    /// The timestamp as it stands in the file.
    pub stamp: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Not the end of the container's line: the next record of the stream goes on.
    pub partial: bool,
    /// What the container wrote, without a newline.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// From a record without its newline; `None` for anything else.
    pub fn parse(record: &'a [u8]) -> Option<Line<'a>> {
        let mut fields = record.splitn(4, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (stamp, stream, tags) = (text()?, text()?, text()?);
        if !matches!(stream, "stdout" | "stderr") {
            return None;
        }
        let partial = match tags.split(':').next()? {
            "P" => true,
            "F" => false,
            _ => return None,
        };
        let time = stamp.parse().ok()?;
        Some(Line { time, stamp, stream, partial, content: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &str, expected: Option<(&str, bool, &str)>) {
        let found = Line::parse(record.as_bytes());
        let found = found.map(|line| (line.stream, line.partial, std::str::from_utf8(line.content).unwrap()));
        assert_eq!(found, expected, "{record:?}");
    }

    #[test]
    fn records_are_read_and_rubbish_is_not() {
        check("2026-01-02T03:04:05.000000006Z stdout F a  b", Some(("stdout", false, "a  b")));
        check("2026-01-02T03:04:05+02:00 stderr P ", Some(("stderr", true, "")));
        check("2026-01-02T03:04:05Z stdout F", Some(("stdout", false, "")));
        check("2026-01-02T03:04:05Z stdlog F a", None);
        check("2026-01-02T03:04:05Z stdout X a", None);
        check("yesterday stdout F a", None);
        check("", None);
    }

    #[test]
    fn what_the_shim_writes_is_understood() {
        let mut out = Vec::new();
        let mut splitter = orlop_shim::cri::Splitter::new("stderr");
        splitter.push(b"hello\n", &orlop_shim::cri::timestamp(1_000_000_007), &mut out);
        let line = Line::parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((line.time.as_nanosecond(), line.content), (1_000_000_007, b"hello".as_slice()));
    }
}

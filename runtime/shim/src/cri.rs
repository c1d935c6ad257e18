//! Container output as CRI log lines: `2026-01-02T03:04:05.000000006Z stdout F text`. Pure.
//!
//! Not for: files (the loop writes what comes out of here).

/// Content of one record; a longer line goes out in pieces tagged `P`.
pub const PIECE: usize = 16 << 10;

/// Cuts one stream into records. Holds at most one unfinished line.
#[derive(Debug)]
pub struct Splitter {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Splitter {
    /// `stream` is `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Splitter {
        Splitter { stream, rest: Vec::new() }
    }

    /// Takes what was read, appends whole records to `out`.
    pub fn push(&mut self, mut bytes: &[u8], stamp: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = PIECE - self.rest.len();
            let newline = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            match newline {
                Some(end) => {
                    self.record(&bytes[..end], "F", stamp, out);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > room => {
                    self.record(&bytes[..room], "P", stamp, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.rest.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// The stream is closed: a line without an end goes out as a partial one, as containerd does.
    pub fn finish(&mut self, stamp: &str, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.record(&[], "P", stamp, out);
        }
    }

    fn record(&mut self, tail: &[u8], tag: &str, stamp: &str, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        for part in [stamp.as_bytes(), b" ", self.stream.as_bytes(), b" ", tag.as_bytes(), b" ", &rest, tail]
        {
            out.extend_from_slice(part);
        }
        out.push(b'\n');
    }
}

/// RFC 3339 in UTC with nine digits of a second, from nanoseconds since the epoch.
pub fn timestamp(nanos: u64) -> String {
    let (secs, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, secs) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Days since 1970-01-01 to a date (Howard Hinnant's `civil_from_days`, days after the epoch only).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&str], expected: &[&str]) {
        let mut splitter = Splitter::new("stdout");
        let mut out = Vec::new();
        chunks.iter().for_each(|chunk| splitter.push(chunk.as_bytes(), "T", &mut out));
        splitter.finish("E", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{chunks:?}");
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        check(&["a\nb\n"], &["T stdout F a", "T stdout F b"]);
        check(&["a", "b\n", "\n"], &["T stdout F ab", "T stdout F "]);
        check(&["x\ny"], &["T stdout F x", "E stdout P y"]);
        check(&[], &[]);
    }

    #[test]
    fn long_lines_go_out_in_pieces() {
        let piece = "x".repeat(PIECE);
        let (p, f) = (format!("T stdout P {piece}"), format!("T stdout F {piece}"));
        check(&[&piece, "\n"], &[&f]);
        check(&[&piece, "y\n"], &[&p, "T stdout F y"]);
        check(&[&piece, &piece, "\n"], &[&p, &f]);
    }

    #[test]
    fn timestamps_are_rfc3339_nano() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
        assert_eq!(timestamp(4_102_444_799_999_999_999), "2099-12-31T23:59:59.999999999Z");
    }
}

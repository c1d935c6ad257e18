//! `[p]` When to ask a registry again.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

const FIRST: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_secs(10);
/// Whoever has to wait longer than this is told so instead: the pod's own back-off goes on from there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait after the `attempt`th failure (from 1). `None`: the registry wants more patience than there is.
pub(super) fn pause(attempt: u32, asked: Option<Duration>) -> Option<Duration> {
    let backoff = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST);
    match asked {
        Some(asked) if asked > PATIENCE => None,
        Some(asked) => Some(asked.max(backoff)),
        None => Some(backoff),
    }
}

/// Reads `Retry-After`: seconds, or a date.
pub(super) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTimeParser::new().parse_timestamp(header.trim()).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Whether bytes keep coming. A server that drips is as good as one that is silent, which the time limit of a single
/// read does not see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    window: Duration,
    least: u64,
    since: Duration,
    bytes: u64,
}

impl Pace {
    /// At least so many bytes in each window.
    pub(super) fn new(window: Duration, least: u64) -> Self {
        Self { window, least, since: Duration::ZERO, bytes: 0 }
    }

    /// Bytes that came at a time since the start. `false`: too few in the window that ended.
    pub(super) fn came(&mut self, bytes: u64, at: Duration) -> bool {
        self.bytes += bytes;
        if at.saturating_sub(self.since) < self.window {
            return true;
        }
        let enough = self.bytes >= self.least;
        (self.since, self.bytes) = (at, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pauses_double_and_heed_what_the_registry_asks() {
        let millis: Vec<_> = (1..8).filter_map(|n| pause(n, None)).map(|p| p.as_millis()).collect();
        assert_eq!(millis, [300, 600, 1200, 2400, 4800, 9600, 10_000]);
        assert_eq!(pause(1, Some(secs(7))), Some(secs(7)));
        assert_eq!(pause(1, Some(secs(0))), Some(FIRST));
        assert_eq!(pause(1, Some(secs(61))), None);
        assert_eq!(pause(u32::MAX, None), Some(LONGEST));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-01-05T10:00:00Z".parse().unwrap();
        assert_eq!(retry_after(" 12 ", now), Some(secs(12)));
        assert_eq!(retry_after("Mon, 05 Jan 2026 10:00:30 GMT", now), Some(secs(30)));
        assert_eq!(retry_after("Mon, 05 Jan 2026 09:00:00 GMT", now), Some(secs(0)));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }

    #[test]
    fn dripping_is_not_flowing() {
        let mut pace = Pace::new(secs(10), 100);
        assert!(pace.came(1, secs(9)) && !pace.came(1, secs(10)));
        assert!(pace.came(500, secs(11)) && pace.came(1, secs(20)));
        assert!(pace.came(1, secs(29)) && !pace.came(1, secs(30)));
    }
}

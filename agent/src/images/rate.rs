//! How fast pulls may begin: a bucket of tokens, as upstream has it. Pure.
//!
//! Whoever finds it empty does not wait: the pull fails, and the pod's back-off says when it is tried again. Not for: how
//! many pulls run at once.

use std::time::Instant;

/// Pulls per second, and how many of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// How many per second.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// How many at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// `None` where there is no limit.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Rate> {
        (per_second > 0).then_some(Rate { per_second, burst })
    }
}

/// What is left of it.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, tokens: f64::from(rate.burst), at: now }
    }

    /// Whether one more may begin now.
    pub fn take(&mut self, now: Instant) -> bool {
        let Rate { per_second, burst } = self.rate;
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(per_second);
        self.tokens = (self.tokens + grown).min(f64::from(burst));
        self.at = self.at.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_so_many_per_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Rate::new(5, 10).unwrap(), begin);
        let mut taken = |millis| {
            let now = begin + Duration::from_millis(millis);
            (0..20).filter(|_| bucket.take(now)).count()
        };
        // The last look is at an earlier time than the one before: clocks of threads may differ.
        let counts: Vec<_> = [0, 100, 200, 1200, 100_000, 99_000].into_iter().map(&mut taken).collect();
        assert_eq!(counts, [10, 0, 1, 5, 10, 0]);
        assert_eq!(Rate::new(0, 10), None, "no limit");
        assert!(!Bucket::new(Rate::new(5, 0).unwrap(), begin).take(begin), "nothing at all");
    }
}

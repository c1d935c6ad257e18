//! How long to wait before the next attempt: exponential, with a cap, without jitter or clock.

use std::time::Duration;

/// An exponential back-off: the first failure waits `first`, each further one `factor` times longer, never
/// longer than `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// What each further failure multiplies the wait by.
    pub factor: u32,
}

impl Backoff {
    /// A back-off that doubles.
    #[must_use]
    pub const fn doubling(first: Duration, cap: Duration) -> Self {
        Self { first, cap, factor: 2 }
    }

    /// The wait after `failures` failures in a row; none after none.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(exponent) = failures.checked_sub(1) else { return Duration::ZERO };
        let times = self.factor.saturating_pow(exponent);
        self.first.saturating_mul(times).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_until_the_cap() {
        let backoff = Backoff::doubling(Duration::from_secs(10), Duration::from_secs(300));
        let delays: Vec<_> = (0..8).map(|failures| backoff.delay(failures).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX).as_secs(), 300);
    }
}

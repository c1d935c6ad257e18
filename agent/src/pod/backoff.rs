//! Back-off as upstream counts it: a delay that doubles with every start of back-off and is forgotten after a while.
//!
//! Not for: retries inside one operation.

use std::time::Duration;

use jiff::Timestamp;

const FIRST: Duration = Duration::from_secs(10);
/// The longest delay, unless the operator says otherwise.
pub const CAP: Duration = Duration::from_secs(300);

/// One back-off: the delay in force and when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The delay in force.
    pub delay: Duration,
    /// When it was last started or doubled.
    pub updated: Timestamp,
    /// The longest delay.
    pub cap: Duration,
}

impl BackOff {
    /// The entry after one more failure was acted upon at `now`.
    pub fn next(previous: Option<BackOff>, cap: Duration, now: Timestamp) -> BackOff {
        let delay = match previous {
            Some(previous) if !previous.expired(now) => previous.delay * 2,
            _ => FIRST,
        };
        BackOff { delay: delay.min(cap), updated: now, cap }
    }

    /// Until when something that failed at `failed_at` has to wait, if that is after `now`.
    pub fn waits_until(&self, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let until = failed_at.checked_add(self.delay).unwrap_or(Timestamp::MAX);
        (!self.expired(failed_at) && until > now).then_some(until)
    }

    fn expired(&self, at: Timestamp) -> bool {
        at.duration_since(self.updated).try_into().is_ok_and(|age: Duration| age > 2 * self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn doubles_to_the_cap_and_is_forgotten() {
        let mut entry = None;
        let mut delays = Vec::new();
        for step in 0..7 {
            let next = BackOff::next(entry, CAP, at(step * 300));
            delays.push(next.delay.as_secs());
            entry = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(BackOff::next(entry, CAP, at(1800 + 601)).delay.as_secs(), 10);
    }

    #[test]
    fn a_cap_of_the_operator_holds_from_the_first_time() {
        let cap = Duration::from_secs(4);
        let first = BackOff::next(None, cap, at(0));
        let second = BackOff::next(Some(first), cap, at(5));
        assert_eq!((first.delay, second.delay), (cap, cap));
        assert_eq!(second.waits_until(at(14), at(14)), None, "forgotten after twice the cap");
    }

    #[test]
    fn wait_counts_from_the_end_of_the_instance() {
        let entry = BackOff::next(None, CAP, at(100));
        assert_eq!(entry.waits_until(at(105), at(106)), Some(at(115)));
        assert_eq!(entry.waits_until(at(105), at(115)), None);
        // It ran for more than ten minutes: no wait at all.
        assert_eq!(entry.waits_until(at(701), at(701)), None);
    }
}

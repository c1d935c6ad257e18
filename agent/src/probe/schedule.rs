//! When a probe runs and what its results amount to: thresholds, delays, the quick start of readiness.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Kills and restarts.
    Liveness,
    /// Decides about traffic.
    Readiness,
    /// Holds back the other two.
    Startup,
}

impl ProbeKind {
    /// As in event messages.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        }
    }
}

/// What one run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It passed with a warning for users.
    Warned(String),
    /// It failed; the text is for users.
    Failed(String),
    /// It could not be run; the text is for users. Changes nothing.
    Unknown(String),
}

/// Timing and thresholds with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// After the start of the container.
    pub initial_delay: Duration,
    /// Between runs.
    pub period: Duration,
    /// Of one run.
    pub timeout: Duration,
    /// So many in a row to pass.
    pub success_threshold: i32,
    /// So many in a row to fail.
    pub failure_threshold: i32,
}

impl Rules {
    /// Of a probe as the user wrote it.
    pub fn of(probe: &Probe) -> Rules {
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
            Duration::from_secs(given.unwrap_or(default))
        };
        Rules {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }
}

/// The results so far of one probe of one instance.
#[derive(Clone, Debug)]
pub struct Tally {
    kind: ProbeKind,
    rules: Rules,
    passed: Option<bool>,
    successes: i32,
    failures: i32,
    quick: Option<Duration>,
}

/// What follows from a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The probe changed its mind.
    pub change: Option<bool>,
    /// This run counts, so users hear of its failure.
    pub counts: bool,
    /// Time until the next run; `None`: decided for good about this instance.
    pub next: Option<Duration>,
}

const QUICK_FIRST: Duration = Duration::from_millis(20);

impl Tally {
    /// `known` is the result before a restart of the agent; it stands until the thresholds say otherwise.
    pub fn new(kind: ProbeKind, rules: Rules, known: Option<bool>) -> Tally {
        // A container that serves after some milliseconds should not wait a whole period to be told ready. Runs of the
        // quick start do not count towards failure, and it is over after one period.
        let quick = (kind != ProbeKind::Liveness && known.is_none()).then_some(QUICK_FIRST);
        Tally { kind, rules, passed: known, successes: 0, failures: 0, quick }
    }

    /// Time from the start of the container to the first run. Liveness waits for one period at least: upstream's
    /// first tick comes that late, and a failure before says nothing.
    pub fn first_after(&self) -> Duration {
        match self.kind {
            ProbeKind::Liveness => self.rules.initial_delay.max(self.rules.period),
            _ => self.rules.initial_delay,
        }
    }

    /// Takes in one result.
    pub fn take(&mut self, outcome: &Outcome) -> Verdict {
        let period = self.rules.period;
        let passed = match outcome {
            Outcome::Passed | Outcome::Warned(_) => true,
            Outcome::Failed(_) => false,
            Outcome::Unknown(_) => {
                let counts = self.quick.take().is_none_or(|wait| wait >= period);
                return Verdict { change: None, counts, next: Some(period) };
            }
        };
        if let Some(wait) = self.quick {
            if !passed && wait < period {
                self.quick = Some(wait * 2);
                return Verdict { change: None, counts: false, next: Some(wait) };
            }
            self.quick = None;
        }
        (self.successes, self.failures) = match passed {
            true => (self.successes + 1, 0),
            false => (0, self.failures + 1),
        };
        let reached = match passed {
            true => self.successes >= self.rules.success_threshold,
            false => self.failures >= self.rules.failure_threshold,
        };
        // The first failure of a readiness probe already says "not ready": that is where it starts.
        let change = (reached && self.passed != Some(passed)).then_some(passed);
        if change.is_some() {
            self.passed = change;
        }
        let decided = match self.kind {
            ProbeKind::Readiness => false,
            ProbeKind::Startup => change.is_some(),
            ProbeKind::Liveness => change == Some(false),
        };
        Verdict { change, counts: true, next: (!decided).then_some(period) }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `+` passes, `-` fails, `?` cannot be run.
    fn check(kind: ProbeKind, probe: &str, known: Option<bool>, results: &str, expect: Expect) {
        let rules = Rules::of(&serde_norway::from_str(probe).unwrap());
        let mut tally = Tally::new(kind, rules, known);
        let mut text = format!("first after {:?}\n", tally.first_after());
        for result in results.chars() {
            let outcome = match result {
                '+' => Outcome::Passed,
                '-' => Outcome::Failed("no".into()),
                _ => Outcome::Unknown("?".into()),
            };
            let Verdict { change, counts, next } = tally.take(&outcome);
            let change = change.map_or(String::new(), |to| format!(" -> {to}"));
            let quiet = if counts { "" } else { " (quiet)" };
            let next = next.map_or("for good".into(), |next| format!("next in {next:?}"));
            text += &format!("{result}{change}{quiet} {next}\n");
        }
        expect.assert_eq(&text);
    }

    #[test]
    fn readiness_starts_quickly_then_counts() {
        check(
            ProbeKind::Readiness,
            "{periodSeconds: 1, failureThreshold: 2}",
            None,
            "--+--+",
            expect![[r#"
                first after 0ns
                - (quiet) next in 20ms
                - (quiet) next in 40ms
                + -> true next in 1s
                - next in 1s
                - -> false next in 1s
                + -> true next in 1s
            "#]],
        );
    }

    #[test]
    fn readiness_known_from_before_a_restart_does_not_flip() {
        check(
            ProbeKind::Readiness,
            "{}",
            Some(true),
            "-+---",
            expect![[r#"
                first after 0ns
                - next in 10s
                + next in 10s
                - next in 10s
                - next in 10s
                - -> false next in 10s
            "#]],
        );
    }

    #[test]
    fn liveness_needs_failures_in_a_row() {
        check(
            ProbeKind::Liveness,
            "{periodSeconds: 2, initialDelaySeconds: 5, failureThreshold: 2}",
            None,
            "+-+-?-",
            expect![[r#"
                first after 5s
                + -> true next in 2s
                - next in 2s
                + next in 2s
                - next in 2s
                ? next in 2s
                - -> false for good
            "#]],
        );
    }

    #[test]
    fn startup_decides_once() {
        check(
            ProbeKind::Startup,
            "{periodSeconds: 1}",
            None,
            "-------+",
            expect![[r#"
                first after 0ns
                - (quiet) next in 20ms
                - (quiet) next in 40ms
                - (quiet) next in 80ms
                - (quiet) next in 160ms
                - (quiet) next in 320ms
                - (quiet) next in 640ms
                - next in 1s
                + -> true for good
            "#]],
        );
    }
}

//! What a child tells the shim through its status pipe: `P <pid>` when there is a process, `E <step> <text>` when
//! something failed. The pipe closes at the final exec. Pure.

use crate::protocol::Step;

/// Everything that came until the pipe closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program runs with this pid.
    Runs(u32),
    /// It does not.
    Failed(Step, String),
}

/// Line of a child that has made the process.
pub fn pid_line(pid: u32) -> String {
    format!("P {pid}\n")
}

/// Line of a child that failed.
pub fn error_line(step: Step, text: &str) -> String {
    format!("E {} {}\n", step as u8, text.replace('\n', "; "))
}

/// The pid, as soon as it was told.
pub fn pid(told: &[u8]) -> Option<u32> {
    lines(told).find_map(|line| line.strip_prefix("P ")?.parse().ok())
}

/// Whether an error was told: nothing better can come.
pub fn has_failed(told: &[u8]) -> bool {
    let whole = told.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    matches!(outcome(&told[..whole]), Outcome::Failed(..))
        && lines(&told[..whole]).any(|line| line.starts_with("E "))
}

/// The pipe is closed: what happened? The first error counts: later ones follow from it.
pub fn outcome(told: &[u8]) -> Outcome {
    let error = failure(told).map(|(step, text)| Outcome::Failed(step, text));
    let silent = || Outcome::Failed(Step::Shim, "the child ended without a word".to_owned());
    error.or_else(|| pid(told).map(Outcome::Runs)).unwrap_or_else(silent)
}

/// The first error that was told.
pub fn failure(told: &[u8]) -> Option<(Step, String)> {
    lines(told).find_map(|line| {
        let (step, text) = line.strip_prefix("E ")?.split_once(' ')?;
        Some((Step::from_number(step.parse().ok()?), text.to_owned()))
    })
}

fn lines(told: &[u8]) -> impl Iterator<Item = &str> {
    told.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_counts_and_silence_is_one() {
        let (p, e) = (pid_line(7), error_line(Step::NotFound, "no such\nthing"));
        let failed = Outcome::Failed(Step::NotFound, "no such; thing".to_owned());
        assert_eq!(outcome(p.as_bytes()), Outcome::Runs(7));
        assert_eq!(outcome(format!("{p}{e}E 4 later\n").as_bytes()), failed);
        assert_eq!(outcome(e.as_bytes()), failed);
        for (told, failed) in [("P 1\n", false), ("E 2 no", false), ("P 1\nE 2 no\n", true), ("", false)] {
            assert_eq!(has_failed(told.as_bytes()), failed, "{told:?}");
        }
        assert!(matches!(outcome(b"\xff"), Outcome::Failed(Step::Shim, _)));
        assert_eq!((pid(b"P 1"), pid(b"E 1 x\n")), (Some(1), None));
    }
}

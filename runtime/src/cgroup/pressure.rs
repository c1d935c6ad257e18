//! Pressure stall information (PSI): for how long tasks waited for something, from the texts of the kernel's files. Pure.

/// Of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks that could have run waited.
    pub full: Stall,
}

/// Share of the time, in percent of the last ten, sixty, three hundred seconds, and all of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Stall {
    /// Ten seconds.
    pub avg10: f64,
    /// A minute.
    pub avg60: f64,
    /// Five minutes.
    pub avg300: f64,
    /// Microseconds since the beginning.
    pub total_us: u64,
}

/// Of all resources; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Pressures {
    /// Processors.
    pub cpu: Option<Pressure>,
    /// Memory.
    pub memory: Option<Pressure>,
    /// Disks.
    pub io: Option<Pressure>,
}

impl Pressures {
    /// `read` gives the text of `cpu`, `memory` and `io`.
    pub fn read(read: impl Fn(&str) -> Option<String>) -> Pressures {
        let one = |name: &str| read(name).as_deref().and_then(Pressure::parse);
        Pressures { cpu: one("cpu"), memory: one("memory"), io: one("io") }
    }
}

impl Pressure {
    /// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line of the same form for `full`.
    pub fn parse(text: &str) -> Option<Pressure> {
        let line = |kind: &str| {
            let words = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let word =
                |name: &str| words.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let share = |name: &str| word(name)?.parse().ok();
            Some(Stall {
                avg10: share("avg10")?,
                avg60: share("avg60")?,
                avg300: share("avg300")?,
                total_us: word("total")?.parse().ok()?,
            })
        };
        // Before Linux 5.13 nothing is said of `full` for processors.
        Some(Pressure { some: line("some")?, full: line("full").unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_writes_it() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=3\n";
        let some = Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 12 };
        let full = Stall { avg10: 0.5, total_us: 3, ..Stall::default() };
        assert_eq!(Pressure::parse(text), Some(Pressure { some, full }));
        let old = text.lines().next().unwrap();
        assert_eq!(Pressure::parse(old), Some(Pressure { some, full: Stall::default() }));
        for rubbish in
            ["", "some", "some avg10=x avg60=0 avg300=0 total=0", "full avg10=0 avg60=0 avg300=0 total=0"]
        {
            assert_eq!(Pressure::parse(rubbish), None, "{rubbish}");
        }
    }
}

//! `[p]` Which images to remove when the disk fills up, and why each other one stays.
//!
//! Source of the rules: the kubelet's image garbage collection. Stricter in what must stay: an image that any known
//! pod needs, whether it runs or not, and one that was pinned. Not for: removing, finding out.

use std::{fmt, time::Duration};

use jiff::Timestamp;

/// An image, seen by the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `sha256:…`.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Size in bytes.
    pub bytes: u64,
    /// Since when it is here.
    pub since: Timestamp,
    /// When a pod last needed it; `None`: never seen.
    pub used: Option<Timestamp>,
    /// Who needs it now, in words.
    pub needed_by: Option<String>,
    /// Who pinned it, in words.
    pub pinned_by: Option<String>,
}

/// The disk that holds the images, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub capacity: u64,
    /// Free for use.
    pub available: u64,
}

impl Usage {
    /// Full by so many per cent.
    pub fn percent(&self) -> u8 {
        let free = u128::from(self.available.min(self.capacity)) * 100 / u128::from(self.capacity.max(1));
        100 - u8::try_from(free).unwrap_or(100)
    }
}

/// When to collect, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// From this percentage on space is freed.
    pub high: u8,
    /// Until this one is reached.
    pub low: u8,
    /// Younger images stay.
    pub min_age: Duration,
    /// Images that nobody needed for so long go, however much space there is.
    pub max_age: Option<Duration>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { high: 85, low: 80, min_age: Duration::from_secs(120), max_age: None }
    }
}

/// What is asked of the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Keep the disk within its thresholds.
    Thresholds,
    /// Everything that nobody needs.
    Unused,
}

/// Why an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Unused for longer than [`Thresholds::max_age`].
    Age(Duration),
    /// The disk is fuller than it should be; this one was unused the longest.
    Space,
    /// Nobody needs it, and that was the wish.
    Unused,
}

/// Why an image stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// By whom.
    Needed(String),
    /// By what.
    Pinned(String),
    /// Its age.
    Young(Duration),
    /// There is space enough without it.
    Enough,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(age) => write!(f, "unused for {}", Coarse(*age)),
            Self::Space => f.write_str("unused, and the disk is too full"),
            Self::Unused => f.write_str("unused"),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed(by) => write!(f, "needed by {by}"),
            Self::Pinned(by) => write!(f, "pinned by {by}"),
            Self::Young(age) => write!(f, "only {} old", Coarse(*age)),
            Self::Enough => f.write_str("unused, but there is space enough"),
        }
    }
}

struct Coarse(Duration);

impl fmt::Display for Coarse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            s @ ..120 => write!(f, "{s}s"),
            s @ ..7_200 => write!(f, "{}m", s / 60),
            s @ ..172_800 => write!(f, "{}h", s / 3600),
            s => write!(f, "{}d", s / 86_400),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// In the order of removal.
    pub remove: Vec<(Candidate, Reason)>,
    /// Everything else.
    pub keep: Vec<(Candidate, Kept)>,
    /// Bytes that have to be freed; 0 below the threshold.
    pub wanted: u64,
}

impl Choice {
    /// Bytes that the removals for space are expected to free.
    pub fn expected(&self) -> u64 {
        self.remove.iter().map(|(image, _)| image.bytes).sum()
    }
}

/// Decides: those unused for too long, then, as far as space asks for it, those unused the longest.
pub fn choose(
    mut images: Vec<Candidate>,
    usage: Usage,
    thresholds: &Thresholds,
    goal: Goal,
    now: Timestamp,
) -> Choice {
    let age = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
    let mut choice = Choice { wanted: wanted(usage, thresholds), ..Choice::default() };
    // Never seen in use comes first; of those, and at ties, what has been here longest; then by name, to be the same
    // every time.
    images.sort_by(|a, b| (a.used, a.since, &a.id).cmp(&(b.used, b.since, &b.id)));
    let mut freed = 0_u64;
    for image in images {
        let idle = age(image.used.unwrap_or(image.since).max(image.since));
        let kept = match (&image.needed_by, &image.pinned_by) {
            (Some(by), _) => Some(Kept::Needed(by.clone())),
            (None, Some(by)) => Some(Kept::Pinned(by.clone())),
            (None, None) if age(image.since) < thresholds.min_age => Some(Kept::Young(age(image.since))),
            (None, None) => None,
        };
        let too_old = thresholds.max_age.is_some_and(|max| !max.is_zero() && idle > max);
        let verdict = match (kept, goal) {
            (Some(kept), _) => Err(kept),
            (None, _) if too_old => Ok(Reason::Age(idle)),
            (None, Goal::Unused) => Ok(Reason::Unused),
            (None, Goal::Thresholds) if freed < choice.wanted => Ok(Reason::Space),
            (None, Goal::Thresholds) => Err(Kept::Enough),
        };
        match verdict {
            Ok(reason) => {
                freed = freed.saturating_add(image.bytes);
                choice.remove.push((image, reason));
            }
            Err(kept) => choice.keep.push((image, kept)),
        }
    }
    choice
}

fn wanted(usage: Usage, thresholds: &Thresholds) -> u64 {
    if usage.capacity == 0 || usage.percent() < thresholds.high {
        return 0;
    }
    let free = u128::from(usage.capacity) * u128::from(100 - thresholds.low.min(100)) / 100;
    u64::try_from(free).unwrap_or(u64::MAX).saturating_sub(usage.available)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    /// `name bytes since [used=…] [needed] [pinned]`, times in seconds before now; one image a line.
    fn images(text: &str) -> Vec<Candidate> {
        let at = |ago: &str| Timestamp::from_second(NOW - ago.parse::<i64>().unwrap()).unwrap();
        let image = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let find = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
            Candidate {
                id: words[0].to_owned(),
                names: Vec::new(),
                bytes: words[1].parse().unwrap(),
                since: at(words[2]),
                used: find("used=").map(at),
                needed_by: find("needed=").map(str::to_owned),
                pinned_by: find("pinned=").map(str::to_owned),
            }
        };
        text.trim().lines().map(image).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "literals of tests")]
    fn check(available: u64, goal: Goal, max_age: Option<u64>, text: &str, expected: expect_test::Expect) {
        let thresholds = Thresholds { max_age: max_age.map(Duration::from_secs), ..Thresholds::default() };
        let usage = Usage { capacity: 1000, available };
        let now = Timestamp::from_second(NOW).unwrap();
        let choice = choose(images(text), usage, &thresholds, goal, now);
        let mut shown = format!("{}% full, free {}\n", usage.percent(), choice.wanted);
        for (image, reason) in &choice.remove {
            shown += &format!("- {}: {reason}\n", image.id);
        }
        for (image, kept) in &choice.keep {
            shown += &format!("  {}: {kept}\n", image.id);
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn below_the_high_threshold_nothing_goes() {
        check(
            160,
            Goal::Thresholds,
            None,
            "a 100 9000",
            expect_test::expect![[r"
            84% full, free 0
              a: unused, but there is space enough
        "]],
        );
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_more_than_needed() {
        check(
            100,
            Goal::Thresholds,
            None,
            "
            recent 60 9000 used=300
            long 60 9000 used=8000
            never 60 500
            old 60 9999 used=500
            ",
            expect_test::expect![[r"
                90% full, free 100
                - never: unused, and the disk is too full
                - long: unused, and the disk is too full
                  old: unused, but there is space enough
                  recent: unused, but there is space enough
            "]],
        );
    }

    #[test]
    fn needed_pinned_and_young_ones_stay_however_full_the_disk_is() {
        check(
            0,
            Goal::Thresholds,
            Some(10),
            "
            a 1 9000 needed=pod:ns/web
            b 1 9000 pinned=base.tar
            c 1 119
            d 1 120
            ",
            expect_test::expect![[r"
                100% full, free 200
                - d: unused for 2m
                  a: needed by pod:ns/web
                  b: pinned by base.tar
                  c: only 119s old
            "]],
        );
    }

    #[test]
    fn age_counts_from_the_last_use() {
        check(
            900,
            Goal::Thresholds,
            Some(3600),
            "
            a 1 9000 used=3601
            b 1 9000 used=3599
            c 1 9000
            d 1 1800 used=9999
            ",
            expect_test::expect![[r"
                10% full, free 0
                - c: unused for 2h
                - a: unused for 60m
                  d: unused, but there is space enough
                  b: unused, but there is space enough
            "]],
        );
    }

    #[test]
    fn everything_unused_on_demand() {
        check(
            900,
            Goal::Unused,
            None,
            "a 1 9000 used=300\nb 1 9000 needed=x\nc 1 5",
            expect_test::expect![[r#"
                10% full, free 0
                - a: unused
                  b: needed by x
                  c: only 5s old
            "#]],
        );
    }

    #[test]
    fn impossible_disks_do_not_matter() {
        let thresholds = Thresholds::default();
        assert_eq!(wanted(Usage { capacity: 0, available: 0 }, &thresholds), 0);
        assert_eq!(wanted(Usage { capacity: 10, available: 20 }, &thresholds), 0);
        let huge = Usage { capacity: u64::MAX, available: 0 };
        assert_eq!((huge.percent(), wanted(huge, &thresholds)), (100, u64::MAX / 5));
    }

    proptest::proptest! {
        #[test]
        fn nothing_needed_or_pinned_ever_goes(
            seed in proptest::collection::vec((0..500_u64, 0..9000_i64, 0..4_u8), 0..30), available in 0..1000_u64,
        ) {
            let now = Timestamp::from_second(NOW).unwrap();
            let image = |(index, (bytes, since, mark)): (usize, (u64, i64, u8))| Candidate {
                id: index.to_string(), names: Vec::new(), bytes,
                since: Timestamp::from_second(NOW - since).unwrap(), used: None,
                needed_by: (mark == 1).then(String::new), pinned_by: (mark == 2).then(String::new),
            };
            let images: Vec<_> = seed.into_iter().enumerate().map(image).collect();
            let count = images.len();
            let thresholds = Thresholds { max_age: Some(Duration::from_secs(60)), ..Thresholds::default() };
            let usage = Usage { capacity: 1000, available };
            for goal in [Goal::Thresholds, Goal::Unused] {
                let choice = choose(images.clone(), usage, &thresholds, goal, now);
                proptest::prop_assert_eq!(choice.remove.len() + choice.keep.len(), count);
                proptest::prop_assert!(choice.remove.iter().all(|(i, _)| i.needed_by.is_none() && i.pinned_by.is_none()));
            }
        }
    }
}

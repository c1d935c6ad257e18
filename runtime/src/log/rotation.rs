//! When a container's log is put aside, and what becomes of the older ones: the kubelet's rules and names. Pure.
//!
//! ```text
//!  0.log   0.log.20260102-150405   0.log.20260102-140000.gz   0.log.20260102-130000.gz
//!  now     the last                older, compressed
//! ```

/// How large a log may be, and how many files of one container there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from which on a log is put aside.
    pub max_size: u64,
    /// Files, the one being written included; 2 at least.
    pub max_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// What to do with the files of one container's log; names are those in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Remove(String),
    /// Into a file with the same name and `.gz`.
    Compress(String),
    /// The log being written gets this name, and a new one is begun.
    PutAside(String),
}

pub(crate) const COMPRESSED: &str = ".gz";
pub(crate) const UNFINISHED: &str = ".tmp";

/// For a log of `size` bytes called `log`, among `files` of its directory. `stamp` is the time as `20260102-150405`.
pub(crate) fn plan(log: &str, size: u64, files: &[String], limits: Limits, stamp: &str) -> Vec<Step> {
    if size < limits.max_size {
        return Vec::new();
    }
    let twin = |name: &String| files.contains(&format!("{name}{COMPRESSED}"));
    let useless = |name: &&String| name.ends_with(UNFINISHED) || twin(name);
    let (mut gone, mut older): (Vec<&String>, Vec<&String>) =
        files.iter().filter(|name| is_of(log, name)).partition(useless);
    older.sort();
    // Room for the one being written and the one put aside now.
    let excess = older.len().saturating_sub(limits.max_files.saturating_sub(2));
    let kept = older.split_off(excess);
    gone.extend(older);
    let plain = kept.into_iter().filter(|name| !name.ends_with(COMPRESSED));
    let gone = gone.into_iter().map(|name| Step::Remove(name.clone()));
    let compressed = plain.map(|name| Step::Compress(name.clone()));
    gone.chain(compressed).chain([Step::PutAside(format!("{log}.{stamp}"))]).collect()
}

fn is_of(log: &str, name: &str) -> bool {
    name.strip_prefix(log).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: u64, max_files: usize, files: &str, expected: &[&str]) {
        let files: Vec<String> = files.split_whitespace().map(str::to_owned).collect();
        let limits = Limits { max_size: 100, max_files };
        let steps =
            plan("0.log", size, &files, limits, "20260105-000000").into_iter().map(|step| match step {
                Step::Remove(name) => format!("remove {name}"),
                Step::Compress(name) => format!("compress {name}"),
                Step::PutAside(name) => format!("put aside as {name}"),
            });
        assert_eq!(steps.collect::<Vec<_>>(), expected, "{size} {files:?}");
    }

    #[test]
    fn small_logs_stay() {
        check(99, 5, "0.log 0.log.20260101-000000", &[]);
    }

    #[test]
    fn the_last_one_stays_plain_and_older_ones_are_compressed() {
        check(100, 5, "0.log", &["put aside as 0.log.20260105-000000"]);
        check(
            100,
            5,
            "0.log.20260102-000000 0.log 0.log.20260101-000000.gz 1.log 10.log.x",
            &["compress 0.log.20260102-000000", "put aside as 0.log.20260105-000000"],
        );
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let files = "0.log 0.log.20260101-000000.gz 0.log.20260102-000000.gz 0.log.20260103-000000.gz 0.log.20260104-000000";
        check(
            200,
            5,
            files,
            &[
                "remove 0.log.20260101-000000.gz",
                "compress 0.log.20260104-000000",
                "put aside as 0.log.20260105-000000",
            ],
        );
        check(
            200,
            2,
            "0.log 0.log.20260103-000000.gz 0.log.20260104-000000",
            &[
                "remove 0.log.20260103-000000.gz",
                "remove 0.log.20260104-000000",
                "put aside as 0.log.20260105-000000",
            ],
        );
    }

    #[test]
    fn what_a_crash_left_goes() {
        check(
            100,
            5,
            "0.log 0.log.20260101-000000 0.log.20260101-000000.gz 0.log.20260102-000000 0.log.20260102-000000.tmp",
            &[
                "remove 0.log.20260101-000000",
                "remove 0.log.20260102-000000.tmp",
                "compress 0.log.20260102-000000",
                "put aside as 0.log.20260105-000000",
            ],
        );
    }
}

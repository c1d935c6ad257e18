//! Resource limits of processes, setrlimit(2), as operators write them: `nofile=1024:524288`. Pure.
//!
//! No field of a pod sets them; other runtimes take them from their own configuration, as `default_ulimits`.

use std::{fmt, str::FromStr};

/// One limit. `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// The kernel's number of it.
    pub resource: u32,
    /// What holds.
    pub soft: u64,
    /// How far a process may raise that by itself.
    pub hard: u64,
}

/// As in the kernel's `asm-generic/resource.h`, and the names of ulimit(1) options, docker and CRI-O.
const NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];
/// Number of open files.
pub const NOFILE: u32 = 7;

/// Not a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RlimitError {
    /// No `=`, or a value that is no number.
    #[error("must be NAME=SOFT[:HARD], each a number or unlimited")]
    Form,
    /// No such limit.
    #[error("unknown limit {0:?}; there are {names}", names = NAMES.join(", "))]
    Name(String),
    /// The soft limit is above the hard one.
    #[error("the soft limit is above the hard one")]
    Order,
}

impl FromStr for Rlimit {
    type Err = RlimitError;

    fn from_str(text: &str) -> Result<Rlimit, RlimitError> {
        let (name, values) = text.split_once('=').ok_or(RlimitError::Form)?;
        let value = |text: &str| match text {
            "unlimited" | "-1" => Ok(u64::MAX),
            number => number.parse().map_err(|_| RlimitError::Form),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(values)?, value(values)?),
        };
        let name = name.trim_start_matches("RLIMIT_").to_lowercase();
        let Some(resource) = (0..).zip(NAMES).find_map(|(number, known)| (known == name).then_some(number))
        else {
            return Err(RlimitError::Name(name));
        };
        if soft <= hard { Ok(Rlimit { resource, soft, hard }) } else { Err(RlimitError::Order) }
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.resource).ok().and_then(|at| NAMES.get(at)).unwrap_or(&"?");
        let value = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
        write!(f, "{name}={}:{}", value(self.soft), value(self.hard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_operators_write() {
        for (text, said) in [
            ("nofile=1024:4096", "nofile=1024:4096"),
            ("core=0", "core=0:0"),
            ("memlock=unlimited", "memlock=unlimited:unlimited"),
            ("RLIMIT_NPROC=5:-1", "nproc=5:unlimited"),
            ("nofile=2:1", "the soft limit is above the hard one"),
            ("nofile", "must be NAME=SOFT[:HARD], each a number or unlimited"),
            ("nofile=1:2:3", "must be NAME=SOFT[:HARD], each a number or unlimited"),
            ("nofile=-2", "must be NAME=SOFT[:HARD], each a number or unlimited"),
        ] {
            let found =
                text.parse::<Rlimit>().map_or_else(|error| error.to_string(), |limit| limit.to_string());
            assert_eq!(found, said, "{text}");
        }
        let unknown = "files=1".parse::<Rlimit>().unwrap_err().to_string();
        assert!(unknown.starts_with(r#"unknown limit "files"; there are cpu, fsize, "#), "{unknown}");
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (name, number) in [
            ("cpu", libc::RLIMIT_CPU),
            ("nofile", libc::RLIMIT_NOFILE),
            ("memlock", libc::RLIMIT_MEMLOCK),
            ("sigpending", libc::RLIMIT_SIGPENDING),
            ("rttime", libc::RLIMIT_RTTIME),
        ] {
            let limit: Rlimit = format!("{name}=1").parse().unwrap();
            assert_eq!(i64::from(limit.resource), number as i64, "{name}");
        }
        assert_eq!("nofile=1".parse::<Rlimit>().unwrap().resource, NOFILE);
    }
}

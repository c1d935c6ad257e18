//! Waiting for a condition, with a limit and a message that says what was there instead.

use std::{
    fmt::Debug,
    thread::sleep,
    time::{Duration, Instant},
};

/// Asks again until `probe` gives a value; panics with what it said last.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(instead) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; instead: {instead}")
            }
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// Asks again until the answer equals `expected`.
pub fn eventually<T: PartialEq + Debug>(
    what: &str,
    limit: Duration,
    expected: &T,
    mut probe: impl FnMut() -> T,
) {
    until(what, limit, || {
        let now = probe();
        if now == *expected { Ok(()) } else { Err(format!("{now:?}, expected {expected:?}")) }
    });
}

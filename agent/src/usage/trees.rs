//! Sizes of directory trees. One that takes long to look through is not looked through at every question: at most a
//! hundredth of the time goes into it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use orlop_runtime::Usage;

/// How many times as long as a look took its result is good.
const GOOD_FOR: u32 = 100;
/// Results that are kept; the oldest go first.
const KEPT: usize = 4096;

/// Remembers what looks have found.
#[derive(Clone, Default)]
pub(super) struct Trees(Arc<Mutex<HashMap<PathBuf, Look>>>);

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    took: Duration,
    found: Usage,
}

impl Look {
    fn good(&self, now: Instant) -> bool {
        now.duration_since(self.at) < self.took.saturating_mul(GOOD_FOR)
    }
}

impl Trees {
    /// What each of them takes, in their order.
    pub(super) async fn of(&self, paths: Vec<PathBuf>) -> Vec<Usage> {
        let trees = self.clone();
        super::blocking(move || paths.into_iter().map(|path| trees.one(path)).collect()).await
    }

    fn one(&self, path: PathBuf) -> Usage {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        if let Some(look) = known().get(&path).filter(|look| look.good(at)) {
            return look.found;
        }
        let found = Usage::of(&path);
        let mut known = known();
        if known.len() >= KEPT {
            known.retain(|_, look| look.good(at));
        }
        if known.len() < KEPT {
            known.insert(path, Look { at, took: at.elapsed(), found });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_good_for_long() {
        let at = Instant::now();
        let look = Look { at, took: Duration::from_millis(20), found: Usage::default() };
        assert!(look.good(at + Duration::from_millis(1999)));
        assert!(!look.good(at + Duration::from_millis(2000)));
    }
}

//! Removes links in batches: those doomed while a removal is under way go together with the next one.
//!
//! The kernel waits tens of milliseconds for all processors before a link is gone, and holds the lock of all
//! network configuration meanwhile. It waits once for a whole group, so fifty pods cost about what two do.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Group of links that are about to be removed (`ip link show group 1869769828`): "orld" in ASCII.
pub(crate) const DOOMED: u32 = 0x6f72_6c64;

/// Lets one caller work for all that wait.
#[derive(Default)]
pub(crate) struct Reaper {
    started: AtomicU64,
    last_done: Mutex<u64>,
}

impl Reaper {
    /// Returns when a removal that began after this call has succeeded; `remove` is called unless another
    /// caller's was such a one.
    pub(crate) fn reap<E>(&self, remove: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let before = self.started.load(Ordering::SeqCst);
        let mut last_done = self.last_done.lock().unwrap_or_else(PoisonError::into_inner);
        if *last_done > before {
            return Ok(());
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        remove()?;
        *last_done = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, thread, time::Duration};

    #[test]
    fn every_caller_finds_its_link_gone_and_few_do_the_work() {
        const CALLERS: u64 = 40;
        let (reaper, doomed, removals) = (Reaper::default(), Mutex::new(BTreeSet::new()), AtomicU64::new(0));
        let remove = || {
            removals.fetch_add(1, Ordering::SeqCst);
            doomed.lock().unwrap().clear();
            thread::sleep(Duration::from_millis(20));
            Ok::<_, ()>(())
        };
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (reaper, doomed, remove) = (&reaper, &doomed, &remove);
                scope.spawn(move || {
                    doomed.lock().unwrap().insert(caller);
                    reaper.reap(remove).unwrap();
                    assert!(!doomed.lock().unwrap().contains(&caller));
                });
            }
        });
        assert!(removals.into_inner() < CALLERS / 2);
    }

    #[test]
    fn a_failure_is_nobody_elses_success() {
        let reaper = Reaper::default();
        assert_eq!(reaper.reap(|| Err("busy")), Err("busy"));
        let mut called = false;
        assert_eq!(
            reaper.reap(|| {
                called = true;
                Ok::<_, &str>(())
            }),
            Ok(())
        );
        assert!(called);
    }
}

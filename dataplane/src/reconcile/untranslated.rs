//! Network namespaces whose sockets the programs leave alone: those of pods that asked for it.
//!
//! The kernel never gives a cookie twice, so one that stays behind does no harm; it only takes room.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use super::chain;
use crate::maps::Maps;

/// What changed about pods whose sockets are left alone. Namespaces go by their cookies.
#[derive(Clone, Debug)]
pub enum Sockets {
    /// Leave those of this network namespace alone. The sender is told when that is so.
    Leave(u64, Option<mpsc::Sender<()>>),
    /// Its pod is gone, or is like others.
    Forget(u64),
    /// No other namespaces than these are there.
    Only(BTreeSet<u64>),
}

/// What is wanted, and what the map holds of it.
#[derive(Debug, Default)]
pub(super) struct Untranslated {
    /// Nothing until the map was read: what was wanted before goes on.
    wanted: Option<BTreeSet<u64>>,
    changes: Vec<Sockets>,
    /// Nothing has to be written.
    written: bool,
    failure: Option<String>,
    waiting: Vec<mpsc::Sender<()>>,
}

impl Untranslated {
    pub(super) fn apply(&mut self, change: Sockets) {
        self.written = false;
        self.changes.push(change);
    }

    /// The map is looked at anew.
    pub(super) fn again(&mut self) {
        self.written = false;
    }

    /// Writes what changed; whether there is any such namespace.
    pub(super) fn sync(&mut self, maps: &mut impl Maps) -> bool {
        if !self.written {
            let failure = self.write(maps).err();
            if failure != self.failure
                && let Some(error) = &failure
            {
                tracing::warn!(error, "sockets of pods that ask not to be are translated");
            }
            self.written = failure.is_none();
            self.failure = failure;
        }
        self.wanted.as_ref().is_some_and(|wanted| !wanted.is_empty())
    }

    fn write(&mut self, maps: &mut impl Maps) -> Result<(), String> {
        let actual = maps.untranslated().map_err(|error| chain(&error))?;
        let wanted = self.wanted.get_or_insert_with(|| actual.clone());
        for change in self.changes.drain(..) {
            match change {
                Sockets::Leave(netns, done) => {
                    wanted.insert(netns);
                    self.waiting.extend(done);
                }
                Sockets::Forget(netns) => drop(wanted.remove(&netns)),
                Sockets::Only(all) => wanted.retain(|netns| all.contains(netns)),
            }
        }
        let put = wanted.difference(&actual).map(|netns| (*netns, true));
        let all = actual.difference(wanted).map(|netns| (*netns, false)).chain(put);
        let failures = all.filter_map(|(netns, alone)| maps.leave_alone(netns, alone).err());
        failures.map(|error| chain(&error)).reduce(|first, _| first).map_or(Ok(()), Err)
    }

    /// Tells those who waited: what could be written is.
    pub(super) fn tell(&mut self) {
        for done in self.waiting.drain(..) {
            // Whoever does not wait any more has gone on without us.
            let _gone = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::FakeMaps;

    #[test]
    fn what_an_agent_before_wrote_holds_until_it_is_gone() {
        let mut maps = FakeMaps { untranslated: [7, 8].into(), ..FakeMaps::default() };
        let mut state = Untranslated::default();
        assert!(state.sync(&mut maps));
        assert_eq!(maps.untranslated, [7, 8].into());
        state.apply(Sockets::Only([8, 9].into()));
        assert!(state.sync(&mut maps));
        assert_eq!(maps.untranslated, [8].into(), "9 is there, and is like others");
        state.apply(Sockets::Forget(8));
        assert!(!state.sync(&mut maps));
        assert_eq!(maps.untranslated, [].into());
    }

    #[test]
    fn a_pod_waits_until_its_sockets_are_left_alone() {
        let (mut maps, mut state) = (FakeMaps::default(), Untranslated::default());
        let (done, mut told) = mpsc::channel(1);
        state.apply(Sockets::Leave(5, Some(done)));
        assert!(state.sync(&mut maps));
        assert!(told.try_recv().is_err(), "the settings are to be written yet");
        state.tell();
        assert_eq!((maps.untranslated.clone(), told.try_recv()), ([5].into(), Ok(())));
        // Another hand took it away.
        maps.untranslated.clear();
        state.sync(&mut maps);
        assert_eq!(maps.untranslated, [].into());
        state.again();
        state.sync(&mut maps);
        assert_eq!(maps.untranslated, [5].into());
    }
}

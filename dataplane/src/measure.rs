//! How long it takes until what the API says stands in the maps: data for whoever makes metrics of it.
//!
//! Not for: metrics themselves, or what the programs count (`describe`).

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use orlop_model::event::Event;

use crate::reconcile::Update;

/// Since when a slice waits to be heard of, in its annotations (RFC 3339).
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// One write of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Everything was compared, not only what changed.
    pub full: bool,
    /// From the first look at the changes until the last write.
    pub took: Duration,
    /// Services among them.
    pub services: u64,
    /// Slices among them.
    pub slices: u64,
    /// From the change in the cluster until the end of this write, for each slice that says when that was. Those of a time before
    /// this process are not counted, as upstream.
    pub programmed: Vec<Duration>,
}

/// A write under way.
pub(crate) struct Step {
    began: Instant,
    services: u64,
    slices: u64,
    triggered: Vec<SystemTime>,
}

impl Step {
    /// Of these changes; `since` is when the process began to listen.
    pub(crate) fn of(updates: &[Update], since: SystemTime) -> Self {
        let mut step = Self { began: Instant::now(), services: 0, slices: 0, triggered: Vec::new() };
        for update in updates {
            match update {
                Update::Service(event) => step.services += size(event),
                Update::EndpointSlice(event) => {
                    step.slices += size(event);
                    if let Event::Apply(slice) = event {
                        step.triggered.extend(triggered(slice).filter(|at| *at >= since));
                    }
                }
                _ => {}
            }
        }
        step
    }

    /// The maps hold it.
    pub(crate) fn end(self, full: bool, now: SystemTime) -> Synced {
        let Self { began, services, slices, triggered } = self;
        let programmed = triggered.into_iter().map(|at| now.duration_since(at).unwrap_or_default()).collect();
        Synced { full, took: began.elapsed(), services, slices, programmed }
    }
}

fn size<T>(event: &Event<T>) -> u64 {
    match event {
        Event::Apply(_) | Event::Delete(_) => 1,
        Event::Reset(all) => u64::try_from(all.len()).unwrap_or(u64::MAX),
    }
}

fn triggered(slice: &EndpointSlice) -> Option<SystemTime> {
    let at = slice.metadata.annotations.as_ref()?.get(TRIGGERED)?;
    at.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn slice(at: &str) -> Update {
        let annotations = [(TRIGGERED.to_owned(), at.to_owned())].into();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        Update::EndpointSlice(Event::Apply(EndpointSlice { metadata, ..EndpointSlice::default() }))
    }

    #[test]
    fn a_change_is_timed_from_when_it_happened_unless_that_is_long_ago() {
        let at = |text: &str| SystemTime::from(text.parse::<jiff::Timestamp>().unwrap());
        let updates = [
            Update::Service(Event::Reset(vec![Default::default(), Default::default()])),
            slice("2026-01-01T00:00:00Z"),
            slice("2026-01-01T00:10:00Z"),
            slice("yesterday"),
            // A clock that was set back, or another machine's.
            slice("2026-01-01T00:10:09Z"),
        ];
        let step = Step::of(&updates, at("2026-01-01T00:05:00Z"));
        let synced = step.end(false, at("2026-01-01T00:10:02Z"));
        assert_eq!((synced.services, synced.slices, synced.full), (2, 4, false));
        assert_eq!(synced.programmed, [Duration::from_secs(2), Duration::ZERO]);
    }
}

//! What the node's clock being set does to the waits of a pod: nothing, they go on where they were.
//!
//! Times that users see, and those that count by the calendar (deadlines, tokens), stay. Not for: noticing it (`worker`).

use jiff::{SignedDuration, Timestamp};

use super::{
    backoff::BackOff,
    desired::Desired,
    observed::{ImageState, Instances, Observed, Step, Trouble},
};

impl Observed {
    /// Notes until when a deletion lasts; from then on a clock that is set neither shortens nor prolongs it.
    pub fn hear_deletion(&mut self, desired: &Desired) {
        let said = desired.pod.metadata.deletion_timestamp.as_ref().map(|ends| ends.0);
        if said != self.deletion.map(|(said, _)| said) {
            self.deletion = said.map(|ends| (ends, ends));
        }
    }

    /// The clock says `by` more than it would have said.
    pub fn clock_set(&mut self, by: SignedDuration) {
        self.pulls.values_mut().for_each(|entry| backoff(entry, by));
        step(&mut self.sandbox, by);
        step(&mut self.network, by);
        step(&mut self.volumes, by);
        self.deletion.iter_mut().for_each(|(_, ends)| shift(ends, by));
        self.quiet_since.iter_mut().for_each(|at| shift(at, by));
        self.resize_trouble.iter_mut().for_each(|entry| trouble(entry, by));
        self.containers.values_mut().for_each(|entry| container(entry, by));
    }
}

fn container(entry: &mut Instances, by: SignedDuration) {
    entry.trouble.iter_mut().for_each(|entry| trouble(entry, by));
    entry.backoff.iter_mut().for_each(|entry| backoff(entry, by));
    entry.ended_at.iter_mut().chain(&mut entry.stopping).for_each(|at| shift(at, by));
    if let ImageState::Failed { at, .. } = &mut entry.image {
        shift(at, by);
    }
}

fn step<T>(step: &mut Step<T>, by: SignedDuration) {
    if let Step::Failed { retry_at, .. } = step {
        shift(retry_at, by);
    }
}

fn trouble(trouble: &mut Trouble, by: SignedDuration) {
    shift(&mut trouble.at, by);
    shift(&mut trouble.retry_at, by);
}

fn backoff(entry: &mut BackOff, by: SignedDuration) {
    shift(&mut entry.updated, by);
}

fn shift(at: &mut Timestamp, by: SignedDuration) {
    *at = at.saturating_add(by).unwrap_or(*at);
}

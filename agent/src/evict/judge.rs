//! What measurements mean: which thresholds are reached, which pressure the node is under, what to reclaim first.
//!
//! Source of the rules: kubelet 1.34 (`pkg/kubelet/eviction`). Not for: measuring, nor for choosing a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    config::kubelet::eviction::{Eviction, Signal, Threshold},
    pod::node_state::Pressure,
};

/// What is measured: a signal of the configuration, or the memory of all pods together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    /// `allocatableMemory.available`: it has the hard threshold of `memory.available`.
    PodsMemory,
    /// A signal.
    Node(Signal),
}

/// How much there is. Bytes, inodes or processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Free for use.
    pub(super) available: u64,
    /// In all.
    pub(super) capacity: u64,
}

/// All that could be measured.
pub(super) type Measures = BTreeMap<Measure, Measured>;

/// A resource that runs short, by the name that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Memory of the node or of its pods.
    Memory,
    /// Bytes of disk.
    EphemeralStorage,
    /// Inodes.
    Inodes,
    /// Processes.
    Pids,
}

impl Resource {
    /// As upstream's messages name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }
}

impl Measure {
    /// Upstream's name of the signal.
    pub(super) fn signal(self) -> &'static str {
        match self {
            Measure::PodsMemory => "allocatableMemory.available",
            Measure::Node(signal) => signal.name(),
        }
    }

    /// What it measures.
    pub(super) fn resource(self) -> Resource {
        match self {
            Measure::PodsMemory | Measure::Node(Signal::MemoryAvailable) => Resource::Memory,
            Measure::Node(Signal::PidAvailable) => Resource::Pids,
            Measure::Node(
                Signal::NodefsInodesFree | Signal::ImagefsInodesFree | Signal::ContainerfsInodesFree,
            ) => Resource::Inodes,
            Measure::Node(
                Signal::NodefsAvailable | Signal::ImagefsAvailable | Signal::ContainerfsAvailable,
            ) => Resource::EphemeralStorage,
        }
    }

    fn pressure(self) -> Pressure {
        match self.resource() {
            Resource::Memory => Pressure::Memory,
            Resource::EphemeralStorage | Resource::Inodes => Pressure::Disk,
            Resource::Pids => Pressure::Pid,
        }
    }
}

/// What was seen before.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Thresholds that are reached, hard (true) or soft, and since when.
    since: BTreeMap<(Measure, bool), Timestamp>,
    /// When a kind of pressure was last there.
    last: BTreeMap<Pressure, Timestamp>,
}

/// A threshold that has to be dealt with now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Of what.
    pub(super) measure: Measure,
    /// How much there must be, units.
    pub(super) least: u64,
    /// How much there is.
    pub(super) available: u64,
    /// No time is left: pods get none either.
    pub(super) hard: bool,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// For the node's conditions and for admission.
    pub(super) pressures: BTreeSet<Pressure>,
    /// The threshold to act upon: memory before disk before processes.
    pub(super) reached: Option<Reached>,
}

/// Judges, and notes in `history` what was seen.
pub(super) fn judge(
    eviction: &Eviction,
    measures: &Measures,
    history: &mut History,
    now: Timestamp,
) -> Verdict {
    // A clock that was set back: what is in the future was just now.
    history.since.values_mut().chain(history.last.values_mut()).for_each(|at| *at = (*at).min(now));
    let mut due = Vec::new();
    let mut still = BTreeMap::new();
    for (measure, threshold, hard) in thresholds(eviction) {
        let Some(measured) = measures.get(&measure) else { continue };
        let (key, least) = ((measure, hard), threshold.least.of(measured.capacity));
        let before = history.since.get(&key).copied();
        // Once reached, it is left only with something to spare.
        let spare = before.and(threshold.reclaim).map_or(0, |reclaim| reclaim.of(measured.capacity));
        if measured.available >= least.saturating_add(spare) {
            continue;
        }
        let since = before.unwrap_or(now);
        still.insert(key, since);
        history.last.insert(measure.pressure(), now);
        let reached = Reached { measure, least, available: measured.available, hard };
        if passed(since, now) >= threshold.grace {
            due.push(reached);
        }
    }
    history.since = still;
    history.last.retain(|_, last| passed(*last, now) < eviction.pressure_transition || *last == now);
    // A hard threshold before a soft one of the same resource.
    due.sort_by_key(|reached| (reached.measure.pressure(), !reached.hard, reached.measure));
    Verdict { pressures: history.last.keys().copied().collect(), reached: due.into_iter().next() }
}

fn thresholds(eviction: &Eviction) -> impl Iterator<Item = (Measure, &Threshold, bool)> {
    let hard = eviction.hard.iter().flat_map(|threshold| {
        let pods = (threshold.signal == Signal::MemoryAvailable).then_some(Measure::PodsMemory);
        [Some(Measure::Node(threshold.signal)), pods].into_iter().flatten().map(move |m| (m, threshold, true))
    });
    hard.chain(eviction.soft.iter().map(|threshold| (Measure::Node(threshold.signal), threshold, false)))
}

/// A clock that was set back has passed no time.
fn passed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::config::kubelet::eviction::Amount;

    const MIB: u64 = 1 << 20;

    fn threshold(signal: Signal, least: Amount, grace: u64, reclaim: Option<Amount>) -> Threshold {
        Threshold { signal, least, grace: Duration::from_secs(grace), reclaim }
    }

    fn mib(units: u64) -> Amount {
        Amount::Units(units * MIB)
    }

    /// Lines of `seconds memory disk` (MiB available, `-` is not measured); the verdict of each.
    fn check(eviction: &Eviction, script: &str, expected: Expect) {
        let mut history = History::default();
        let said: Vec<_> = script
            .lines()
            .map(|line| {
                let mut words = line.split_whitespace();
                let at: i64 = words.next().unwrap().parse().unwrap();
                let names = [
                    Measure::Node(Signal::MemoryAvailable),
                    Measure::Node(Signal::NodefsAvailable),
                    Measure::PodsMemory,
                    Measure::Node(Signal::PidAvailable),
                ];
                let measured = names.into_iter().zip(words).filter_map(|(name, word)| {
                    let available = word.parse::<u64>().ok()? * MIB;
                    Some((name, Measured { available, capacity: 1000 * MIB }))
                });
                let verdict =
                    judge(eviction, &measured.collect(), &mut history, Timestamp::from_second(at).unwrap());
                let reached = verdict.reached.map(|reached| {
                    let kind = if reached.hard { "hard" } else { "soft" };
                    format!(
                        "{kind} {:?} {}/{}",
                        reached.measure,
                        reached.available / MIB,
                        reached.least / MIB
                    )
                });
                format!("{line}: {:?} {}", verdict.pressures, reached.unwrap_or_default())
            })
            .collect();
        expected.assert_eq(&said.join("\n"));
    }

    fn hard(threshold: Threshold) -> Eviction {
        Eviction { hard: vec![threshold], soft: Vec::new(), ..Eviction::default() }
    }

    #[test]
    fn a_hard_threshold_counts_at_once_and_its_pressure_for_a_while() {
        let eviction = hard(threshold(Signal::MemoryAvailable, mib(100), 0, None));
        check(
            &eviction,
            "0 500\n10 100\n20 99\n30 200\n319 200\n321 200",
            expect![[r#"
            0 500: {} 
            10 100: {} 
            20 99: {Memory} hard Node(MemoryAvailable) 99/100
            30 200: {Memory} 
            319 200: {Memory} 
            321 200: {} "#]],
        );
    }

    #[test]
    fn what_is_to_be_reclaimed_is_to_spare_once_it_was_reached() {
        let eviction = hard(threshold(Signal::MemoryAvailable, mib(100), 0, Some(mib(50))));
        check(
            &eviction,
            "0 120\n10 90\n20 120\n30 150\n40 120",
            expect![[r#"
            0 120: {} 
            10 90: {Memory} hard Node(MemoryAvailable) 90/100
            20 120: {Memory} hard Node(MemoryAvailable) 120/100
            30 150: {Memory} 
            40 120: {Memory} "#]],
        );
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_without_a_break() {
        let soft = vec![threshold(Signal::MemoryAvailable, mib(200), 30, None)];
        let eviction = Eviction { hard: Vec::new(), soft, ..Eviction::default() };
        check(
            &eviction,
            "0 150\n20 150\n25 250\n30 150\n59 150\n60 150",
            expect![[r#"
            0 150: {Memory} 
            20 150: {Memory} 
            25 250: {Memory} 
            30 150: {Memory} 
            59 150: {Memory} 
            60 150: {Memory} soft Node(MemoryAvailable) 150/200"#]],
        );
    }

    #[test]
    fn memory_comes_before_disk_and_a_share_is_of_the_capacity() {
        let eviction = Eviction {
            hard: vec![
                threshold(Signal::NodefsAvailable, Amount::Fraction(0.1), 0, None),
                threshold(Signal::MemoryAvailable, mib(100), 0, None),
                threshold(Signal::PidAvailable, mib(1), 0, None),
            ],
            ..Eviction::default()
        };
        check(
            &eviction,
            "0 50 99 500 0\n1 500 99 500 0\n2 500 100 50 0\n3 500 100 500 0\n4 - - - -",
            expect![[r#"
            0 50 99 500 0: {Memory, Disk, Pid} hard Node(MemoryAvailable) 50/100
            1 500 99 500 0: {Memory, Disk, Pid} hard Node(NodefsAvailable) 99/100
            2 500 100 50 0: {Memory, Disk, Pid} hard PodsMemory 50/100
            3 500 100 500 0: {Memory, Disk, Pid} hard Node(PidAvailable) 0/1
            4 - - - -: {Memory, Disk, Pid} "#]],
        );
    }

    #[test]
    fn hard_before_soft() {
        let eviction = Eviction {
            hard: vec![threshold(Signal::MemoryAvailable, mib(100), 0, None)],
            soft: vec![threshold(Signal::MemoryAvailable, mib(200), 0, None)],
            ..Eviction::default()
        };
        check(
            &eviction,
            "0 150\n1 50",
            expect![[r#"
            0 150: {Memory} soft Node(MemoryAvailable) 150/200
            1 50: {Memory} hard Node(MemoryAvailable) 50/100"#]],
        );
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_pressure_for_long() {
        let eviction = hard(threshold(Signal::MemoryAvailable, mib(100), 0, None));
        check(
            &eviction,
            "90000 50\n0 500\n200 500\n299 500\n310 500\n90301 500",
            expect![[r#"
                90000 50: {Memory} hard Node(MemoryAvailable) 50/100
                0 500: {Memory} 
                200 500: {Memory} 
                299 500: {Memory} 
                310 500: {} 
                90301 500: {} "#]],
        );
    }
}

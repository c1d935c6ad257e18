//! Eviction thresholds: `memory.available: 100Mi`, `nodefs.available: 10%`. Pure.
//!
//! Not for: measuring, and choosing who goes.

use std::{collections::BTreeMap, fmt, time::Duration};

use orlop_model::quantities::Quantity;

use super::{
    fields::Fields,
    read::{Note, Wrong, join},
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory of the machine without the working set of all.
    MemoryAvailable,
    /// Bytes free on the file system of the state directory.
    NodefsAvailable,
    /// Inodes free there.
    NodefsInodesFree,
    /// Bytes free on the file system of the image store.
    ImagefsAvailable,
    /// Inodes free there.
    ImagefsInodesFree,
    /// Bytes free on the file system of writable layers.
    ContainerfsAvailable,
    /// Inodes free there.
    ContainerfsInodesFree,
    /// Processes that may still be made.
    PidAvailable,
}

impl Signal {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Signal); 8] = [
        ("memory.available", Signal::MemoryAvailable),
        ("nodefs.available", Signal::NodefsAvailable),
        ("nodefs.inodesFree", Signal::NodefsInodesFree),
        ("imagefs.available", Signal::ImagefsAvailable),
        ("imagefs.inodesFree", Signal::ImagefsInodesFree),
        ("containerfs.available", Signal::ContainerfsAvailable),
        ("containerfs.inodesFree", Signal::ContainerfsInodesFree),
        ("pid.available", Signal::PidAvailable),
    ];

    /// Upstream's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }

    fn parse(name: &str) -> Option<Signal> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal)
    }
}

/// How much of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Bytes, inodes or processes.
    Units(u64),
    /// Of what there is; from 0 to 1.
    Fraction(f64),
}

impl Amount {
    /// In units, of so many.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a capacity: neither negative nor larger than it, and a byte more or less is none"
    )]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Units(units) => units,
            Amount::Fraction(fraction) => (capacity as f64 * fraction) as u64,
        }
    }
}

/// As upstream's messages show it: `100Mi`, `10%`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Units(units) => {
                write!(f, "{}", Quantity::from_bytes(i64::try_from(*units).unwrap_or(i64::MAX)))
            }
            // Shares are kept as binary fractions: 7 % would be 7.000000000000001 %.
            Amount::Fraction(fraction) => write!(f, "{}%", (fraction * 1e8).round() / 1e6),
        }
    }
}

/// Less than this is too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// How much there must be.
    pub least: Amount,
    /// For how long it may be less; nothing at a hard threshold.
    pub grace: Duration,
    /// How much more than `least` is made free when it is reached.
    pub reclaim: Option<Amount>,
}

/// When pods are evicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// At once.
    pub hard: Vec<Threshold>,
    /// After their grace.
    pub soft: Vec<Threshold>,
    /// Longest time that pods get to end at a soft threshold, seconds.
    pub max_pod_grace_seconds: i64,
    /// How long a condition of pressure stays after the last time a threshold was reached.
    pub pressure_transition: Duration,
}

impl Eviction {
    /// What allocatable leaves out for a hard threshold.
    #[must_use]
    pub fn kept_free(&self, signal: Signal, capacity: u64) -> u64 {
        let threshold = self.hard.iter().find(|threshold| threshold.signal == signal);
        threshold.map_or(0, |threshold| threshold.least.of(capacity))
    }
}

impl Default for Eviction {
    fn default() -> Self {
        Eviction {
            hard: thresholds("", &defaults(), &mut Vec::new()).unwrap_or_default(),
            soft: Vec::new(),
            max_pod_grace_seconds: 0,
            pressure_transition: Duration::from_secs(300),
        }
    }
}

fn defaults() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(name, least)| (name.to_owned(), least.to_owned()))
    .into()
}

/// What the fields say.
pub(super) fn eviction(fields: &Fields, notes: &mut Vec<Note>) -> Result<Eviction, Wrong> {
    let reclaim = amounts("evictionMinimumReclaim", fields.eviction_minimum_reclaim.as_ref(), notes)?;
    let merge = fields.merge_default_eviction_settings.unwrap_or(false);
    let hard = match &fields.eviction_hard {
        None => defaults(),
        Some(said) if merge => defaults().into_iter().chain(said.clone()).collect(),
        Some(said) => said.clone(),
    };
    let mut hard = thresholds("evictionHard", &hard, notes)?;
    let graces = fields.eviction_soft_grace_period.clone().unwrap_or_default();
    let none = BTreeMap::new();
    let mut soft = thresholds("evictionSoft", fields.eviction_soft.as_ref().unwrap_or(&none), notes)?;
    for threshold in &mut soft {
        let name = threshold.signal.name();
        let missing = || {
            let least = fields.eviction_soft.as_ref().and_then(|soft| soft.get(name));
            Wrong::new(&join("evictionSoft", name), least, format!("needs evictionSoftGracePeriod.{name}"))
        };
        threshold.grace = *graces.get(name).ok_or_else(missing)?;
    }
    for name in graces.keys().filter(|name| !soft.iter().any(|soft| soft.signal.name() == *name)) {
        let text = "there is no soft threshold of this name".to_owned();
        notes.push(Note { field: join("evictionSoftGracePeriod", name), text });
    }
    for threshold in hard.iter_mut().chain(&mut soft) {
        threshold.reclaim = reclaim.iter().find(|(signal, _)| *signal == threshold.signal).map(|(_, a)| *a);
    }
    let max_pod_grace_seconds = i64::from(fields.eviction_max_pod_grace_period.unwrap_or(0));
    if max_pod_grace_seconds < 0 {
        let reason = "must not be negative";
        return Err(Wrong::new("evictionMaxPodGracePeriod", max_pod_grace_seconds, reason));
    }
    let transition = fields.eviction_pressure_transition_period.filter(|period| !period.is_zero());
    let pressure_transition = transition.unwrap_or(Duration::from_secs(300));
    Ok(Eviction { hard, soft, max_pod_grace_seconds, pressure_transition })
}

/// As on the command line: `memory.available<100Mi,nodefs.available<10%`.
///
/// # Errors
/// Which of them cannot be used, and why.
pub fn hard_thresholds(text: &str) -> Result<Vec<Threshold>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let said: BTreeMap<String, String> = pairs
        .map(|pair| {
            let (name, least) =
                pair.split_once('<').ok_or_else(|| format!("{pair:?} must be signal<amount"))?;
            let _known = Signal::parse(name).ok_or_else(|| format!("there is no signal {name:?}"))?;
            Ok((name.to_owned(), least.to_owned()))
        })
        .collect::<Result<_, String>>()?;
    thresholds("", &said, &mut Vec::new()).map_err(|wrong| format!("{}: {}", wrong.field, wrong.reason))
}

/// A share of nothing or of everything switches a threshold off, as upstream has it.
fn thresholds(
    field: &str,
    said: &BTreeMap<String, String>,
    notes: &mut Vec<Note>,
) -> Result<Vec<Threshold>, Wrong> {
    let mut found = Vec::new();
    for (signal, least) in amounts(field, Some(said), notes)? {
        match least {
            Amount::Fraction(fraction) if fraction <= 0.0 || fraction >= 1.0 => {}
            Amount::Units(0) => {
                let name = signal.name();
                return Err(Wrong::new(&join(field, name), said.get(name), "must be positive"));
            }
            _ => found.push(Threshold { signal, least, grace: Duration::ZERO, reclaim: None }),
        }
    }
    found.sort_by_key(|threshold| threshold.signal);
    Ok(found)
}

fn amounts(
    field: &str,
    said: Option<&BTreeMap<String, String>>,
    notes: &mut Vec<Note>,
) -> Result<Vec<(Signal, Amount)>, Wrong> {
    let mut found = Vec::new();
    for (name, text) in said.into_iter().flatten() {
        let path = join(field, name);
        match Signal::parse(name) {
            None => notes.push(Note { field: path, text: "there is no such signal".to_owned() }),
            Some(signal) => {
                let amount = amount(text).map_err(|reason| Wrong::new(&path, text, reason))?;
                found.push((signal, amount));
            }
        }
    }
    Ok(found)
}

fn amount(text: &str) -> Result<Amount, String> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| "must be a percentage as in 10%".to_owned())?;
        return match percent {
            percent if (0.0..=100.0).contains(&percent) => Ok(Amount::Fraction(percent / 100.0)),
            _ => Err("must lie between 0% and 100%".to_owned()),
        };
    }
    let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
    match u64::try_from(quantity.value()) {
        Ok(units) => Ok(Amount::Units(units)),
        Err(_) => Err("must not be negative".to_owned()),
    }
}

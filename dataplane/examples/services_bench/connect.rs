//! From `connect()` to the first byte, through a cluster IP and past it, with few and many services.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::services::Dialled;
use crate::statistics::{median, ratio, turn};
use crate::town::{Kind, Town, Way};

const COUNTS: [u32; 4] = [10, 1_000, 10_000, 30_000];
const ROUNDS: usize = 160;
const PER_ROUND: usize = 30;

pub(crate) fn measure(towns: &mut [Town]) -> Value {
    COUNTS.map(|count| with(towns, count)).to_vec().into()
}

fn with(towns: &mut [Town], count: u32) -> Value {
    let mut result = json!({ "services": count });
    for town in &mut *towns {
        result["write_ms"][town.kind.name()] = town.serve(count).into();
    }
    let order = format!("connect {PER_ROUND}");
    let rounds = rounds(towns, ROUNDS, |town| {
        let (client, to) = town.way(Way::Cluster, Dialled::Hello);
        client.ask(&format!("{order} {to}"))
    });
    // What connects to no service, in a cgroup with programs.
    let past = {
        let mut past = Vec::new();
        let pair = &mut towns[..2];
        assert_eq!([pair[0].kind, pair[1].kind], [Kind::Direct, Kind::Orlop]);
        let rounds = self::rounds(pair, ROUNDS / 4, |town| {
            let (client, to) = town.way(Way::Pod, Dialled::Hello);
            client.ask(&format!("{order} {to}"))
        });
        past.push(ratio(&rounds["orlop"], &rounds["direct"]));
        past[0]
    };
    result["past_services"] = past.into();
    result["us"] = medians(&rounds);
    result["to_direct"] = ratios(&rounds, "direct");
    result["to_orlop"] = ratios(&rounds, "orlop");
    result
}

/// The figures of all towns, by name, of as many rounds.
pub(crate) fn rounds(
    towns: &mut [Town],
    rounds: usize,
    mut measure: impl FnMut(&mut Town) -> f64,
) -> BTreeMap<&'static str, Vec<f64>> {
    let mut figures: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for at in turn(round, towns.len()) {
            let figure = measure(&mut towns[at]);
            figures.entry(towns[at].kind.name()).or_default().push(figure);
        }
    }
    figures
}

pub(crate) fn medians(rounds: &BTreeMap<&'static str, Vec<f64>>) -> Value {
    rounds.iter().map(|(name, figures)| ((*name).to_owned(), Value::from(median(figures)))).collect()
}

/// Each against that of this name.
pub(crate) fn ratios(rounds: &BTreeMap<&'static str, Vec<f64>>, to: &str) -> Value {
    rounds
        .iter()
        .map(|(name, figures)| ((*name).to_owned(), Value::from(ratio(figures, &rounds[to]))))
        .collect()
}

//! Medians, and ratios within rounds. Pure.

/// The middle value; of an even number, the higher of the two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The median of the ratios of one round each: what slows a whole round is in neither.
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> f64 {
    assert_eq!(of.len(), to.len(), "rounds are pairs");
    median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>())
}

/// In which order a round goes through so many things: each place is taken by each of them equally often.
pub(crate) fn turn(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| match round % 2 {
        0 => (place + round / 2) % count,
        _ => (count - 1 - place + round / 2) % count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_moves_no_ratio() {
        assert!((ratio(&[1.0, 20.0, 3.0], &[2.0, 40.0, 6.0]) - 0.5).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn turns_give_every_place_to_everybody() {
        let mut places = [[0; 4]; 4];
        for round in 0..8 {
            turn(round, 4).enumerate().for_each(|(place, who)| places[who][place] += 1);
        }
        assert_eq!(places, [[2; 4]; 4]);
    }
}

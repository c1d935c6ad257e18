//! [pure] The arithmetic of rollouts: how much each ReplicaSet may grow or shrink in one step.

use k8s_openapi::api::apps::v1::{Deployment, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::draft::{Draft, available, wanted};
use super::revision;

/// The size that the Deployment asks for.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether old pods go only as new ones come.
pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// Pods above the size during a rollout, at most.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { fences(deployment).0 } else { 0 }
}

/// Pods below the size during a rollout, at most.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let size = replicas(deployment);
    if is_rolling(deployment) && size > 0 { fences(deployment).1.min(size) } else { 0 }
}

/// Surge rounds up, unavailability down; both zero would never move.
fn fences(deployment: &Deployment) -> (i32, i32) {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let RollingUpdateDeployment { max_surge, max_unavailable } = rolling;
    let quarter = || IntOrString::String("25%".to_owned());
    let size = i64::from(replicas(deployment));
    let surge = scaled(&max_surge.unwrap_or_else(quarter), |percent| (percent * size + 99) / 100);
    let unavailable = scaled(&max_unavailable.unwrap_or_else(quarter), |percent| percent * size / 100);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn scaled(value: &IntOrString, percent: impl Fn(i64) -> i64) -> i32 {
    let number = match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => percent(text.trim_end_matches('%').parse().unwrap_or(0)),
    };
    i32::try_from(number.max(0)).unwrap_or(i32::MAX)
}

/// The size of the new ReplicaSet in the next step; `sets` are all of them.
pub(super) fn grow(deployment: &Deployment, new: i32, sets: &[Draft]) -> i32 {
    let size = replicas(deployment);
    if !is_rolling(deployment) || new >= size {
        return size;
    }
    let room = size + max_surge(deployment) - wanted(sets);
    if room <= 0 { new } else { new + room.min(size - new) }
}

/// Shrinks the old ReplicaSets as far as enough pods stay available: first those pods that do not work anyway,
/// then the oldest sets. True when anything changed.
pub(super) fn shrink(deployment: &Deployment, new: &Draft, old: &mut [Draft]) -> bool {
    let min_available = replicas(deployment) - max_unavailable(deployment);
    let all = wanted(old) + new.replicas;
    let new_unavailable = new.replicas - new.available();
    let mut budget = all - min_available - new_unavailable;
    if wanted(old) == 0 || budget <= 0 {
        return false;
    }
    old.sort_by_key(|draft| draft.set.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut changed = false;
    for draft in old.iter_mut().filter(|draft| draft.replicas > 0) {
        let useless = (draft.replicas - draft.available()).clamp(0, budget.max(0));
        if useless > 0 {
            budget -= useless;
            changed |= draft.scale(draft.replicas - useless, deployment);
        }
    }
    let mut spare = available(old) + new.available() - min_available;
    for draft in old.iter_mut().filter(|draft| draft.replicas > 0) {
        let less = draft.replicas.min(spare.max(0));
        if less > 0 {
            spare -= less;
            changed |= draft.scale(draft.replicas - less, deployment);
        }
    }
    changed
}

/// Whether the Deployment's size was changed since its ReplicaSets were last scaled.
pub(super) fn was_resized(deployment: &Deployment, sets: &[Draft]) -> bool {
    let size = replicas(deployment);
    sets.iter().filter(|d| d.replicas > 0).any(|d| revision::desired(&d.set).is_some_and(|then| then != size))
}

/// Brings a change of size to the ReplicaSets outside of a rollout, or in proportion in the middle of one.
pub(super) fn resize(deployment: &Deployment, new: Option<&mut Draft>, old: &mut [Draft]) {
    let size = replicas(deployment);
    let mut all: Vec<&mut Draft> = new.into_iter().chain(old.iter_mut()).collect();
    let active: Vec<_> = (0..all.len()).filter(|index| all[*index].replicas > 0).collect();
    match active.as_slice() {
        [] => {
            // Nothing runs: the newest one grows.
            if let Some(first) = all.first_mut().filter(|draft| draft.replicas != size) {
                first.scale(size, deployment);
            }
        }
        [only] if all[*only].replicas == size => {}
        [only] => drop(all[*only].scale(size, deployment)),
        _ if is_rolling(deployment) => proportion(deployment, &mut all, &active),
        _ => {}
    }
}

/// The new ReplicaSet has all its pods: what is left of the old ones goes.
pub(super) fn is_saturated(deployment: &Deployment, new: Option<&Draft>) -> bool {
    let size = replicas(deployment);
    new.is_some_and(|new| {
        new.replicas == size && revision::desired(&new.set) == Some(size) && new.available() == size
    })
}

/// Spreads the added or removed pods over the active ReplicaSets by their share.
fn proportion(deployment: &Deployment, all: &mut [&mut Draft], active: &[usize]) {
    let size = replicas(deployment);
    let allowed = if size > 0 { size + max_surge(deployment) } else { 0 };
    let total: i32 = active.iter().map(|index| all[*index].replicas).sum();
    let mut left = allowed - total;
    let mut order = active.to_vec();
    // The largest first; of equal ones the newest when growing, the oldest when shrinking.
    order.sort_by_key(|index| {
        let draft = &all[*index];
        let created =
            draft.set.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
        (std::cmp::Reverse(draft.replicas), if left > 0 { -created } else { created })
    });
    let mut sizes: Vec<i32> = Vec::with_capacity(order.len());
    for index in &order {
        let share = if left == 0 { 0 } else { fraction(all[*index], deployment, left) };
        sizes.push(all[*index].replicas + share);
        left -= share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    for (index, to) in order.into_iter().zip(sizes) {
        all[index].scale(to, deployment);
    }
}

fn fraction(draft: &Draft, deployment: &Deployment, left: i32) -> i32 {
    let size = replicas(deployment);
    if size == 0 {
        return -draft.replicas;
    }
    let then = revision::max(&draft.set).filter(|max| *max > 0);
    let then =
        then.unwrap_or_else(|| deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0)).max(1);
    let now = size + max_surge(deployment);
    let exact = f64::from(draft.replicas) * f64::from(now) / f64::from(then);
    #[expect(clippy::cast_possible_truncation, reason = "a ratio of two i32 sizes, rounded; `as` saturates")]
    let share = exact.round() as i32 - draft.replicas;
    if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn deployment(replicas: i32, strategy: &str) -> Deployment {
        yaml(&format!("spec: {{replicas: {replicas}, selector: {{}}, template: {{}}, strategy: {strategy}}}"))
    }

    #[test]
    fn fences_round_so_that_rollouts_move() {
        let rolling = |surge: &str, unavailable: &str| {
            format!(
                "{{type: RollingUpdate, rollingUpdate: {{maxSurge: {surge}, maxUnavailable: {unavailable}}}}}"
            )
        };
        for (size, strategy, expected) in [
            (3, "{}".to_owned(), (1, 0)),
            (10, "{}".to_owned(), (3, 2)),
            (3, rolling("0", "0"), (0, 1)),
            (3, rolling("0", "10%"), (0, 1)),
            (3, rolling("50%", "50%"), (2, 1)),
            (1, rolling("0", "5"), (0, 1)),
            (3, "{type: Recreate}".to_owned(), (0, 0)),
        ] {
            let deployment = deployment(size, &strategy);
            assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected, "{size} {strategy}");
        }
    }
}

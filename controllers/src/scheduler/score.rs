//! [pure] Which of the nodes that can take a pod is best: the emptier one, the one it prefers.

use k8s_openapi::api::core::v1::PodSpec;

use super::affinity;
use super::ledger::NodeInfo;
use super::request::Request;

/// The best candidate, or nothing when there is none. Equal ones take turns, `turn` says whose it is.
pub(super) fn best<'a>(
    spec: &PodSpec,
    request: &Request,
    candidates: &[&'a NodeInfo],
    turn: usize,
) -> Option<&'a NodeInfo> {
    let preferred: Vec<_> = candidates.iter().map(|info| affinity::preference(spec, &info.node)).collect();
    let unwelcome: Vec<_> = candidates.iter().map(|info| affinity::unwelcome(spec, &info.node)).collect();
    let most_preferred = preferred.iter().copied().max().unwrap_or(0).max(1);
    let most_unwelcome = unwelcome.iter().copied().max().unwrap_or(0);
    let score = |index: usize| {
        let taints = match most_unwelcome {
            0 => 100,
            most => {
                100 - 100 * i128::try_from(unwelcome[index]).unwrap_or(0) / i128::try_from(most).unwrap_or(1)
            }
        };
        let affinity = 100 * i128::from(preferred[index]) / i128::from(most_preferred);
        3 * taints + 2 * affinity + least_allocated(request, candidates[index])
    };
    let scores: Vec<_> = (0..candidates.len()).map(score).collect();
    let top = scores.iter().copied().max()?;
    let equals: Vec<_> = (0..candidates.len()).filter(|index| scores[*index] == top).collect();
    Some(candidates[equals[turn % equals.len()]])
}

/// 0 to 100: the share of CPU and memory that stays free with the pod.
fn least_allocated(request: &Request, info: &NodeInfo) -> i128 {
    let free = |name: &str, used: i128, wanted: i128| {
        let capacity = info.allocatable.get(name).copied().unwrap_or(0);
        if capacity == 0 || used + wanted > capacity {
            0
        } else {
            (capacity - used - wanted) * 100 / capacity
        }
    };
    let cpu = free("cpu", info.weight.0, request.weight.0);
    let memory = free("memory", info.weight.1, request.weight.1);
    i128::midpoint(cpu, memory)
}

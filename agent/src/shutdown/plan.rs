//! Who ends when, as the machine goes down.
//!
//! Source: KEP-2000, KEP-2712.

use std::time::Duration;

use crate::{config::kubelet::Phase, pod::desired::Desired};

/// Pods that end together, and how long the machine waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// No pod gets more.
    pub(super) period: Duration,
    /// UIDs.
    pub(super) pods: Vec<String>,
}

/// The groups in their order: the least important first. A phase without pods takes no time.
pub(super) fn groups(phases: &[Phase], pods: &[Desired]) -> Vec<Group> {
    let mut phases: Vec<_> = phases.iter().collect();
    phases.sort_by_key(|phase| phase.priority);
    let mut groups: Vec<_> =
        phases.iter().map(|phase| Group { period: phase.period, pods: Vec::new() }).collect();
    for pod in pods {
        let priority = pod.spec().priority.unwrap_or(0);
        // What is less important than every phase belongs to the first.
        let at = phases.partition_point(|phase| phase.priority <= priority).saturating_sub(1);
        if let Some(group) = groups.get_mut(at) {
            group.pods.push(pod.uid().to_owned());
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    use super::*;

    /// `priority:seconds` for phases, `uid:priority` for pods.
    fn check(phases: &str, pods: &str, expected: Expect) {
        let pairs = |text: &str| -> Vec<(String, String)> {
            let pairs = text.split_whitespace().filter_map(|word| word.split_once(':'));
            pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
        };
        let phases: Vec<_> = pairs(phases)
            .iter()
            .map(|(priority, seconds)| Phase {
                priority: priority.parse().unwrap(),
                period: Duration::from_secs(seconds.parse().unwrap()),
            })
            .collect();
        let pods: Vec<_> = pairs(pods)
            .iter()
            .map(|(uid, priority)| {
                let spec = PodSpec { priority: priority.parse().ok(), ..PodSpec::default() };
                let mut pod = Pod { spec: Some(spec), ..Pod::default() };
                pod.metadata.uid = Some(uid.clone());
                Desired::new(Arc::new(pod))
            })
            .collect();
        let said: Vec<_> = groups(&phases, &pods)
            .iter()
            .map(|group| format!("{}s {}", group.period.as_secs(), group.pods.join(",")))
            .collect();
        expected.assert_eq(&said.join("; "));
    }

    #[test]
    fn critical_pods_end_last() {
        check(
            "2000000000:10 0:20",
            "a:0 dns:2000000000 b:5 node:2000001000",
            expect!["20s a,b; 10s dns,node"],
        );
    }

    #[test]
    fn less_important_than_any_phase_is_the_first() {
        check("100:10 1000:20", "a:0 b:-5 c:100 d:5000 e:none", expect!["10s a,b,c,e; 20s d"]);
    }

    #[test]
    fn a_phase_without_pods_takes_no_time() {
        check("0:10 100:20 1000:30", "a:100", expect!["20s a"]);
        check("", "a:100", expect![""]);
    }
}

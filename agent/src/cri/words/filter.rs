//! `[p]` Which pods and containers a client asks about.

use std::collections::HashMap;

use orlop_cri_api::v1::{Container, ContainerFilter, PodSandbox, PodSandboxFilter};

/// Ids may be given by their first characters.
fn id(wanted: &str, id: &str) -> bool {
    id.starts_with(wanted)
}

fn labels(wanted: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

pub(in crate::cri) fn pod(filter: Option<&PodSandboxFilter>, pod: &PodSandbox) -> bool {
    filter.is_none_or(|filter| {
        id(&filter.id, &pod.id)
            && filter.state.as_ref().is_none_or(|state| state.state == pod.state)
            && labels(&filter.label_selector, &pod.labels)
    })
}

pub(in crate::cri) fn container(filter: Option<&ContainerFilter>, container: &Container) -> bool {
    filter.is_none_or(|filter| {
        id(&filter.id, &container.id)
            && id(&filter.pod_sandbox_id, &container.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|state| state.state == container.state)
            && labels(&filter.label_selector, &container.labels)
    })
}

#[cfg(test)]
mod tests {
    use orlop_cri_api::v1::{ContainerState, ContainerStateValue};

    use super::*;

    #[test]
    fn all_that_is_said_has_to_fit() {
        let seen = Container {
            id: "abcdef".into(),
            pod_sandbox_id: "cri-12".into(),
            state: ContainerState::ContainerRunning.into(),
            labels: HashMap::from([("app".to_owned(), "web".to_owned())]),
            ..Container::default()
        };
        let check = |filter: ContainerFilter, expected| {
            assert_eq!(container(Some(&filter), &seen), expected, "{filter:?}");
        };
        let none = ContainerFilter::default;
        let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
        assert!(container(None, &seen));
        check(none(), true);
        check(ContainerFilter { id: "abc".into(), ..none() }, true);
        check(ContainerFilter { id: "bc".into(), ..none() }, false);
        check(ContainerFilter { pod_sandbox_id: "cri-2".into(), ..none() }, false);
        check(ContainerFilter { state: state(ContainerState::ContainerRunning), ..none() }, true);
        check(ContainerFilter { state: state(ContainerState::ContainerExited), ..none() }, false);
        let labelled = |value: &str| HashMap::from([("app".to_owned(), value.to_owned())]);
        check(ContainerFilter { label_selector: labelled("web"), ..none() }, true);
        check(ContainerFilter { label_selector: labelled("db"), ..none() }, false);
    }
}

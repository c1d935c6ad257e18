//! [pure] What to do with one object, given its owners and dependents.

use super::graph::{FOREGROUND, ORPHAN, View};

/// How dependents of a deleted object are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// The next write for an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Delete(Policy),
    /// Take away the references to these owners; others still hold it.
    DropOwners(Vec<String>),
    /// Take away the references of its dependents to it.
    Orphan,
    /// Take away this finalizer: its work is done.
    Finish(&'static str),
}

/// Decides; `absent` are those of the unknown owners that are certainly gone.
pub(super) fn plan(view: &View, absent: &[String]) -> Action {
    let item = &view.item;
    if item.deleting {
        return ending(view);
    }
    if item.owners.is_empty() {
        return Action::Nothing;
    }
    let waiting: Vec<_> =
        view.known_owners.iter().filter(|owner| owner.waits()).map(|o| o.uid.clone()).collect();
    let held = item.owners.iter().any(|owner| !absent.contains(&owner.uid) && !waiting.contains(&owner.uid));
    if held {
        let dead: Vec<_> = absent.iter().cloned().chain(waiting).collect();
        return if dead.is_empty() { Action::Nothing } else { Action::DropOwners(dead) };
    }
    if !waiting.is_empty() && !view.dependents.is_empty() {
        return Action::Delete(Policy::Foreground);
    }
    Action::Delete(if item.has(ORPHAN) {
        Policy::Orphan
    } else if item.has(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    })
}

/// An object on its way out lets its dependents go first, where it was asked to.
fn ending(view: &View) -> Action {
    let item = &view.item;
    if item.has(ORPHAN) {
        return if view.dependents.is_empty() { Action::Finish(ORPHAN) } else { Action::Orphan };
    }
    if item.has(FOREGROUND) {
        let blocks = |dependent: &super::graph::Item| {
            let mut to_us = dependent.owners.iter().filter(|owner| owner.uid == item.uid);
            to_us.any(|owner| owner.block_owner_deletion == Some(true))
        };
        return if view.dependents.iter().any(blocks) { Action::Nothing } else { Action::Finish(FOREGROUND) };
    }
    Action::Nothing
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::graph::{Graph, Item};
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ApiResource;

    /// Objects as `UID [<OWNER…] [flags]`: `<` an owner, `<<` one that waits for it, `!` being deleted,
    /// `+finalizer`. Shows the action for the first; owners that are not listed are gone.
    fn check(objects: &[&str], expected: Action) {
        let resource = Arc::new(ApiResource::erase::<ConfigMap>(&()));
        let mut graph = Graph::default();
        for object in objects {
            graph.put(item(object, &resource));
        }
        let first = objects[0].split(' ').next().unwrap();
        let view = graph.view(first).unwrap();
        let absent: Vec<_> = view.unknown_owners.iter().map(|owner| owner.uid.clone()).collect();
        assert_eq!(plan(&view, &absent), expected, "{objects:?}");
    }

    fn item(text: &str, resource: &Arc<ApiResource>) -> Item {
        let mut words = text.split(' ');
        let uid = words.next().unwrap();
        let (mut owners, mut finalizers, mut deleting) = (Vec::new(), Vec::new(), "");
        for word in words {
            if let Some(owner) = word.strip_prefix("<<") {
                owners.push(format!(
                    "{{apiVersion: v1, kind: X, name: x, uid: {owner}, blockOwnerDeletion: true}}"
                ));
            } else if let Some(owner) = word.strip_prefix('<') {
                owners.push(format!("{{apiVersion: v1, kind: X, name: x, uid: {owner}}}"));
            } else if let Some(finalizer) = word.strip_prefix('+') {
                finalizers.push(finalizer);
            } else {
                deleting = "deletionTimestamp: '2024-01-01T00:00:00Z', ";
            }
        }
        let (owners, finalizers) = (owners.join(", "), finalizers.join(", "));
        let meta = format!(
            "{{{deleting}name: {uid}, uid: {uid}, finalizers: [{finalizers}], ownerReferences: [{owners}]}}"
        );
        Item::of(&yaml(&meta), resource)
    }

    #[test]
    fn objects_go_with_their_last_owner() {
        check(&["a <o", "o"], Action::Nothing);
        check(&["a <o"], Action::Delete(Policy::Background));
        check(&["a <o <p", "p"], Action::DropOwners(vec!["o".to_owned()]));
        check(&["a"], Action::Nothing);
        check(&["a <o !"], Action::Nothing);
    }

    #[test]
    fn foreground_deletion_goes_from_the_leaves_up() {
        check(&["a <<o", "o ! +foregroundDeletion", "b <<a"], Action::Delete(Policy::Foreground));
        check(&["a <<o", "o ! +foregroundDeletion"], Action::Delete(Policy::Background));
        check(&["o ! +foregroundDeletion", "a <<o"], Action::Nothing);
        check(&["o ! +foregroundDeletion", "a <o"], Action::Finish("foregroundDeletion"));
        check(&["a <o <p", "p", "o ! +foregroundDeletion"], Action::DropOwners(vec!["o".to_owned()]));
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        check(&["o ! +orphan", "a <o"], Action::Orphan);
        check(&["o ! +orphan"], Action::Finish("orphan"));
        check(&["a <o", "o ! +orphan"], Action::Nothing);
    }

    #[test]
    fn changes_say_whom_to_look_at() {
        let resource = Arc::new(ApiResource::erase::<ConfigMap>(&()));
        let mut graph = Graph::default();
        let mut put = |text: &str| graph.put(item(text, &resource)).join(" ");
        assert_eq!(put("o"), "");
        assert_eq!(put("a <o"), "a");
        assert_eq!(put("a <o"), "");
        assert_eq!(put("o ! +foregroundDeletion"), "o a");
        assert_eq!(put("a"), "o");
        assert_eq!(put("a <o"), "a");
        assert_eq!(graph.remove("a").join(" "), "o");
        assert_eq!(graph.remove("o").join(" "), "");
    }
}

//! [pure] What a namespace that is going away still holds, as its conditions tell it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// Type, reason and message of what is fine, in upstream's order.
const FINE: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// How many objects are left, by kind and by finalizer.
#[derive(Debug, Default)]
pub(super) struct Left {
    kinds: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    /// Counts objects of a kind, named `configmaps.` or `deployments.apps`.
    pub(super) fn add<'a>(&mut self, kind: &str, objects: impl Iterator<Item = &'a ObjectMeta>) {
        for meta in objects {
            *self.kinds.entry(kind.to_owned()).or_default() += 1;
            for finalizer in meta.finalizers.iter().flatten() {
                *self.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
    }

    /// Nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The conditions to write; nothing when they are told already.
    pub(super) fn conditions(
        &self,
        known: &[NamespaceCondition],
        now: Timestamp,
    ) -> Option<Vec<NamespaceCondition>> {
        let list = |map: &BTreeMap<String, usize>, verb: &str| {
            let texts: Vec<_> =
                map.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
            texts.join(", ")
        };
        let conditions = FINE.map(|(kind, reason, message)| match kind {
            "NamespaceContentRemaining" if !self.kinds.is_empty() => {
                let message = format!("Some resources are remaining: {}", list(&self.kinds, "has"));
                condition(known, kind, true, "SomeResourcesRemain", message, now)
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let message = format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    list(&self.finalizers, "in")
                );
                condition(known, kind, true, "SomeFinalizersRemain", message, now)
            }
            _ => condition(known, kind, false, reason, message.to_owned(), now),
        });
        (conditions.as_slice() != known).then(|| conditions.into())
    }
}

/// The time moves only when the status does.
fn condition(
    known: &[NamespaceCondition],
    kind: &str,
    status: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) -> NamespaceCondition {
    let status = if status { "True" } else { "False" };
    let before = known.iter().find(|known| known.type_ == kind && known.status == status);
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: before.and_then(|known| known.last_transition_time.clone()).or(Some(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn what_is_left_and_what_keeps_it_is_told_once() {
        let mut left = Left::default();
        assert!(left.is_empty());
        left.add("configmaps.", [yaml("{finalizers: [x.y/z]}"), yaml("{}")].iter());
        left.add("pods.", [yaml("{finalizers: [x.y/z, a/b]}")].iter());
        let told = left.conditions(&[], Timestamp::UNIX_EPOCH).unwrap();
        let text: String = told
            .iter()
            .map(|c| {
                format!(
                    "{} {} {}: {}\n",
                    c.type_,
                    c.status,
                    c.reason.as_deref().unwrap(),
                    c.message.as_deref().unwrap()
                )
            })
            .collect();
        expect_test::expect![[r#"
            NamespaceDeletionDiscoveryFailure False ResourcesDiscovered: All resources successfully discovered
            NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube types successfully parsed
            NamespaceDeletionContentFailure False ContentDeleted: All content successfully deleted, may be waiting on finalization
            NamespaceContentRemaining True SomeResourcesRemain: Some resources are remaining: configmaps. has 2 resource instances, pods. has 1 resource instances
            NamespaceFinalizersRemaining True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 1 resource instances, x.y/z in 2 resource instances
        "#]].assert_eq(&text);
        assert_eq!(left.conditions(&told, Timestamp::from_second(9).unwrap()), None);
        let later = Left::default().conditions(&told, Timestamp::from_second(9).unwrap()).unwrap();
        let moved = later.iter().filter(|c| c.last_transition_time != told[0].last_transition_time);
        assert_eq!(
            moved.map(|c| &*c.type_).collect::<Vec<_>>(),
            ["NamespaceContentRemaining", "NamespaceFinalizersRemaining"]
        );
    }
}

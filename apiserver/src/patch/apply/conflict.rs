//! Conflicts and how they are told.

use super::managed::{Operation, Owner};
use super::set::FieldSet;

/// Per owner, the time of its entry and the fields that the configuration would take from it.
#[derive(Clone, Debug)]
pub(super) struct Conflicts(pub(super) Vec<(Owner, Option<String>, FieldSet)>);

/// 409: others own fields that the configuration changes. The text is the message of the Status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Conflict {
    message: String,
    /// One per field, for `details.causes`; reason `FieldManagerConflict`.
    pub causes: Vec<Cause>,
}

/// One field of a [`Conflict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `.spec.replicas`
    pub field: String,
    /// `conflict with "kubectl" using apps/v1`
    pub message: String,
}

impl Conflicts {
    /// What is left when these fields may be taken; `None` for nothing.
    pub(super) fn without(&self, allowed: &FieldSet) -> Option<Conflicts> {
        let left: Vec<_> = self
            .0
            .iter()
            .map(|(owner, time, fields)| (owner.clone(), time.clone(), fields.difference(allowed)))
            .filter(|(_, _, fields)| !fields.is_empty())
            .collect();
        (!left.is_empty()).then_some(Conflicts(left))
    }

    pub(super) fn into_error(self) -> Conflict {
        let mut owners: Vec<(String, Vec<String>)> = self
            .0
            .iter()
            .map(|(owner, time, fields)| (describe(owner, time.as_deref()), fields.paths()))
            .collect();
        owners.sort();
        let causes: Vec<Cause> = owners
            .iter()
            .flat_map(|(owner, paths)| paths.iter().map(move |path| (owner, path)))
            .map(|(owner, path)| Cause { field: path.clone(), message: format!("conflict with {owner}") })
            .collect();
        let message = match causes.as_slice() {
            [Cause { field, message }] => format!("Apply failed with 1 conflict: {message}: {field}"),
            _ => {
                let mut lines = Vec::new();
                for (owner, paths) in &owners {
                    lines.push(format!("conflicts with {owner}:"));
                    lines.extend(paths.iter().map(|path| format!("- {path}")));
                }
                format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
            }
        };
        Conflict { message, causes }
    }
}

fn describe(owner: &Owner, time: Option<&str>) -> String {
    let mut text = format!("{:?}", owner.manager);
    if !owner.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", owner.subresource));
    }
    if owner.operation == Operation::Update {
        text.push_str(&format!(" using {}", owner.api_version));
        if let Some(time) = time {
            text.push_str(&format!(" at {time}"));
        }
    }
    text
}

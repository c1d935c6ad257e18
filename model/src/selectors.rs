//! Label and field selectors: what `-l` and `--field-selector` say, and what objects carry in `spec.selector`.
//!
//! Parsing follows upstream's grammar and error texts (`k8s.io/apimachinery/pkg/labels`, `…/fields`).
//! Which fields an object offers is the business of its kind, not of this module.

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

/// Why a text or a list of expressions is no selector; reads as upstream's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

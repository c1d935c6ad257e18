//! Label selectors: requirements on an object's labels that must all hold.

mod parse;

use std::collections::BTreeMap;
use std::fmt;

use super::SelectorError;
use crate::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is the one given (`=`, `==`).
    Equals,
    /// The label is absent or its value differs (`!=`).
    NotEquals,
    /// The value is among those given.
    In,
    /// The label is absent or its value is not among those given.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent (`!key`).
    DoesNotExist,
    /// The value is a number greater than the one given.
    GreaterThan,
    /// The value is a number less than the one given.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// Checks key, number of values and their form, with upstream's texts.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        let invalid = |field: &str, value: &str, problem: &str| {
            SelectorError(format!("{field}: Invalid value: {value}: {problem}"))
        };
        names::is_label_key(key).map_err(|e| invalid("key", &format!("{key:?}"), &e))?;
        let shown = format!("[{}]", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(","));
        let problem = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
                Some("for 'Gt', 'Lt' operators, the value must be an integer")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(invalid("values", &shown, problem));
        }
        for (index, value) in values.iter().enumerate() {
            names::is_label_value(value)
                .map_err(|e| invalid(&format!("values[{index}][{key}]"), &format!("{value:?}"), &e))?;
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// The label it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether the labels satisfy it.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        let number = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::Equals | Operator::In => listed(),
            Operator::NotEquals | Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number().is_some_and(|(have, limit)| have > limit),
            Operator::LessThan => number().is_some_and(|(have, limit)| have < limit),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements that must all hold, sorted by key. Without any it selects everything, or nothing when it was
/// made by [`LabelSelector::nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object: what an absent `spec.selector` means in most kinds.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the text form: `app=web,tier in (a,b),!canary`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self::from_requirements)
    }

    /// Selects what satisfies all of these.
    #[must_use]
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// From `matchLabels` and `matchExpressions` (key, operator as in the API, values) of an API object.
    pub fn from_match<'a>(
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
        expressions: impl IntoIterator<Item = (&'a str, &'a str, Vec<String>)>,
    ) -> Result<Self, SelectorError> {
        let equal = labels.into_iter().map(|(k, v)| Requirement::new(k, Operator::Equals, vec![v.clone()]));
        let expressions = expressions.into_iter().map(|(key, operator, values)| {
            let operator = match operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            Requirement::new(key, operator, values)
        });
        Ok(Self::from_requirements(equal.chain(expressions).collect::<Result<_, _>>()?))
    }

    /// From a map in which every label must have exactly the given value (Service selectors, node selectors).
    pub fn from_map(labels: &BTreeMap<String, String>) -> Result<Self, SelectorError> {
        Self::from_match(labels, [])
    }

    /// Whether it has no requirement: everything or nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.requirements.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn selectors_match_as_upstream() {
        for (selector, object, expected) in [
            ("", "x=y", true),
            ("x=y", "x=y,z=w", true),
            ("x=y", "x=z", false),
            ("x=", "x=", true),
            ("x!=y", "", true),
            ("x!=y", "x=y", false),
            ("x in (a,b)", "x=b", true),
            ("x in (a,b)", "", false),
            ("x notin (a,b)", "", true),
            ("x notin (a,b)", "x=a", false),
            ("x", "x=1", true),
            ("!x", "x=1", false),
            ("!x", "", true),
            ("x>1", "x=2", true),
            ("x>1", "x=a", false),
            ("x<1", "x=0", true),
            ("x=a,y=b", "x=a", false),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(object)), expected, "{selector:?} on {object:?}");
        }
    }

    #[test]
    fn nothing_is_not_everything() {
        assert!(LabelSelector::everything().matches(&labels("a=b")));
        assert!(!LabelSelector::nothing().matches(&labels("a=b")));
    }

    #[test]
    fn match_labels_and_expressions_both_hold() {
        let (map, values) = (labels("app=web"), vec!["a".to_owned(), "b".to_owned()]);
        let selector =
            LabelSelector::from_match(&map, [("tier", "In", values), ("old", "DoesNotExist", vec![])]);
        assert_eq!(selector.map(|s| s.to_string()), Ok("app=web,!old,tier in (a,b)".to_owned()));
        let unknown = LabelSelector::from_match(&map, [("tier", "Near", vec![])]);
        assert_eq!(unknown, Err(SelectorError("\"Near\" is not a valid label selector operator".to_owned())));
    }
}

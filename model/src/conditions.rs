//! Status conditions: setting one keeps the time of its last change while its status stays the same.
//!
//! The time type is the caller's, so that this stays free of clocks and of API types.

use std::fmt;

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The condition holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

impl Status {
    /// As written in API objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }

    /// Reads what API objects carry; what is neither `True` nor `False` is unknown.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "True" => Status::True,
            "False" => Status::False,
            _ => Status::Unknown,
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Status::True } else { Status::False }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A condition of an object's status; `T` is the caller's time type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<T> {
    /// The type, e.g. `Ready`.
    pub kind: String,
    /// Whether it holds.
    pub status: Status,
    /// One word for machines, may be empty.
    pub reason: String,
    /// A sentence for people, may be empty.
    pub message: String,
    /// When `status` last changed.
    pub since: T,
}

/// Puts `new` into the list, in its place or at the end; true when anything an operator sees changed.
pub fn set<T>(list: &mut Vec<Condition<T>>, new: Condition<T>) -> bool {
    let Some(old) = list.iter_mut().find(|old| old.kind == new.kind) else {
        list.push(new);
        return true;
    };
    if old.status != new.status {
        *old = new;
        return true;
    }
    let changed = old.reason != new.reason || old.message != new.message;
    (old.reason, old.message) = (new.reason, new.message);
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: bool, reason: &str, since: u32) -> Condition<u32> {
        let (reason, message) = (reason.to_owned(), String::new());
        Condition { kind: "Ready".to_owned(), status: status.into(), reason, message, since }
    }

    #[test]
    fn the_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        assert!(set(&mut list, ready(false, "Starting", 1)));
        assert!(set(&mut list, ready(false, "Pulling", 2)));
        assert!(!set(&mut list, ready(false, "Pulling", 3)));
        assert_eq!(list[0].since, 1);
        assert!(set(&mut list, ready(true, "", 4)));
        assert_eq!((list.len(), list[0].since), (1, 4));
    }
}

//! One change of a watched collection, as sources hand it to indexes.
//!
//! Not a wire format: bookmarks, errors and resource versions stay in the source.

/// A change of a collection. A consumer that saw no [`Event::Reset`] yet has seen nothing complete and must
/// not remove anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// The object was added or changed; this is all of it.
    Apply(T),
    /// The object is gone; this is its last known state.
    Delete(T),
    /// These are all objects there are: whatever is not among them is gone.
    Reset(Vec<T>),
}

impl<T> Event<T> {
    /// The same event with every object converted by `f`.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Event<U> {
        match self {
            Event::Apply(object) => Event::Apply(f(object)),
            Event::Delete(object) => Event::Delete(f(object)),
            Event::Reset(objects) => Event::Reset(objects.into_iter().map(f).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_keeps_the_kind_of_event() {
        assert_eq!(Event::Apply(1).map(|n| n + 1), Event::Apply(2));
        assert_eq!(Event::Delete(1).map(|n| n + 1), Event::Delete(2));
        assert_eq!(Event::Reset(vec![1, 2]).map(|n| n + 1), Event::Reset(vec![2, 3]));
    }
}

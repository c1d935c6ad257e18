//! What one event is to a watch with selectors: an object may enter or leave its view without being created
//! or deleted.

use bytes::Bytes;
use serde_json::Value;

use crate::rest::filter::Filter;
use crate::rest::object;
use crate::store::Event;

/// The word and the object a watcher is told, or nothing.
pub(super) fn seen(event: &Event, filter: &Filter) -> Option<(&'static str, Bytes)> {
    let before = event.old.as_ref().is_some_and(|old| filter.matches_bytes(&old.value));
    let after = !event.deleted && filter.matches_bytes(&event.object.value);
    match (before, after) {
        (false, false) => None,
        (false, true) => Some(("ADDED", event.object.value.clone())),
        (true, true) => Some(("MODIFIED", event.object.value.clone())),
        (true, false) if event.deleted => Some(("DELETED", event.object.value.clone())),
        // It left the view: the watcher gets what it knew, at the revision of the change.
        (true, false) => Some(("DELETED", at_revision(&event.old.as_ref()?.value, event.revision()))),
    }
}

fn at_revision(bytes: &Bytes, revision: u64) -> Bytes {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut value) => {
            object::metadata(&mut value).insert("resourceVersion".into(), revision.to_string().into());
            value.to_string().into()
        }
        Err(_) => bytes.clone(),
    }
}

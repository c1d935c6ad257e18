//! What readers see: all live objects, the newest revision and the ring of recent events.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::engine::Loaded;
use super::ring::{Event, Ring};
use super::{Object, Options};

/// The published state; changed only by the writer.
#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) objects: BTreeMap<Arc<str>, Arc<Object>>,
    pub(super) ring: Ring,
}

impl State {
    pub(super) fn new(loaded: Loaded, options: &Options) -> Self {
        let newest = loaded.records.iter().map(|r| r.revision).max().unwrap_or(0);
        // Clients take revision 0 for "any", so the first one is 1.
        let revision = loaded.reserved.max(newest).max(1);
        let objects = loaded
            .records
            .into_iter()
            .map(|r| {
                let object = Object {
                    key: Arc::clone(&r.key),
                    revision: r.revision,
                    created: r.created,
                    value: r.value,
                };
                (r.key, Arc::new(object))
            })
            .collect();
        Self { revision, objects, ring: Ring::new(revision, options) }
    }

    pub(super) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object)
    }

    pub(super) fn publish(&mut self, event: Event) {
        self.revision = event.revision();
        if event.deleted {
            self.objects.remove(&event.object.key);
        } else {
            self.objects.insert(Arc::clone(&event.object.key), Arc::clone(&event.object));
        }
        self.ring.push(event);
    }
}

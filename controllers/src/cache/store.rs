//! The objects of one kind, and who wants to hear of changes.
//!
//! Two writers: the watch, and the answers of our own writes ([`Store::absorb`]), which arrive earlier. The
//! resource version decides: an answer that the watch has already passed is dropped, so that a deleted object
//! never comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use kube::Resource;
use tokio::sync::watch;

use crate::object::{Key, version};

type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// A change as the API server reports it.
#[derive(Debug)]
pub(crate) enum Change<K> {
    Apply(K),
    Delete(K),
    /// All objects, as of this version.
    Reset(Vec<K>, u64),
}

pub(crate) struct Store<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    /// Held while a change and its handlers run, so that handlers see changes in order. Handlers may read any
    /// store, for the locks of the objects are never held while they run.
    turn: Mutex<Turn<K>>,
    synced: watch::Sender<bool>,
}

struct Turn<K> {
    handlers: Vec<Handler<K>>,
    /// The version up to which the watch has told everything.
    seen: u64,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            turn: Mutex::new(Turn { handlers: Vec::new(), seen: 0 }),
            synced: watch::Sender::new(false),
        }
    }
}

impl<K: Resource> Store<K> {
    /// Calls `handler` with (old, new) for every change, and for every object already there.
    pub(crate) fn on_change(
        &self,
        handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static,
    ) {
        let mut turn = self.turn();
        for object in self.list() {
            handler(None, Some(&object));
        }
        turn.handlers.push(Box::new(handler));
    }

    /// Takes what the watch says.
    pub(crate) fn apply(&self, change: Change<K>) {
        let mut turn = self.turn();
        match change {
            Change::Apply(object) => {
                turn.seen = turn.seen.max(version(object.meta()));
                self.put(&turn, object);
            }
            Change::Delete(object) => {
                turn.seen = turn.seen.max(version(object.meta()));
                self.remove(&turn, &Key::of(object.meta()));
            }
            Change::Reset(objects, listed) => {
                turn.seen = turn.seen.max(listed);
                let mut gone = self.read().clone();
                for object in objects {
                    gone.remove(&Key::of(object.meta()));
                    self.put(&turn, object);
                }
                // An answer newer than the list: the watch that follows will tell about it.
                for key in gone.into_iter().filter(|(_, o)| version(o.meta()) <= listed).map(|(key, _)| key) {
                    self.remove(&turn, &key);
                }
                self.synced.send_replace(true);
            }
        }
    }

    /// The watch has reached this version without a change of an object.
    pub(crate) fn passed(&self, version: u64) {
        let mut turn = self.turn();
        turn.seen = turn.seen.max(version);
    }

    /// Takes the answer of a write of ours, unless the watch has already passed it.
    pub(crate) fn absorb(&self, object: K) {
        let turn = self.turn();
        if version(object.meta()) > turn.seen {
            self.put(&turn, object);
        }
    }

    /// An older object never replaces a newer one.
    fn put(&self, turn: &Turn<K>, object: K) {
        let (key, object) = (Key::of(object.meta()), Arc::new(object));
        let old = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            let newer = |old: &Arc<K>| {
                let (old, new) = (version(old.meta()), version(object.meta()));
                old >= new && old != 0
            };
            if objects.get(&key).is_some_and(newer) {
                return;
            }
            objects.insert(key, Arc::clone(&object))
        };
        for handler in &turn.handlers {
            handler(old.as_ref(), Some(&object));
        }
    }

    fn remove(&self, turn: &Turn<K>, key: &Key) {
        let old = self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(old) = old {
            for handler in &turn.handlers {
                handler(Some(&old), None);
            }
        }
    }

    /// Returns once a first complete list is in.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self: waiting cannot fail.
        drop(synced.wait_for(|synced| *synced).await);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    /// All objects, in order of namespace and name.
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// The objects of a namespace that satisfy `wanted`, in order of their names.
    pub(crate) fn select(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let objects = self.read();
        let from = objects.range(Key::new(namespace, "")..);
        let inside = from.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object);
        inside.filter(|object| wanted(object)).cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, Turn<K>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use k8s_openapi::api::core::v1::ConfigMap;

    /// Runs `+name@version` (watch applies), `-name@version` (watch deletes), `!name@version` (our write was
    /// answered) and `=version a@1 b@2` (list), one per `;`; shows what handlers heard and what is left.
    fn check(script: &str, expected: Expect) {
        let store = Store::<ConfigMap>::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        store.on_change(move |old, new| {
            let show =
                |o: Option<&Arc<ConfigMap>>| o.map_or("-".to_owned(), |o| version(&o.metadata).to_string());
            let name = new.or(old).and_then(|o| o.metadata.name.clone()).unwrap_or_default();
            log.lock().unwrap().push(format!("{name}:{}>{}", show(old), show(new)));
        });
        for step in script.split(';').map(str::trim) {
            let (kind, rest) = step.split_at(1);
            match kind {
                "+" => store.apply(Change::Apply(object(rest))),
                "-" => store.apply(Change::Delete(object(rest))),
                "!" => store.absorb(object(rest)),
                _ => {
                    let mut words = rest.split(' ');
                    let listed = words.next().unwrap().parse().unwrap();
                    store.apply(Change::Reset(words.map(object).collect(), listed));
                }
            }
        }
        let left: Vec<_> = store.list().iter().map(|o| o.metadata.name.clone().unwrap()).collect();
        expected.assert_eq(&format!("{} | {}", heard.lock().unwrap().join(" "), left.join(" ")));
    }

    fn object(text: &str) -> ConfigMap {
        let (name, version) = text.split_once('@').unwrap();
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    #[test]
    fn changes_reach_handlers_with_old_and_new() {
        check("=1 a@1; +a@2; +b@3; -a@4", expect!["a:->1 a:1>2 b:->3 a:2>- | b"]);
    }

    #[test]
    fn a_list_removes_what_is_not_in_it() {
        check("=2 a@1 b@2; =5 b@2 c@4", expect!["a:->1 b:->2 c:->4 a:1>- | b c"]);
    }

    #[test]
    fn an_answer_counts_before_the_watch_tells_it() {
        check("=1 a@1; !b@5; +b@5; -b@6", expect!["a:->1 b:->5 b:5>- | a"]);
    }

    #[test]
    fn a_late_answer_does_not_bring_back_the_dead() {
        check("=1; +b@5; -b@6; !b@5", expect!["b:->5 b:5>- | "]);
    }

    #[test]
    fn an_answer_newer_than_a_list_survives_it() {
        check("=1; !b@5; =4 a@2; -b@7", expect!["b:->5 a:->2 b:5>- | a"]);
    }
}

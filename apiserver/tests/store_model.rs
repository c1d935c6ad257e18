//! The store against a model: random writes, deletions, disk faults, crashes and restarts. What was acknowledged
//! as durable is there after every crash; what was refused is not; revisions only grow.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use orlop_apiserver::store::engine::{Fault, MemoryEngine};
use orlop_apiserver::store::{Change, Expect, Options, Store, Write, WriteError};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, durable: bool },
    Stale { key: u8 },
    Delete { key: u8 },
    Fault(Option<Fault>),
    Crash,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6_u8, any::<bool>()).prop_map(|(key, durable)| Step::Put { key, durable }),
        1 => (0..6_u8).prop_map(|key| Step::Stale { key }),
        2 => (0..6_u8).prop_map(|key| Step::Delete { key }),
        1 => prop_oneof![Just(None), Just(Some(Fault::Full)), Just(Some(Fault::SyncFailed))].prop_map(Step::Fault),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// What should be there: revision and whether the newest write of the key must survive a crash.
#[derive(Default)]
struct Model {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// Keys whose newest write is volatile: after a crash the old or the new value may be there.
    dirty: Vec<String>,
    newest: u64,
}

fn open(engine: &MemoryEngine) -> Store {
    Store::open(Box::new(engine.clone()), Options::default()).unwrap()
}

fn revisions(store: &Store) -> BTreeMap<String, u64> {
    store.list("").1.iter().map(|o| (o.key.to_string(), o.revision)).collect()
}

fn write(key: &str, expect: Expect, durable: bool, delete: bool) -> Write {
    let make: orlop_apiserver::store::Make = Box::new(|revision| revision.to_string().into_bytes());
    let change = if delete { Change::Delete(make) } else { Change::Put(make) };
    Write { key: key.into(), expect, durable, change }
}

async fn run(steps: Vec<Step>) {
    let mut engine = MemoryEngine::default();
    let (mut store, mut model, mut fault) = (open(&engine), Model::default(), None);
    for step in steps {
        match step {
            Step::Put { key, durable } => {
                let key = key.to_string();
                let expect = model.live.get(&key).map_or(Expect::Absent, |r| Expect::Revision(*r));
                settle(
                    &mut model,
                    store.write(write(&key, expect, durable, false)).await,
                    &key,
                    durable,
                    false,
                    fault,
                );
            }
            Step::Delete { key } => {
                let key = key.to_string();
                let Some(revision) = model.live.get(&key).copied() else { continue };
                let done = store.write(write(&key, Expect::Revision(revision), true, true)).await;
                settle(&mut model, done, &key, true, true, fault);
            }
            Step::Stale { key } => {
                let done =
                    store.write(write(&key.to_string(), Expect::Revision(u64::MAX), true, false)).await;
                assert!(matches!(done, Err(WriteError::Conflict { .. })));
            }
            Step::Fault(next) => {
                fault = next;
                engine.fail(fault);
            }
            Step::Crash | Step::Restart => {
                let clean = matches!(step, Step::Restart) && store.close().await.is_ok();
                // A disk that failed comes back with the machine.
                fault = None;
                engine = engine.image();
                store = open(&engine);
                after_start(&mut model, &store, clean);
            }
        }
        assert_eq!(revisions(&store), model.live);
        assert!(store.revision() >= model.newest);
        model.newest = store.revision();
    }
}

fn settle(
    model: &mut Model,
    done: Result<std::sync::Arc<orlop_apiserver::store::Object>, WriteError>,
    key: &str,
    durable: bool,
    delete: bool,
    fault: Option<Fault>,
) {
    let object = match done {
        Ok(object) => object,
        Err(_) => {
            // A sync that failed may have reached the disk: nobody knows until the store repaired it.
            if fault == Some(Fault::SyncFailed) {
                model.dirty.push(key.to_owned());
            }
            return;
        }
    };
    assert!(object.revision > model.newest, "revisions grow");
    model.newest = object.revision;
    let set = |map: &mut BTreeMap<String, u64>| {
        if delete {
            map.remove(key)
        } else {
            map.insert(key.to_owned(), object.revision)
        };
    };
    set(&mut model.live);
    if durable {
        model.dirty.retain(|k| k != key);
        set(&mut model.durable);
    } else {
        model.dirty.push(key.to_owned());
    }
}

fn after_start(model: &mut Model, store: &Store, clean: bool) {
    let found = revisions(store);
    if clean {
        assert_eq!(found, model.live, "a clean shutdown keeps everything");
    } else {
        let settled = |map: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            map.iter().filter(|(k, _)| !model.dirty.contains(k)).map(|(k, r)| (k.clone(), *r)).collect()
        };
        assert_eq!(settled(&found), settled(&model.durable), "what was acknowledged as durable is there");
    }
    model.live = found.clone();
    model.durable = found;
    model.dirty.clear();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn acknowledged_writes_survive(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

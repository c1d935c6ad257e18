//! The promises of the store, on the fake disk.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Fault, MemoryEngine};
use super::{Change, Expect, Options, Store, Write, WriteError};

fn put(key: &str, expect: Expect, durable: bool, value: &'static str) -> Write {
    let change = Change::Put(Box::new(move |revision| format!("{value}@{revision}").into_bytes()));
    Write { key: key.into(), expect, durable, change }
}

fn delete(key: &str, revision: u64) -> Write {
    let change = Change::Delete(Box::new(|revision| format!("gone@{revision}").into_bytes()));
    Write { key: key.into(), expect: Expect::Revision(revision), durable: true, change }
}

fn open(engine: &MemoryEngine) -> Store {
    Store::open(Box::new(engine.clone()), Options::default()).unwrap()
}

fn show(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).1.iter().map(|o| format!("{}={}", o.key, String::from_utf8_lossy(&o.value))).collect()
}

#[tokio::test]
async fn writes_check_what_they_expect() {
    let store = open(&MemoryEngine::default());
    let first = store.write(put("a/x", Expect::Absent, true, "one")).await.unwrap();
    assert_eq!(first.revision, 2);
    let again = store.write(put("a/x", Expect::Absent, true, "two")).await;
    assert_eq!(again, Err(WriteError::Conflict { current: Some(2) }));
    let second = store.write(put("a/x", Expect::Revision(2), true, "two")).await.unwrap();
    assert_eq!((second.revision, second.created), (3, 2));
    assert_eq!(store.write(delete("a/x", 2)).await, Err(WriteError::Conflict { current: Some(3) }));
    store.write(delete("a/x", 3)).await.unwrap();
    assert!(show(&store, "").is_empty());
}

#[tokio::test]
async fn cursor_reads_in_order_and_by_prefix() {
    let store = open(&MemoryEngine::default());
    let mut cursor = store.cursor(1).unwrap();
    for key in ["a/1", "b/1", "a/2"] {
        store.write(put(key, Expect::Absent, true, "v")).await.unwrap();
    }
    let revision = store.get("a/1").unwrap().revision;
    store.write(delete("a/1", revision)).await.unwrap();
    let events = cursor.take("a/", 10).unwrap();
    let seen: Vec<String> = events
        .iter()
        .map(|e| format!("{} {} {}", e.object.key, String::from_utf8_lossy(&e.object.value), e.deleted))
        .collect();
    assert_eq!(seen, ["a/1 v@2 false", "a/2 v@4 false", "a/1 gone@5 true"]);
    assert_eq!(cursor.revision(), 5);
}

#[tokio::test]
async fn slow_cursor_is_told_that_it_lost_its_place() {
    let options = Options { ring_events: 3, ..Options::default() };
    let store = Store::open(Box::new(MemoryEngine::default()), options).unwrap();
    let mut cursor = store.cursor(1).unwrap();
    for key in ["1", "2", "3", "4"] {
        store.write(put(key, Expect::Absent, true, "v")).await.unwrap();
    }
    assert_eq!(cursor.take("", 10).unwrap_err().floor, 2);
    assert!(store.cursor(1).is_err());
    assert!(store.cursor(2).is_ok());
}

#[tokio::test]
async fn volatile_writes_reach_the_disk_at_close_only() {
    let engine = MemoryEngine::default();
    let store = open(&engine);
    store.write(put("lease", Expect::Absent, false, "a")).await.unwrap();
    let commits = engine.commits();
    for _ in 0..10 {
        let revision = store.get("lease").unwrap().revision;
        store.write(put("lease", Expect::Revision(revision), false, "b")).await.unwrap();
    }
    assert_eq!(engine.commits(), commits);
    assert!(engine.keys().is_empty());
    store.close().await.unwrap();
    assert_eq!(engine.keys(), ["lease"]);
    let revision = store.revision();
    assert_eq!(open(&engine).revision(), revision);
    assert_eq!(store.write(put("x", Expect::Absent, true, "x")).await, Err(WriteError::Closed));
}

#[tokio::test]
async fn revisions_never_come_back_after_a_crash() {
    let engine = MemoryEngine::default();
    let store = open(&engine);
    for i in 0..20 {
        store.write(put(&format!("lease/{i}"), Expect::Absent, false, "a")).await.unwrap();
    }
    // No close: the volatile writes are lost, their revisions must not be reused.
    assert!(open(&engine).revision() >= store.revision());
}

#[tokio::test]
async fn full_disk_refuses_writes_keeps_reads_and_recovers() {
    let engine = MemoryEngine::default();
    let store = open(&engine);
    store.write(put("a", Expect::Absent, true, "one")).await.unwrap();
    for fault in [Fault::Full, Fault::SyncFailed] {
        engine.fail(Some(fault));
        let revision = store.get("a").unwrap().revision;
        let refused = store.write(put("a", Expect::Revision(revision), true, "lost")).await.unwrap_err();
        assert!(matches!(&refused, WriteError::Disk(text) if text.contains("No space left")), "{refused:?}");
        assert!(show(&store, "a")[0].starts_with("a=one"));
        // Volatile writes need no disk.
        store.write(put(&format!("lease-{fault:?}"), Expect::Absent, false, "v")).await.unwrap();
        engine.fail(None);
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let revision = store.get("a").unwrap().revision;
        store.write(put("a", Expect::Revision(revision), true, "one more")).await.unwrap();
    }
    let acknowledged = show(&store, "a");
    assert_eq!(show(&open(&engine), "a"), acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_queue_share_a_commit() {
    let engine = MemoryEngine::default();
    let store = open(&engine);
    let writes: Vec<_> = (0..500)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.write(put(&format!("k{i}"), Expect::Absent, true, "v")).await })
        })
        .collect();
    let mut revisions = Vec::new();
    for write in writes {
        revisions.push(write.await.unwrap().unwrap().revision);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..502).collect::<Vec<_>>());
    assert!(engine.commits() <= 501);
    assert_eq!(Arc::strong_count(&store.get("k1").unwrap()), 3);
}

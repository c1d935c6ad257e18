//! `[p]` Which events are written, and how: what client-go's EventCorrelator decides, so that a pod in trouble fills neither the
//! store nor the eyes of its users.
//!
//! ```text
//!  event ─▶ ten that differ only in their text within ten minutes? ─▶ the eleventh text becomes "(combined …)"
//!        ─▶ the same as before? ─▶ count + 1        ─▶ more than 25 of one object, and one per five minutes? ─▶ dropped
//! ```
//! What is remembered is bounded: the 4096 least long ago. Not for: writing (`super`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    build::{seconds, shortened},
    lru::Lru,
};

/// Upstream's numbers.
const SIMILAR: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 4096;

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is new.
    Create(Box<Event>),
    /// It is there already, under this name. If it is gone meanwhile, `whole` is created.
    Patch { name: String, patch: Value, whole: Box<Event> },
    /// Nobody hears of it.
    Drop,
}

/// What stands for a text: thousands of them are remembered, of hundreds of bytes each.
type Digest = [u8; 32];

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// Remembers what was said.
#[derive(Debug)]
pub(super) struct Correlator {
    similar: Lru<Digest, Similar>,
    known: Lru<Digest, Known>,
    buckets: Lru<Digest, Bucket>,
}

/// Texts that one reason was told with lately.
#[derive(Debug, Default)]
struct Similar {
    messages: Vec<Digest>,
    last: Timestamp,
}

/// An event that was created.
#[derive(Debug)]
struct Known {
    name: String,
    first: Timestamp,
    count: i32,
}

/// How much may still be said about an object, in time to refill.
#[derive(Debug)]
struct Bucket {
    credit: Duration,
    at: Timestamp,
}

impl Bucket {
    fn take(&mut self, now: Timestamp) -> bool {
        let elapsed = Duration::try_from(now.duration_since(self.at)).unwrap_or_default();
        self.at = self.at.max(now);
        self.credit = self.credit.saturating_add(elapsed).min(REFILL * BURST);
        match self.credit.checked_sub(REFILL) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }
}

impl Default for Correlator {
    fn default() -> Self {
        Self { similar: Lru::new(REMEMBERED), known: Lru::new(REMEMBERED), buckets: Lru::new(REMEMBERED) }
    }
}

impl Correlator {
    /// Judges an event that nobody has counted yet.
    pub(super) fn take(&mut self, event: Event, now: Timestamp) -> Verdict {
        let object = object(&event);
        let (event, key) = self.aggregated(event, &object, now);
        let verdict = self.counted(event, key, now);
        let full = || Bucket { credit: REFILL * BURST, at: now };
        // What is dropped has been counted: the next that is told says so.
        if self.buckets.get_or_insert_with(digest(&object), full).take(now) { verdict } else { Verdict::Drop }
    }

    /// The event itself, or the one that stands for all of its kind; and what it is known by.
    fn aggregated(&mut self, mut event: Event, object: &str, now: Timestamp) -> (Event, String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let of_kind = [object, &text(&event.type_), &text(&event.reason)].join("\0");
        let message = text(&event.message);
        let similar = self.similar.get_or_insert_with(digest(&of_kind), Similar::default);
        let quiet = Duration::try_from(now.duration_since(similar.last)).unwrap_or_default();
        if quiet > WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        let told = digest(&message);
        if !similar.messages.contains(&told) {
            similar.messages.push(told);
        }
        if similar.messages.len() < SIMILAR {
            let path = text(&event.involved_object.field_path);
            return (event, [&*of_kind, &path, &message].join("\0"));
        }
        similar.messages.remove(0);
        event.message = Some(shortened(&format!("(combined from similar events): {message}")));
        (event, of_kind)
    }

    fn counted(&mut self, mut event: Event, key: String, now: Timestamp) -> Verdict {
        let name = event.metadata.name.clone().unwrap_or_default();
        let known = self.known.get_or_insert_with(digest(&key), || Known { name, first: now, count: 0 });
        known.count = known.count.saturating_add(1);
        if known.count == 1 {
            return Verdict::Create(Box::new(event));
        }
        event.metadata.name = Some(known.name.clone());
        event.first_timestamp = Some(seconds(known.first));
        event.count = Some(known.count);
        let patch = json!({
            "count": known.count,
            "lastTimestamp": event.last_timestamp,
            "message": event.message,
        });
        Verdict::Patch { name: known.name.clone(), patch, whole: Box::new(event) }
    }
}

/// Who speaks of what.
fn object(event: &Event) -> String {
    let of = &event.involved_object;
    let source = event.source.as_ref();
    let parts = [
        source.and_then(|source| source.component.as_deref()),
        source.and_then(|source| source.host.as_deref()),
        of.kind.as_deref(),
        of.namespace.as_deref(),
        of.name.as_deref(),
        of.uid.as_deref(),
        of.api_version.as_deref(),
    ];
    parts.map(Option::unwrap_or_default).join("\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// `pod reason message`, said at a second; its name is the second.
    fn event(said: &str, second: i64) -> Event {
        let mut words = said.splitn(3, ' ').map(str::to_owned);
        let mut event = Event::default();
        event.metadata.name = Some(format!("e{second}"));
        event.involved_object.name = words.next();
        event.reason = words.next();
        event.message = words.next();
        event.first_timestamp = Some(seconds(at(second)));
        event.last_timestamp = Some(seconds(at(second)));
        event.count = Some(1);
        event
    }

    fn shown(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Create(event) => {
                format!("create {} {}", event.metadata.name.clone().unwrap(), event.message.clone().unwrap())
            }
            Verdict::Patch { name, patch, whole } => {
                assert_eq!(
                    (&json!(whole.count), whole.metadata.name.as_ref()),
                    (&patch["count"], Some(name))
                );
                format!("patch {name} {} {}", patch["count"], patch["message"].as_str().unwrap())
            }
            Verdict::Drop => "drop".to_owned(),
        }
    }

    fn check(script: &[(&str, i64)], expected: &[&str]) {
        let mut correlator = Correlator::default();
        let all =
            script.iter().map(|(said, second)| shown(&correlator.take(event(said, *second), at(*second))));
        assert_eq!(all.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_same_is_counted() {
        check(
            &[
                ("p BackOff x", 0),
                ("p BackOff x", 5),
                ("p Killing x", 6),
                ("q BackOff x", 7),
                ("p BackOff x", 3600),
            ],
            &["create e0 x", "patch e0 2 x", "create e6 x", "create e7 x", "patch e0 3 x"],
        );
    }

    #[test]
    fn what_is_counted_keeps_its_first_time_and_has_a_new_last_one() {
        let mut correlator = Correlator::default();
        correlator.take(event("p BackOff x", 0), at(0));
        let Verdict::Patch { patch, whole, .. } = correlator.take(event("p BackOff x", 9), at(9)) else {
            panic!("not counted")
        };
        assert_eq!(patch["lastTimestamp"], at(9).to_string());
        assert_eq!(whole.first_timestamp, Some(seconds(at(0))));
    }

    #[test]
    fn containers_of_a_pod_are_told_apart() {
        let mut correlator = Correlator::default();
        let of = |container: &str, second| {
            let mut event = event("p BackOff x", second);
            event.involved_object.field_path = Some(format!("spec.containers{{{container}}}"));
            event
        };
        assert_eq!(shown(&correlator.take(of("a", 0), at(0))), "create e0 x");
        assert_eq!(shown(&correlator.take(of("b", 1), at(1))), "create e1 x");
        assert_eq!(shown(&correlator.take(of("a", 2), at(2))), "patch e0 2 x");
    }

    #[test]
    fn the_tenth_text_of_a_reason_stands_for_all_that_follow() {
        let said: Vec<String> = (0..12).map(|number| format!("p Unhealthy got {number}")).collect();
        let script: Vec<(&str, i64)> = said.iter().map(String::as_str).zip(0..).collect();
        let mut expected: Vec<String> =
            (0..9).map(|number| format!("create e{number} got {number}")).collect();
        expected.push("create e9 (combined from similar events): got 9".into());
        expected.push("patch e9 2 (combined from similar events): got 10".into());
        expected.push("patch e9 3 (combined from similar events): got 11".into());
        check(&script, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn after_ten_quiet_minutes_texts_are_told_again() {
        let said: Vec<String> = (0..9).map(|number| format!("p Unhealthy got {number}")).collect();
        let mut script: Vec<(&str, i64)> = said.iter().map(String::as_str).zip(0..).collect();
        script.push(("p Unhealthy late", 8 + 601));
        script.push(("p Unhealthy later", 8 + 602));
        let mut correlator = Correlator::default();
        let all: Vec<_> = script
            .iter()
            .map(|(said, second)| shown(&correlator.take(event(said, *second), at(*second))))
            .collect();
        assert_eq!(all[9..], ["create e609 late", "create e610 later"]);
    }

    #[test]
    fn an_object_that_never_stops_is_not_heard() {
        let mut correlator = Correlator::default();
        let mut say = |pod: &str, second| {
            shown(&correlator.take(event(&format!("{pod} BackOff x"), second), at(second)))
        };
        for second in 0..25 {
            assert_ne!(say("p", second), "drop");
        }
        assert_eq!([say("p", 25), say("p", 200)], ["drop", "drop"]);
        assert_eq!(say("q", 200), "create e200 x");
        // One more after five minutes; what was dropped counts.
        assert_eq!([say("p", 300), say("p", 301)], ["patch e0 28 x", "drop"]);
        assert_eq!(say("p", 600), "patch e0 30 x");
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for second in 0..5000 {
            correlator.take(event(&format!("p{second} BackOff x"), second), at(second));
        }
        assert_eq!(
            [correlator.known.len(), correlator.similar.len(), correlator.buckets.len()],
            [REMEMBERED; 3]
        );
        // The oldest is new again, a younger one is known.
        let mut say = |pod: &str| shown(&correlator.take(event(&format!("{pod} BackOff x"), 5000), at(5000)));
        assert_eq!([say("p0"), say("p4999")], ["create e5000 x", "patch e4999 2 x"]);
    }
}

//! `[p]` What other name servers said, for as long as they allow, and longer where they are gone (RFC 8767).
//!
//! Bounded by weight in two halves: what is asked for moves to the young half; when that is full, the old half is
//! dropped and the young one becomes it. Not for: names of the cluster, which change without notice.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

use super::wire::Reply;

/// No answer is asked for again sooner.
const SHORTEST: Duration = Duration::from_secs(5);
/// An answer is kept at most.
const LONGEST: Duration = Duration::from_secs(3600);
/// That there is none is believed at most.
const LONGEST_NOTHING: Duration = Duration::from_secs(1800);
/// So long a failure stands (RFC 9520).
const FAILURE: Duration = Duration::from_secs(1);
/// An answer that is out of date may stand in for so long.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// As an answer that is out of date says how long it may be kept.
const STALE_TTL: u32 = 30;
/// After a failure, whoever has an old answer waits so long before asking again.
const RETRY: Duration = Duration::from_secs(30);
/// What an entry weighs besides its records, bytes.
const ENTRY: usize = 256;
const RECORD: usize = 200;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The name; letters' case does not matter.
    pub(super) name: Name,
    /// The type.
    pub(super) kind: RecordType,
    /// With signatures.
    pub(super) dnssec_ok: bool,
    /// Without checks of them.
    pub(super) checking_disabled: bool,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// As of now.
    Fresh(Reply),
    /// It was so. `ask`: it is time to ask again.
    Stale {
        /// What it was.
        reply: Reply,
        /// Whether to ask again.
        ask: bool,
    },
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
struct Entry {
    reply: Arc<Reply>,
    since: Instant,
    life: Duration,
    retry: Option<Instant>,
    weight: usize,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    half: usize,
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    weight: usize,
    evicted: u64,
}

impl Cache {
    /// At most about `weight` bytes.
    #[must_use]
    pub(super) fn new(weight: usize) -> Cache {
        Cache { half: weight / 2, young: HashMap::new(), old: HashMap::new(), weight: 0, evicted: 0 }
    }

    /// Entries.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Entries that had to go.
    #[must_use]
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// What is known of this, with the time that is left of it.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Known {
        if let Some((key, entry)) = self.old.remove_entry(key) {
            self.insert(key, entry);
        }
        let Some(entry) = self.young.get(key) else { return Known::Nothing };
        let age = now.saturating_duration_since(entry.since);
        if age < entry.life {
            let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            let most = u32::try_from(entry.life.as_secs()).unwrap_or(u32::MAX);
            return Known::Fresh(with_ttls(&entry.reply, |ttl| {
                ttl.clamp(u32::try_from(SHORTEST.as_secs()).unwrap_or(5), most.max(5)).saturating_sub(age)
            }));
        }
        let failure = entry.life == FAILURE;
        if failure || age > entry.life + STALE {
            self.weight -= self.young.remove(key).map_or(0, |entry| entry.weight);
            return Known::Nothing;
        }
        let ask = entry.retry.is_none_or(|retry| now >= retry);
        Known::Stale { reply: with_ttls(&entry.reply, |_| STALE_TTL), ask }
    }

    /// Keeps what was said, where that is allowed.
    pub(super) fn put(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        let Some(life) = life(&reply) else { return };
        let records = reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals);
        let weight = ENTRY + records.map(|record| RECORD + size(record)).sum::<usize>();
        if weight > self.half {
            return;
        }
        self.old.remove(&key);
        self.insert(key, Entry { reply, since: now, life, retry: None, weight });
    }

    /// Nobody could say: what was known stands in, else the failure itself for a moment.
    pub(super) fn failed(&mut self, key: Key, now: Instant) {
        if let Some((key, entry)) = self.old.remove_entry(&key) {
            self.insert(key, entry);
        }
        match self.young.get_mut(&key) {
            Some(entry) if entry.life != FAILURE => entry.retry = Some(now + RETRY),
            _ => {
                let reply = Arc::new(Reply::code(ResponseCode::ServFail));
                self.insert(key, Entry { reply, since: now, life: FAILURE, retry: None, weight: ENTRY });
            }
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.weight + entry.weight > self.half {
            self.evicted += u64::try_from(self.old.len()).unwrap_or_default();
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += entry.weight;
        if let Some(before) = self.young.insert(key, entry) {
            self.weight -= before.weight;
        }
    }
}

/// How long an answer holds.
fn life(reply: &Reply) -> Option<Duration> {
    let seconds = |ttl: u32| Duration::from_secs(u64::from(ttl));
    match reply.code {
        ResponseCode::NoError if !reply.answers.is_empty() => {
            let ttl = reply.answers.iter().map(|record| record.ttl).min()?;
            Some(seconds(ttl).clamp(SHORTEST, LONGEST))
        }
        // Who does not say how long there is nothing, does not want it to be kept (RFC 2308).
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let mut lives = reply.authorities.iter().filter_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            Some(seconds(lives.next()?).clamp(SHORTEST, LONGEST_NOTHING))
        }
        _ => None,
    }
}

fn with_ttls(reply: &Reply, ttl: impl Fn(u32) -> u32) -> Reply {
    let mut reply = reply.clone();
    let all = [&mut reply.answers, &mut reply.authorities, &mut reply.additionals];
    for record in all.into_iter().flatten() {
        record.ttl = ttl(record.ttl);
    }
    reply
}

/// About what a record takes, in bytes.
fn size(record: &Record) -> usize {
    use hickory_proto::serialize::binary::BinEncodable as _;
    record.to_bytes().map_or(usize::from(u16::MAX), |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn key(name: &str) -> Key {
        let name = Name::from_ascii(name).unwrap();
        Key { name, kind: RecordType::A, dnssec_ok: false, checking_disabled: false }
    }

    fn said(ttl: u32) -> Arc<Reply> {
        let name = Name::from_ascii("example.com.").unwrap();
        let record = Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1)));
        Arc::new(Reply { answers: vec![record], ..Reply::default() })
    }

    fn nothing(ttl: u32, minimum: u32) -> Arc<Reply> {
        let name = Name::from_ascii("example.com.").unwrap();
        let soa = RData::SOA(SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum));
        let authorities = vec![Record::from_rdata(name, ttl, soa)];
        Arc::new(Reply { code: ResponseCode::NXDomain, authorities, ..Reply::default() })
    }

    /// `fresh 30`, `stale 30 ask`, `-`.
    fn at(cache: &mut Cache, name: &str, at: Instant) -> String {
        let ttl = |reply: &Reply| {
            let first = reply.answers.first().or(reply.authorities.first());
            first.map_or("-".to_owned(), |record| record.ttl.to_string())
        };
        match cache.get(&key(name), at) {
            Known::Fresh(reply) => format!("fresh {:?} {}", reply.code, ttl(&reply)),
            Known::Stale { reply, ask } => {
                format!("stale {:?} {}{}", reply.code, ttl(&reply), if ask { " ask" } else { "" })
            }
            Known::Nothing => "-".to_owned(),
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn answers_live_as_long_as_they_say_within_bounds() {
        let (start, mut cache) = (Instant::now(), Cache::new(1 << 20));
        for (reply, first, last) in [
            (said(60), "fresh NoError 60", 60),
            (said(0), "fresh NoError 5", 5),
            (said(100_000), "fresh NoError 3600", 3600),
            (nothing(600, 60), "fresh NXDomain 60", 60),
            (nothing(60, 600), "fresh NXDomain 60", 60),
            (nothing(90_000, 80_000), "fresh NXDomain 1800", 1800),
        ] {
            cache.put(key("Example.com."), reply, start);
            assert_eq!(at(&mut cache, "eXample.com.", start), first);
            let (code, ttl) = first.rsplit_once(' ').unwrap();
            let left = ttl.parse::<u64>().unwrap() - 4;
            assert_eq!(at(&mut cache, "example.com.", start + seconds(4)), format!("{code} {left}"));
            let late = at(&mut cache, "example.com.", start + seconds(last));
            assert!(late.starts_with("stale "), "{late}");
        }
        cache.put(key("other."), Arc::new(Reply::default()), start);
        assert_eq!(at(&mut cache, "other.", start), "-", "nothing without SOA is not kept");
        cache.put(key("other."), Arc::new(Reply::code(ResponseCode::Refused)), start);
        assert_eq!(at(&mut cache, "other.", start), "-");
    }

    #[test]
    fn what_is_out_of_date_stands_in_for_a_day_and_is_not_asked_for_all_the_time() {
        let (start, mut cache) = (Instant::now(), Cache::new(1 << 20));
        cache.put(key("a."), said(60), start);
        assert_eq!(at(&mut cache, "a.", start + seconds(61)), "stale NoError 30 ask");
        cache.failed(key("a."), start + seconds(62));
        assert_eq!(at(&mut cache, "a.", start + seconds(63)), "stale NoError 30");
        assert_eq!(at(&mut cache, "a.", start + seconds(92)), "stale NoError 30 ask");
        assert_eq!(at(&mut cache, "a.", start + seconds(60) + STALE + seconds(1)), "-");
        cache.failed(key("b."), start);
        assert_eq!(at(&mut cache, "b.", start), "fresh ServFail -");
        assert_eq!(at(&mut cache, "b.", start + seconds(1)), "-");
        cache.failed(key("b."), start + seconds(5));
        cache.put(key("b."), said(60), start + seconds(6));
        assert_eq!(at(&mut cache, "b.", start + seconds(6)), "fresh NoError 60");
    }

    #[test]
    fn what_nobody_asks_for_goes_first_and_the_bound_holds() {
        let (now, mut cache) = (Instant::now(), Cache::new(20_000));
        cache.put(key("kept."), said(60), now);
        for n in 0..10_000 {
            cache.put(key(&format!("n{n}.")), said(60), now);
            assert!(at(&mut cache, "kept.", now).starts_with("fresh"), "{n}");
            assert!(cache.len() <= 20_000 / ENTRY);
            let weights: usize = cache.young.values().map(|entry| entry.weight).sum();
            assert_eq!(cache.weight, weights);
        }
        assert_eq!(at(&mut cache, "n0.", now), "-");
        assert!(cache.evicted() > 9_000);
        let mut tiny = Cache::new(100);
        tiny.put(key("a."), said(60), now);
        assert_eq!(tiny.len(), 0);
    }
}

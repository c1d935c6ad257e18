//! From a question to its answer: names of the cluster from the zone, all others from the cache, else from others.
//!
//! ```text
//!  question ─▶ zone ─not ours, or an alias to outside─▶ cache ─nothing, or too old─▶ flight ─▶ forwarder
//!                                                         ▲──────── what was said ◀────┘
//! ```
//!
//! However many ask for a name, it is asked for once at a time: a *flight* of its own task, whose end all of them wait
//! for. That also makes a loop (a server that asks us what we ask it) one question instead of a storm.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::{
    cache::{Cache, Key, Known},
    forward::Forwarder,
    metrics::Metrics,
    wire::{Reply, Request, Transport},
    zone::{Answer, Zone},
};
use crate::wire::chain;

/// What the cache may weigh, bytes.
const CACHE: usize = 8 << 20;
/// Names that are asked for at once.
const MOST_FLIGHTS: usize = 1000;
/// A client with an old answer at hand is not kept waiting for longer (RFC 8767).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// What a flight brought; `None` before it ended.
type Landed = Option<Arc<Reply>>;

/// Who answers.
pub(super) struct Resolver {
    zone: RwLock<Zone>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, watch::Receiver<Landed>>>,
    slots: Arc<Semaphore>,
    pub(super) forwarder: Forwarder,
    pub(super) metrics: Metrics,
    turn: AtomicUsize,
    /// Nobody answered last.
    alone: AtomicBool,
}

/// An answer, and who knew it, in CoreDNS' words.
pub(super) type Told = (Reply, &'static str);

impl Resolver {
    pub(super) fn new(zone: Zone, forwarder: Forwarder, metrics: Metrics) -> Arc<Resolver> {
        Arc::new(Resolver {
            zone: RwLock::new(zone),
            cache: Mutex::new(Cache::new(CACHE)),
            flights: Mutex::default(),
            slots: Arc::new(Semaphore::new(MOST_FLIGHTS)),
            forwarder,
            metrics,
            turn: AtomicUsize::new(0),
            alone: AtomicBool::new(false),
        })
    }

    pub(super) fn zone(&self) -> RwLockWriteGuard<'_, Zone> {
        self.zone.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_zone(&self) -> RwLockReadGuard<'_, Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if it is known here and now.
    pub(super) fn known(&self, request: &Request, transport: Transport) -> Option<Told> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let answer = self.read_zone().answer(&request.query, turn, request.most_records(transport));
        match answer {
            Some(Answer { follow: Some(target), answers, .. }) => {
                let rest = self.cached(&key(request, &target))?;
                Some((followed(answers, rest), "kubernetes"))
            }
            Some(answer) => Some((ours(answer), "kubernetes")),
            None if request.query.query_type() == RecordType::ANY => {
                Some((Reply::code(ResponseCode::NotImp), "any"))
            }
            None => {
                let reply = self.cached(&key(request, request.query.name()))?;
                Some((as_asked(reply, request.query.name()), "cache"))
            }
        }
    }

    fn cached(&self, key: &Key) -> Option<Reply> {
        match self.cache().get(key, Instant::now().into_std()) {
            Known::Fresh(reply) => {
                let kind = if reply.answers.is_empty() { "denial" } else { "success" };
                self.metrics.hits.with_label_values(&["dns://:53", kind]).inc();
                Some(reply)
            }
            Known::Stale { reply, ask: false } => {
                self.metrics.stale.inc();
                Some(reply)
            }
            Known::Stale { ask: true, .. } | Known::Nothing => None,
        }
    }

    /// The answer, which others have to be asked for.
    pub(super) async fn find_out(self: &Arc<Self>, request: &Request, transport: Transport) -> Told {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let answer = self.read_zone().answer(&request.query, turn, request.most_records(transport));
        match answer {
            Some(Answer { follow: Some(target), answers, .. }) => {
                let rest = self.outside(key(request, &target)).await;
                (followed(answers, rest), "kubernetes")
            }
            Some(answer) => (ours(answer), "kubernetes"),
            None => {
                let reply = self.outside(key(request, request.query.name())).await;
                (as_asked(reply, request.query.name()), "forward")
            }
        }
    }

    async fn outside(self: &Arc<Self>, key: Key) -> Reply {
        let known = self.cache().get(&key, Instant::now().into_std());
        let stale = match known {
            Known::Fresh(reply) => return reply,
            Known::Stale { reply, .. } => Some(reply),
            Known::Nothing => None,
        };
        self.metrics.misses.inc();
        let landed = match self.flight(&key) {
            None => None,
            Some(mut flight) => {
                let wait = async {
                    let landed = flight.wait_for(Option::is_some).await.ok()?;
                    landed.clone()
                };
                match &stale {
                    Some(_) => timeout(STALE_AFTER, wait).await.ok().flatten(),
                    None => wait.await,
                }
            }
        };
        match (landed, stale) {
            (Some(reply), None) => (*reply).clone(),
            (Some(reply), Some(_)) if is_answer(reply.code) => (*reply).clone(),
            (_, Some(stale)) => {
                self.metrics.stale.inc();
                stale
            }
            (None, None) => Reply::code(ResponseCode::ServFail),
        }
    }

    /// The task that asks for this; `None` where too much is being asked for.
    fn flight(self: &Arc<Self>, key: &Key) -> Option<watch::Receiver<Landed>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose task is gone without a word will never land.
        if let Some(flight) = flights.get(key).filter(|flight| flight.has_changed().is_ok()) {
            return Some(flight.clone());
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.metrics.rejected.inc();
            return None;
        };
        let (lands, landed) = watch::channel(None);
        flights.insert(key.clone(), landed.clone());
        drop(flights);
        let (resolver, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let reply = resolver.fly(&key).await;
            resolver.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            lands.send_replace(Some(reply));
        });
        Some(landed)
    }

    async fn fly(&self, key: &Key) -> Arc<Reply> {
        let said = self.forwarder.ask(key).await;
        let now = Instant::now().into_std();
        let reply = match said {
            Ok(message) => {
                if self.alone.swap(false, Ordering::Relaxed) {
                    tracing::info!("name servers answer again");
                }
                Arc::new(theirs(message))
            }
            Err(error) => {
                // Once, not for each name.
                if !self.alone.swap(true, Ordering::Relaxed) {
                    tracing::warn!(name = %key.name, error = chain(&error), "no name server answers");
                }
                Arc::new(Reply::code(ResponseCode::ServFail))
            }
        };
        let mut cache = self.cache();
        if is_answer(reply.code) {
            cache.put(key.clone(), Arc::clone(&reply), now);
        } else {
            cache.failed(key.clone(), now);
        }
        self.metrics.entries.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        self.metrics.evictions.set(i64::try_from(cache.evicted()).unwrap_or(i64::MAX));
        reply
    }
}

/// Whether somebody knew: everything else is a failure.
pub(super) fn is_answer(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn key(request: &Request, name: &Name) -> Key {
    Key {
        name: name.to_lowercase(),
        kind: request.query.query_type(),
        dnssec_ok: request.dnssec_ok(),
        checking_disabled: request.checking_disabled(),
    }
}

/// With the letters of this client, not of the one who asked first.
fn as_asked(mut reply: Reply, name: &Name) -> Reply {
    for record in reply.answers.iter_mut().filter(|record| record.name == *name) {
        record.name = name.clone();
    }
    reply
}

fn ours(answer: Answer) -> Reply {
    let Answer { code, answers, authorities, additionals, follow: _ } = answer;
    Reply { code, authoritative: true, authentic: false, answers, authorities, additionals }
}

/// An alias of ours, and what others say of its target.
fn followed(mut aliases: Vec<hickory_proto::rr::Record>, rest: Reply) -> Reply {
    aliases.extend(rest.answers);
    Reply { answers: aliases, authoritative: rest.code != ResponseCode::ServFail, authentic: false, ..rest }
}

fn theirs(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        authoritative: false,
        authentic: message.metadata.authentic_data,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }
}

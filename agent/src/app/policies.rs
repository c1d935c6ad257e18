//! NetworkPolicies on their way to the dataplane, and pods that wait until what holds for them is in force.
//!
//! ```text
//!  watch of NetworkPolicies ──any──▶ watches of Namespaces and Pods ──▶ dataplane
//!  attach() of a pod's network ──addresses, whether its sockets are left alone──▶ dataplane ──in force──▶ the pod may start
//! ```
//! Where there is no policy, pods of other nodes are not watched: that is most of what an API server has to send.
//! Without an API server, memory says what it said last, so that a node that boots alone starts no pod unguarded.
//! Not for: what a policy means (`orlop_dataplane::policy`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{Api, Client, runtime::watcher};
use orlop_dataplane::{
    Sockets, Update, netns,
    policy::{
        Change, ingest,
        model::{Key, Policy},
    },
};
use orlop_model::event::Event;
use tokio::{sync::mpsc, time::timeout};

use orlop::{
    memory::{Kind, Memory},
    source::{self, Heard, Remember, peers},
    worker::ports::{Attached, Failure, Network, PodRef, Wishes},
};

/// How long a pod waits for policies that nobody ever told this node of. A node whose control plane is away must still
/// start what it knows.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits where they are known, by memory at the latest: they will come.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// Updates waiting for the dataplane.
const QUEUE: usize = 64;

struct Feed {
    client: Client,
    memory: Option<Memory>,
    policies: BoxStream<'static, Heard<NetworkPolicy>>,
    known: BTreeSet<Key>,
    /// While there is a policy.
    others: Option<BoxStream<'static, Change>>,
}

/// What the dataplane is to know of policies.
pub(super) fn watch(client: &Client, memory: Option<Memory>) -> impl Stream<Item = Update> + Send + use<> {
    let api = Api::<NetworkPolicy>::all(client.clone());
    let part = Arc::clone;
    let remember = remember(memory.as_ref(), Kind::NetworkPolicy, part);
    let policies = source::remembered(api, watcher::Config::default(), remember).boxed();
    let feed = Feed { client: client.clone(), memory, policies, known: BTreeSet::new(), others: None };
    stream::unfold(feed, |mut feed| async {
        let change = feed.next().await?;
        Some((Update::Policy(change), feed))
    })
}

impl Feed {
    async fn next(&mut self) -> Option<Change> {
        let others = async {
            match &mut self.others {
                Some(others) => others.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = others => change,
            heard = self.policies.next() => {
                let heard = heard?;
                // Whoever could not say which policies there are will not say which pods.
                let patience = if matches!(heard, Heard::Recalled(_)) { Duration::ZERO } else { PATIENCE };
                let event = heard.trusted().map(|object| ingest::policy(&object));
                self.follow(&event, patience);
                Some(Change::Policy(event))
            }
        }
    }

    /// Starts to watch what policies are about with the first one, and ends with the last.
    fn follow(&mut self, event: &Event<Policy>, patience: Duration) {
        match event {
            Event::Apply(policy) => drop(self.known.insert(policy.key.clone())),
            Event::Delete(policy) => drop(self.known.remove(&policy.key)),
            Event::Reset(all) => self.known = all.iter().map(|policy| policy.key.clone()).collect(),
        }
        if self.known.is_empty() {
            self.others = None;
            for kind in [Kind::Namespace, Kind::Peer] {
                self.memory.iter().for_each(|memory| memory.forget_all(kind));
            }
        } else if self.others.is_none() {
            self.others = Some(self.others(patience));
        }
    }

    fn others(&self, patience: Duration) -> BoxStream<'static, Change> {
        let (all, memory) = (watcher::Config::default, self.memory.as_ref());
        let keep = remember(memory, Kind::Namespace, peers::of_namespace);
        let api = Api::<Namespace>::all(self.client.clone());
        let namespaces =
            source::remembered_after(patience, api, all(), keep).map(|heard| {
                Change::Namespace(heard.trusted().map(|object| {
                    (object.metadata.name.clone().unwrap_or_default(), ingest::namespace(&object))
                }))
            });
        let keep = remember(memory, Kind::Peer, peers::of_pod);
        let api = Api::<Pod>::all(self.client.clone());
        let pods = source::remembered_after(patience, api, all(), keep).map(|heard| {
            Change::Pod(heard.trusted().map(|pod| (ingest::key(&pod.metadata), ingest::pod(&pod))))
        });
        stream::select(namespaces, pods).boxed()
    }
}

fn remember<K>(memory: Option<&Memory>, kind: Kind, part: fn(&Arc<K>) -> Arc<K>) -> Option<Remember<K>> {
    memory.cloned().map(|memory| Remember { memory, kind, part })
}

/// A pod network that gives a pod away only when the policies about it are in force.
pub(super) struct Guarded {
    network: Arc<dyn Network>,
    updates: mpsc::Sender<Update>,
    patience: Duration,
    /// Cookies of pods' network namespaces, by UID: of those whose sockets are left alone, and of all that were here before us.
    namespaces: Mutex<BTreeMap<String, u64>>,
}

impl Guarded {
    /// With what the dataplane is to hear. `run_dir` is where pods of an agent before this one are found.
    pub(super) fn new(
        network: Arc<dyn Network>,
        memory: Option<&Memory>,
        run_dir: &Path,
    ) -> (Self, BoxStream<'static, Update>) {
        let known = memory.is_some_and(|memory| memory.has_list(Kind::NetworkPolicy));
        let patience = if known { LONG_PATIENCE } else { PATIENCE };
        let (updates, heard) = mpsc::channel(QUEUE);
        let heard = stream::unfold(heard, async |mut heard| Some((heard.recv().await?, heard)));
        let pods = orlop_runtime::list(run_dir).into_iter();
        let namespaces: BTreeMap<String, u64> =
            pods.filter_map(|pod| Some((pod.pod.uid, cookie(&pod.netns?).ok()?))).collect();
        let there = Update::Sockets(Sockets::Only(namespaces.values().copied().collect()));
        let first = stream::once(std::future::ready(there));
        let guarded = Self { network, updates, patience, namespaces: Mutex::new(namespaces) };
        (guarded, first.chain(heard).boxed())
    }

    async fn in_force(&self, pod: &PodRef, ips: &[IpAddr]) {
        let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let ips = ips.iter().copied().collect();
        if !self.told(self.patience, |done| Update::Attached(key, ips, done)).await {
            tracing::warn!(pod = pod.uid, "network policies are not known yet: the pod starts without");
        }
    }

    /// Has its sockets left alone before there are any.
    async fn leave_alone(&self, pod: &PodRef, netns: &Path) -> Result<(), Failure> {
        let opened = netns.to_owned();
        let cookie = tokio::task::spawn_blocking(move || cookie(&opened)).await;
        let cookie = cookie.map_err(io::Error::other).flatten();
        let cookie = cookie.map_err(|error| Failure(format!("network namespace of the pod: {error}")))?;
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid.clone(), cookie);
        if !self.told(PATIENCE, |done| Update::Sockets(Sockets::Leave(cookie, Some(done)))).await {
            tracing::warn!(pod = pod.uid, "sockets of the pod may be translated at first");
        }
        Ok(())
    }

    /// Whether the dataplane said in time that it is done. Without one there is nobody to wait for.
    async fn told(&self, patience: Duration, update: impl FnOnce(mpsc::Sender<()>) -> Update) -> bool {
        let (done, mut told) = mpsc::channel(1);
        let wait = async {
            if self.updates.send(update(done)).await.is_ok() {
                told.recv().await;
            }
        };
        timeout(patience, wait).await.is_ok()
    }
}

fn cookie(path: &Path) -> io::Result<u64> {
    netns::cookie(File::open(path)?)
}

impl Network for Guarded {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        async move {
            let attached = self.network.attach(pod, wishes, netns).await?;
            self.in_force(pod, &attached.addresses).await;
            if wishes.packets_only {
                self.leave_alone(pod, netns).await?;
            }
            Ok(attached)
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
            if let Some(cookie) = known {
                // Without a dataplane nobody has to hear of it.
                let _nobody = self.updates.send(Update::Sockets(Sockets::Forget(cookie))).await;
            }
            self.network.detach(uid).await
        }
        .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        self.network.attached()
    }

    fn ready(&self) -> Result<(), Failure> {
        self.network.ready()
    }

    fn opens_ports(&self) -> bool {
        self.network.opens_ports()
    }
}

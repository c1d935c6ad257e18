//! NetworkPolicies on their way to the dataplane, and pods that wait until theirs are in force.
//!
//! ```text
//!  watch of NetworkPolicies ──any──▶ watches of Namespaces and Pods ──▶ dataplane
//!  attach() of a pod's network ──addresses──▶ dataplane ──in force──▶ the pod may start
//! ```
//! Where there is no policy, pods of other nodes are not watched: that is most of what an API server has to send.
//! Not for: what a policy means (`orlop_dataplane::policy`).

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc, time::Duration};

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
    Update,
    policy::{Change, ingest, model::Key},
};
use orlop_model::event::Event;
use tokio::{sync::mpsc, time::timeout};

use orlop::{
    source,
    worker::ports::{Attached, Failure, Network, PodRef, Wishes},
};

/// How long a pod waits for its policies. A node whose control plane is away must still start what it knows.
const PATIENCE: Duration = Duration::from_secs(3);

/// Updates waiting for the dataplane.
const QUEUE: usize = 64;

struct Feed {
    client: Client,
    policies: BoxStream<'static, Event<Arc<NetworkPolicy>>>,
    known: BTreeSet<Key>,
    /// While there is a policy.
    others: Option<BoxStream<'static, Change>>,
}

/// What the dataplane is to know of policies.
pub(super) fn watch(client: &Client) -> impl Stream<Item = Update> + Send + use<> {
    let api = Api::<NetworkPolicy>::all(client.clone());
    let policies = source::watch(api, watcher::Config::default()).boxed();
    let feed = Feed { client: client.clone(), policies, known: BTreeSet::new(), others: None };
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
            event = self.policies.next() => {
                let event = event?.map(|object| ingest::policy(&object));
                self.follow(&event);
                Some(Change::Policy(event))
            }
        }
    }

    /// Starts to watch what policies are about with the first one, and ends with the last.
    fn follow(&mut self, event: &Event<orlop_dataplane::policy::model::Policy>) {
        match event {
            Event::Apply(policy) => drop(self.known.insert(policy.key.clone())),
            Event::Delete(policy) => drop(self.known.remove(&policy.key)),
            Event::Reset(all) => self.known = all.iter().map(|policy| policy.key.clone()).collect(),
        }
        if self.known.is_empty() {
            self.others = None;
        } else if self.others.is_none() {
            self.others = Some(others(&self.client));
        }
    }
}

fn others(client: &Client) -> BoxStream<'static, Change> {
    let namespaces = source::watch(Api::<Namespace>::all(client.clone()), watcher::Config::default());
    let namespaces = namespaces.map(|event| {
        Change::Namespace(
            event
                .map(|object| (object.metadata.name.clone().unwrap_or_default(), ingest::namespace(&object))),
        )
    });
    let pods = source::watch(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let pods =
        pods.map(|event| Change::Pod(event.map(|pod| (ingest::key(&pod.metadata), ingest::pod(&pod)))));
    stream::select(namespaces, pods).boxed()
}

/// A pod network that gives a pod away only when the policies about it are in force.
pub(super) struct Guarded {
    network: Arc<dyn Network>,
    updates: mpsc::Sender<Update>,
}

impl Guarded {
    /// With what the dataplane is to hear.
    pub(super) fn new(network: Arc<dyn Network>) -> (Self, BoxStream<'static, Update>) {
        let (updates, heard) = mpsc::channel(QUEUE);
        let heard = stream::unfold(heard, async |mut heard| Some((heard.recv().await?, heard)));
        (Self { network, updates }, heard.boxed())
    }

    async fn in_force(&self, pod: &PodRef, ips: &[IpAddr]) {
        let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let (done, mut told) = mpsc::channel(1);
        let update = Update::Attached(key, ips.iter().copied().collect(), done);
        let wait = async {
            // Without a dataplane there is nobody to wait for.
            if self.updates.send(update).await.is_ok() {
                told.recv().await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            tracing::warn!(pod = pod.uid, "network policies are not known yet: the pod starts without");
        }
    }
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
            Ok(attached)
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.network.detach(uid)
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

//! NetworkPolicies on their way to the dataplane.
//!
//! ```text
//!  watch of NetworkPolicies ──any──▶ watches of Namespaces and Pods ──▶ dataplane
//! ```
//! Where there is no policy, pods of other nodes are not watched: that is most of what an API server has to send.
//! Without an API server, memory says what it said last, so that a node that boots alone starts no pod unguarded.
//! Not for: what a policy means (`orlop_dataplane::policy`), or who waits for it (`guarded`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{Api, Client, runtime::watcher};
use orlop_dataplane::{
    Update,
    policy::{
        Change, ingest,
        model::{Key, Policy},
    },
};
use orlop_model::event::Event;

use orlop::{
    memory::{Kind, Memory},
    source::{self, Heard, Remember, peers},
};

/// How long a pod waits for policies that nobody ever told this node of. A node whose control plane is away must still
/// start what it knows.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

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

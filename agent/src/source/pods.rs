//! The pods of this node, from all sources, for the manager; and for the mirrors what there is to show.
//!
//! ```text
//!  API server, else memory ─▶ Merge ─▶ changes ─▶ Manager
//!  static pod directory ────────┘ └─▶ Mirrors
//! ```

use std::{collections::BTreeSet, sync::Arc};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{Api, Client, runtime::watcher};
use orlop_model::event::Event;
use tokio::sync::mpsc;

use super::{Heard, Remember, merge::Merge, objects, remembered};
use crate::{
    memory::{Key, Kind, Memory},
    mirror::Mirrors,
    pod::{
        desired::{Desired, pod_ref},
        refs,
    },
};

/// Where pods come from. At least one of both.
pub struct PodSources {
    /// This node.
    pub node: String,
    /// The API server, with what is remembered of it.
    pub api: Option<(Client, Option<Memory>)>,
    /// What the static pod directory says, always all of it.
    pub files: Option<mpsc::Receiver<Vec<Arc<Pod>>>>,
    /// Shows static pods.
    pub mirrors: Mirrors,
}

impl PodSources {
    /// For as long as the manager listens.
    pub async fn run(self, pods: mpsc::Sender<Event<Arc<Pod>>>) {
        let mut merge = Merge::new(self.api.is_some(), self.files.is_some());
        let has_files = self.files.is_some();
        let mut api = match self.api {
            Some((client, memory)) => of_api(client, &self.node, memory).boxed(),
            None => stream::pending().boxed(),
        };
        let mut files = match self.files {
            Some(files) => {
                stream::unfold(files, async |mut files| Some((files.recv().await?, files))).boxed()
            }
            None => stream::pending().boxed(),
        };
        loop {
            let changes = tokio::select! {
                Some(heard) = api.next() => merge.api(heard),
                Some(statics) = files.next() => merge.files(statics),
            };
            if has_files {
                self.mirrors.sources(merge.statics(), merge.mirrors());
            }
            for change in changes {
                if pods.send(change).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn of_api(client: Client, node: &str, memory: Option<Memory>) -> impl Stream<Item = Heard<Pod>> + use<> {
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let heard = remembered(
        Api::<Pod>::all(client),
        mine,
        memory.clone().map(|memory| Remember { memory, kind: Kind::Pod, part: Arc::clone }),
    );
    heard.map(move |heard| match (heard, &memory) {
        (Heard::Recalled(pods), Some(memory)) => {
            Heard::Recalled(pods.into_iter().map(|pod| as_told(memory, pod)).collect())
        }
        (Heard::Event(Event::Reset(pods)), Some(memory)) => {
            forget_others(memory, &pods);
            Heard::Event(Event::Reset(pods))
        }
        (heard, _) => heard,
    })
}

/// What an agent that was killed did not come to forget: everything that none of these pods has or refers to.
fn forget_others(memory: &Memory, pods: &[Arc<Pod>]) {
    let uids: BTreeSet<_> = pods.iter().map(|pod| pod_ref(pod).uid).collect();
    for kind in [Kind::Status, Kind::Token] {
        memory.retain(kind, |key| key.name.first().is_some_and(|uid| uids.contains(uid)));
    }
    let refs: BTreeSet<_> =
        pods.iter().flat_map(|pod| refs::of_pod(&Desired::new(Arc::clone(pod)))).collect();
    let keys: BTreeSet<_> = refs.iter().map(objects::key).collect();
    for kind in [Kind::ConfigMap, Kind::Secret] {
        memory.retain(kind, |key| keys.contains(key));
    }
}

/// A remembered pod with what was last said of it, which the API server may never have heard. It has no version, so
/// that everything the API server then says counts as news.
fn as_told(memory: &Memory, mut pod: Arc<Pod>) -> Arc<Pod> {
    let told = memory.recall::<PodStatus>(&Key::one(Kind::Status, &pod_ref(&pod).uid));
    let recalled = Arc::make_mut(&mut pod);
    recalled.metadata.resource_version = None;
    if let Some(told) = told {
        recalled.status = Some(told);
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_along_what_nobody_needs_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path().join("memory")).unwrap();
        let kept = [
            Key::one(Kind::Status, "u"),
            Key::two(Kind::Token, "u", "hash"),
            Key::two(Kind::ConfigMap, "ns", "used"),
            Key::two(Kind::Service, "ns", "used"),
        ];
        let others = [
            Key::one(Kind::Status, "gone"),
            Key::two(Kind::Token, "gone", "hash"),
            Key::two(Kind::ConfigMap, "ns", "unused"),
            Key::two(Kind::Secret, "ns", "used"),
        ];
        for key in kept.iter().chain(&others) {
            memory.keep(key.clone(), Arc::new(true));
        }
        let pod = "{metadata: {namespace: ns, uid: u}, spec: {containers: [], volumes: [{name: v, configMap: {name: used}}]}}";
        forget_others(&memory, &[Arc::new(serde_norway::from_str(pod).unwrap())]);
        memory.write();
        let left: BTreeSet<_> = Kind::ALL.into_iter().flat_map(|kind| memory.keys(kind)).collect();
        assert_eq!(left, BTreeSet::from(kept));
    }
}

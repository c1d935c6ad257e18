//! The pods of this node, from all sources, for the manager; and for the mirrors what there is to show.
//!
//! ```text
//!  API server, else memory ─▶ Merge ─▶ changes ─▶ Manager
//!  static pod directory ────────┘ └─▶ Mirrors
//! ```

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{Api, Client, runtime::watcher};
use orlop_model::event::Event;
use tokio::sync::mpsc;

use super::{Heard, Remember, merge::Merge, remembered};
use crate::{
    memory::{Key, Kind, Memory},
    mirror::Mirrors,
    pod::desired::pod_ref,
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
        (heard, _) => heard,
    })
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

//! Shows static pods in the API: a mirror pod for each, and its status.
//!
//! ```text
//!  source ─ static pods, mirrors there are ─▶ Mirrors ─ plan ─ create / delete ─▶ API server
//!  workers ─ statuses of static pods ───────────┘ └─ statuses of mirrors ─▶ status::Writer
//! ```
//!
//! Nothing depends on a mirror: where there is no API server, static pods run all the same. Not for: running them.

pub mod plan;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::{sync::Notify, time::timeout};

use self::plan::Action;
use crate::{pod::desired::pod_ref, status::Writer, wire::chain, worker::ports::StatusSink as _};

/// A mirror and what its pod does.
type Told = (Arc<Pod>, Arc<PodStatus>);

/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Static pods and their mirrors. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mirrors(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    statics: Vec<Arc<Pod>>,
    /// Before the first list nothing is made and nothing is removed.
    mirrors: Option<Vec<Arc<Pod>>>,
    /// What static pods that are here, or still ending, were last said to do; by UID.
    told: HashMap<String, Arc<PodStatus>>,
}

impl Mirrors {
    /// The sources say what there is.
    pub fn sources(&self, statics: Vec<Arc<Pod>>, mirrors: Option<Vec<Arc<Pod>>>) {
        let mut state = self.state();
        (state.statics, state.mirrors) = (statics, mirrors);
        self.0.news.notify_one();
    }

    /// A static pod does this now.
    pub fn told(&self, pod: &Pod, status: Arc<PodStatus>) {
        self.state().told.insert(pod_ref(pod).uid, status);
        self.0.news.notify_one();
    }

    /// Nothing of a pod is left here.
    pub fn ended(&self, uid: &str) {
        if self.state().told.remove(uid).is_some() {
            self.0.news.notify_one();
        }
    }

    /// Keeps the API up to date for as long as the node runs.
    pub async fn run(self, client: Client, node: String, writer: Writer) {
        loop {
            let (actions, statuses) = self.todo();
            for (mirror, status) in statuses {
                writer.publish(&mirror, status);
            }
            let mut failed = false;
            for action in actions {
                if let Err(error) = act(&client, &node, &action).await {
                    failed = true;
                    let (Action::Create(pod) | Action::Delete(pod)) = &action;
                    let pod = pod_ref(pod);
                    tracing::warn!(pod.namespace, pod.name, error = chain(&error), "mirror pod");
                }
            }
            let news = self.0.news.notified();
            match failed {
                true => drop(timeout(AGAIN, news).await),
                false => news.await,
            }
        }
    }

    /// What to change, and what mirrors do not say yet.
    fn todo(&self) -> (Vec<Action>, Vec<Told>) {
        let state = self.state();
        let Some(mirrors) = &state.mirrors else { return Default::default() };
        let alive: BTreeSet<_> = state.told.keys().cloned().collect();
        let told = mirrors.iter().filter_map(|mirror| {
            let told = state.told.get(plan::shows(mirror)?)?;
            (mirror.status.as_ref() != Some(told)).then(|| (Arc::clone(mirror), Arc::clone(told)))
        });
        (plan::plan(&state.statics, &alive, mirrors), told.collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn act(client: &Client, node: &str, action: &Action) -> kube::Result<()> {
    let api = |pod: &Pod| Api::<Pod>::namespaced(client.clone(), &pod_ref(pod).namespace);
    match action {
        Action::Create(pod) => {
            let node = Api::<Node>::all(client.clone()).get_metadata(node).await?;
            let mirror = plan::mirror(pod, node.metadata.uid.as_deref().unwrap_or_default());
            match api(pod).create(&PostParams::default(), &mirror).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    // Ours, and the watch has not said so yet; or somebody else's, who then has the name.
                    tracing::debug!(pod = ?mirror.metadata.name, "there is a pod of the name of a mirror");
                    Ok(())
                }
                other => other.map(drop),
            }
        }
        Action::Delete(pod) => {
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match api(pod).delete(&pod_ref(pod).name, &params).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

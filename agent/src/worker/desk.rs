//! Words to the manager: what it answers is true between two of its steps, and that it answers says that its loop lives.
//!
//! ```text
//! kubelet API ─ pods() ─▶ bounded queue ─▶ Manager ─ Known, one per pod ─▶ whoever asked
//! eviction, shutdown ─ end() ─┘
//! ```

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};

use crate::pod::{desired::Desired, ending::Ending};

/// Questions that wait.
const QUEUE: usize = 16;
/// A manager that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pod that has a worker.
#[derive(Clone, Debug)]
pub struct Known {
    /// As the API has it.
    pub pod: Arc<Pod>,
    /// The API does not have it any more.
    pub gone: bool,
    /// The API was told that it has ended.
    pub ended: bool,
    /// It comes from this node, not from the API.
    pub of_node: bool,
    /// As it runs.
    pub desired: Desired,
}

/// What the manager is asked for.
#[derive(Debug)]
pub(super) enum Question {
    /// Its pods.
    Pods(oneshot::Sender<Vec<Known>>),
    /// To end one.
    End { uid: String, ending: Ending },
}

/// Questions on their way.
pub(super) type Questions = mpsc::Receiver<Question>;

/// Where to ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Question>);

impl Desk {
    pub(super) fn open() -> (Desk, Questions) {
        let (desk, questions) = mpsc::channel(QUEUE);
        (Desk(desk), questions)
    }

    /// All pods with a worker, by namespace and name; `None` when the manager does not answer.
    pub async fn pods(&self) -> Option<Vec<Known>> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.0.send(Question::Pods(answer)).await.ok()?;
            answered.await.ok()
        };
        let mut pods: Vec<Known> = tokio::time::timeout(PATIENCE, ask).await.ok()??;
        let name = |known: &Known| {
            let meta = &known.pod.metadata;
            (meta.namespace.clone(), meta.name.clone())
        };
        pods.sort_by_cached_key(name);
        Some(pods)
    }

    /// Pods that have not ended, as they run: with the resources they were granted.
    pub async fn active(&self) -> Option<Vec<Desired>> {
        let known = self.pods().await?;
        Some(known.into_iter().filter(|known| !known.ended).map(|known| known.desired).collect())
    }

    /// Has a pod ended. It is over when it is no longer among the active ones.
    pub async fn end(&self, uid: &str, ending: Ending) {
        // Without a manager there is nobody to end anything.
        let _ended = self.0.send(Question::End { uid: uid.to_owned(), ending }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_hangs_is_no_answer() {
        let (desk, mut questions) = Desk::open();
        assert!(desk.pods().await.is_none());
        // What was given up is found in the queue, and hurts nobody.
        let Some(Question::Pods(answer)) = questions.recv().await else { panic!("not what was asked") };
        assert!(answer.send(Vec::new()).is_err());
        drop(questions);
        assert!(desk.pods().await.is_none());
    }
}

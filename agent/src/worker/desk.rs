//! Questions to the manager: what it answers is true between two of its steps, and that it answers says that its loop lives.
//!
//! ```text
//! kubelet API ─ pods() ─▶ bounded queue ─▶ Manager ─ Known, one per pod ─▶ whoever asked
//! ```

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};

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
}

/// Questions on their way.
pub(super) type Questions = mpsc::Receiver<oneshot::Sender<Vec<Known>>>;

/// Where to ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<oneshot::Sender<Vec<Known>>>);

impl Desk {
    pub(super) fn open() -> (Desk, Questions) {
        let (desk, questions) = mpsc::channel(QUEUE);
        (Desk(desk), questions)
    }

    /// All pods with a worker, by namespace and name; `None` when the manager does not answer.
    pub async fn pods(&self) -> Option<Vec<Known>> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.0.send(answer).await.ok()?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_hangs_is_no_answer() {
        let (desk, mut questions) = Desk::open();
        assert!(desk.pods().await.is_none());
        // What was given up is found in the queue, and hurts nobody.
        assert!(questions.recv().await.unwrap().send(Vec::new()).is_err());
        drop(questions);
        assert!(desk.pods().await.is_none());
    }
}

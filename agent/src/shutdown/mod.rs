//! Ends the pods in good order when the machine goes down (graceful node shutdown).
//!
//! ```text
//!  notice ─▶ NodeState: not Ready, no new pods ─▶ plan ─▶ group by group: Desk ─▶ manager
//!                                                           └ all ended, or its time is over ─▶ next group
//! ```
//!
//! The notice is systemd-logind's ([`logind`]), or SIGPWR, which power supplies and other init systems send; an ordinary end
//! of the agent (SIGTERM) touches no pod. Who sends SIGPWR waits for the process.

pub mod logind;
mod plan;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    config::kubelet::Phase,
    images::collect::NodeEvents,
    pod::{ending::Ending, node_state::NodeState},
    worker::Desk,
};

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// How often it is looked whether a group has ended.
const LOOK: Duration = Duration::from_millis(200);

/// What it takes.
pub struct Shutdown {
    /// By priority, with their times; none switches all of this off.
    pub phases: Vec<Phase>,
    /// To the manager.
    pub desk: Desk,
    /// What pods that come have to know.
    pub state: Arc<watch::Sender<NodeState>>,
    /// For users.
    pub events: Arc<dyn NodeEvents>,
}

impl Shutdown {
    /// What all of it takes at most.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.phases.iter().map(|phase| phase.period).sum()
    }

    /// The machine stays up: pods may come again.
    pub fn call_off(&self) {
        tracing::info!("shutdown: called off");
        self.state.send_modify(|state| state.shutting_down = false);
    }

    /// Ends all pods; returns when they have ended or had their time.
    pub async fn run(&self) {
        self.state.send_modify(|state| state.shutting_down = true);
        self.events.tell(false, "Shutdown", "Shutdown manager detected shutdown event".into()).await;
        let pods = self.desk.active().await.unwrap_or_default();
        for group in plan::groups(&self.phases, &pods) {
            tracing::info!(pods = group.pods.len(), seconds = group.period.as_secs(), "shutdown: end pods");
            for uid in &group.pods {
                let ending =
                    Ending { reason: "Terminated", message: MESSAGE.into(), grace: Some(group.period) };
                self.desk.end(uid, ending).await;
            }
            let until = Instant::now() + group.period;
            while Instant::now() < until && self.any_left(&group.pods).await {
                sleep(LOOK).await;
            }
        }
        tracing::info!("shutdown: all pods have ended or had their time");
    }

    async fn any_left(&self, uids: &[String]) -> bool {
        let pods = self.desk.active().await.unwrap_or_default();
        pods.iter().any(|pod| uids.iter().any(|uid| uid == pod.uid()))
    }
}

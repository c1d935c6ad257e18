//! Keeps the Node object true: creates it, then writes its status when something changed, else now and then.
//!
//! ```text
//!  facts ─┐
//!  health ┴─▶ report::status ─changed?─▶ PATCH nodes/NAME/status
//!                                └──────▶ news ─▶ events
//! ```
//!
//! Times are the kubelet's (`nodeStatusUpdateFrequency`, `nodeStatusReportFrequency`).

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, NodeCondition, NodeStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    facts, news,
    report::{self, Facts, Health, Identity},
};
use crate::events::build;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(7);

/// The Node object's keeper.
pub struct Registration {
    /// To the API server.
    pub client: Client,
    /// Who we are.
    pub identity: Identity,
    /// The file system whose size is the node's ephemeral storage.
    pub state_dir: PathBuf,
    /// What changes.
    pub health: watch::Receiver<Health>,
}

impl Registration {
    /// Registers, then keeps the status true; ends when the sender of `health` is gone.
    pub async fn run(mut self) {
        self.tell(vec![news::starting(&self.identity.name, Timestamp::now())]).await;
        let mut written = self.register().await;
        let mut written_at = Instant::now();
        loop {
            tokio::select! {
                changed = self.health.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.identity.object.status_every) => {}
            }
            let facts = facts::read(&self.state_dir);
            let health = self.health.borrow_and_update().clone();
            let before = written.conditions.clone().unwrap_or_default();
            let status = report::status(&self.identity, &facts, &health, &before, Timestamp::now());
            if !report::changed(&written, &status) && written_at.elapsed() < self.identity.object.report_every
            {
                continue;
            }
            match self.write_status(&status).await {
                Ok(()) => {
                    self.tell_changes(&before, &status).await;
                    (written, written_at) = (status, Instant::now());
                }
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    tracing::warn!("the Node object is gone: registering again");
                    written = self.register().await;
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "write node status"),
            }
        }
    }

    /// Creates the Node, unless somebody else does, or takes over the one of this name. Tries until it works.
    async fn register(&self) -> NodeStatus {
        let mut retry = FIRST_RETRY;
        loop {
            let facts = facts::read(&self.state_dir);
            let health = self.health.borrow().clone();
            let wanted = report::node(&self.identity, &facts, &health, Timestamp::now());
            match self.create_or_adopt(&wanted, &facts, &health).await {
                Ok(status) => {
                    tracing::info!(node = %self.identity.name, "registered");
                    return status;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, ?retry, "register the node")
                }
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn create_or_adopt(
        &self,
        wanted: &Node,
        facts: &Facts,
        health: &Health,
    ) -> Result<NodeStatus, kube::Error> {
        let made = match self.identity.object.register {
            true => self.api().create(&PostParams::default(), wanted).await.map(|_| true),
            false => Ok(false),
        };
        match made {
            Ok(true) => {
                let status = wanted.status.clone().unwrap_or_default();
                self.write_status(&status).await?;
                self.tell_changes(&[], &status).await;
                Ok(status)
            }
            Ok(false) => self.adopt(wanted, facts, health).await,
            Err(kube::Error::Api(error)) if error.reason == "AlreadyExists" => {
                self.adopt(wanted, facts, health).await
            }
            Err(error) => Err(error),
        }
    }

    async fn adopt(&self, wanted: &Node, facts: &Facts, health: &Health) -> Result<NodeStatus, kube::Error> {
        let existing = self.api().get(&self.identity.name).await?;
        if self.identity.object.register {
            let patch = json!({"metadata": {"labels": wanted.metadata.labels, "annotations": wanted.metadata.annotations}});
            self.api().patch(&self.identity.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        let known = existing.status.unwrap_or_default();
        if !health.not_ready.is_empty() && report::is_ready(&known) {
            // A new agent of a node that works is no reason to call the node, and so its pods, not ready: it
            // takes a moment to find its network again. If it does not, the next report says so.
            return Ok(known);
        }
        let before = known.conditions.unwrap_or_default();
        let status = report::status(&self.identity, facts, health, &before, Timestamp::now());
        self.write_status(&status).await?;
        self.tell_changes(&before, &status).await;
        Ok(status)
    }

    async fn tell_changes(&self, before: &[NodeCondition], status: &NodeStatus) {
        let after = status.conditions.as_deref().unwrap_or_default();
        self.tell(news::changes(&self.identity.name, before, after, Timestamp::now())).await;
    }

    /// An event that cannot be written is not missed by anybody.
    async fn tell(&self, events: Vec<Event>) {
        let api = Api::<Event>::namespaced(self.client.clone(), build::NAMESPACE);
        for event in events {
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "node event not written");
            }
        }
    }

    async fn write_status(&self, status: &NodeStatus) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api().patch_status(&self.identity.name, &PatchParams::default(), &patch).await.map(drop)
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }
}

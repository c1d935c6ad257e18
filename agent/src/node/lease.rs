//! The sign of life: a Lease in kube-node-lease, renewed four times while it holds (KEP-589).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

const NAMESPACE: &str = "kube-node-lease";
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Renews the lease, which holds for so many seconds, until the task is dropped.
pub async fn run(client: Client, node: String, seconds: i32) {
    let renew_every = Duration::from_secs(u64::try_from(seconds).unwrap_or(1)) / 4;
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    loop {
        let wait = match renew(&client, &leases, &node, seconds).await {
            Ok(()) => renew_every,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::debug!("no Node to own the lease yet");
                RETRY_EVERY
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "renew the node lease");
                RETRY_EVERY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(client: &Client, leases: &Api<Lease>, node: &str, seconds: i32) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": node, "leaseDurationSeconds": seconds, "renewTime": now}});
    match leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(error)) if error.code == 404 => create(client, leases, node, seconds, now).await,
        other => other.map(drop),
    }
}

async fn create(
    client: &Client,
    leases: &Api<Lease>,
    node: &str,
    seconds: i32,
    now: MicroTime,
) -> Result<(), kube::Error> {
    // Owned by the Node, so that it goes with it. Before the Node exists there is nothing to own it: try again later.
    let owner = Api::<Node>::all(client.clone()).get(node).await?;
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: owner.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

//! Events are news: an hour after they were last told, they are deleted.

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client};

use crate::error::is_not_found;
use crate::object::{created, name, namespace};

const TTL: SignedDuration = SignedDuration::from_hours(1);
const PERIOD: Duration = Duration::from_secs(300);
/// Events read at once: they can be many, and are not kept.
const PAGE: u32 = 200;
const PARALLEL: usize = 8;

/// Sweeps now and then until dropped.
pub(crate) async fn run(client: Client) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if let Err(error) = sweep(&client, Timestamp::now()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "old events are still there");
        }
    }
}

async fn sweep(client: &Client, now: Timestamp) -> kube::Result<()> {
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = Api::<Event>::all(client.clone()).list(&page).await?;
        let old: Vec<_> = list.items.iter().filter(|event| is_old(event, now)).collect();
        for group in old.chunks(PARALLEL) {
            for result in join_all(group.iter().map(|event| delete(client, event))).await {
                result?;
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn delete(client: &Client, event: &Event) -> kube::Result<()> {
    let api = Api::<Event>::namespaced(client.clone(), namespace(&event.metadata));
    // Told again meanwhile, it stays.
    let preconditions =
        Preconditions { uid: None, resource_version: event.metadata.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(name(&event.metadata), &params).await {
        Err(error) if is_not_found(&error) || crate::error::is_conflict(&error) => Ok(()),
        answer => answer.map(drop),
    }
}

/// Whether an event was last told more than an hour ago.
fn is_old(event: &Event, now: Timestamp) -> bool {
    let told = [
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|_| created(&event.metadata)),
    ];
    told.into_iter().flatten().max().is_some_and(|told| now.duration_since(told) > TTL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn the_last_time_it_was_told_counts() {
        let old = |fields: &str| {
            let event = yaml(&format!(
                "{{metadata: {{creationTimestamp: '2024-01-01T00:00:00Z'}}, involvedObject: {{}}, {fields}}}"
            ));
            is_old(&event, "2024-01-01T02:00:00Z".parse().unwrap())
        };
        assert!(old(""));
        assert!(old("lastTimestamp: '2024-01-01T00:30:00Z'"));
        assert!(!old("lastTimestamp: '2024-01-01T01:30:00Z'"));
        assert!(!old("series: {count: 2, lastObservedTime: '2024-01-01T01:30:00.000000Z'}"));
    }
}

//! Events do not stay: an hour after the last time they happened they are removed, as upstream does.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::delete::DeleteOptions;
use super::{Api, Target, object};
use crate::kinds;

/// How long an event is kept.
const KEEP: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for.
const EVERY: Duration = Duration::from_secs(120);

impl Api {
    /// Removes old events until the server closes.
    pub(crate) async fn expire_events(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.expire_events_at(Timestamp::now()).await;
        }
    }

    pub(crate) async fn expire_events_at(&self, now: Timestamp) {
        let Some(kind) = kinds::find("", "v1", "events") else { return };
        for stored in self.store.list("events/").1 {
            let Ok(event) = serde_json::from_slice::<Value>(&stored.value) else { continue };
            if last_seen(&event).is_none_or(|seen| now.duration_since(seen) < KEEP) {
                continue;
            }
            let (namespace, name) = (object::namespace(&event).to_owned(), object::name(&event).to_owned());
            let target = Target { kind, namespace, name };
            if let Err(failure) = self.delete_object(&target, &DeleteOptions::with_grace(None)).await {
                tracing::debug!(%failure, "an old event stays");
            }
        }
    }
}

/// The newest of the times an event carries.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let paths: [&[&str]; 4] = [
        &["lastTimestamp"],
        &["series", "lastObservedTime"],
        &["eventTime"],
        &["metadata", "creationTimestamp"],
    ];
    paths.into_iter().filter_map(|path| object::text(event, path).parse().ok()).max()
}

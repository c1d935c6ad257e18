//! Removes images that nobody needs when the disk fills up: looks, lets `image::choose` decide, removes, tells.
//!
//! ```text
//!  pods of the manager, records of the runtime, what was needed before a restart ─▶ needed ─┐
//!  store: holds, pins, last uses ───────────────────────────────────────────────────────────┴▶ choose ─▶ collect
//! ```
//! While the API server has not told which pods there are, what was needed when the agent last knew counts too. Not for:
//! the rules (`orlop_runtime::image::choose`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use orlop_runtime::{
    Sandbox,
    image::{Choice, Collected, Goal, Images, Reason, StoreError, Thresholds, Usage, choose},
};
use prometheus::{IntCounterVec, Registry, core::Collector as Collect};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    metrics::{counters, register},
    worker::{
        manager::Needed,
        ports::{Clock, Runtime},
    },
};

/// Between two looks, as upstream.
pub const PERIOD: Duration = Duration::from_secs(300);
/// A burst of changes is written down once.
const SETTLE: Duration = Duration::from_secs(1);

/// Where events about the node go.
pub trait NodeEvents: Send + Sync {
    /// Something about this node, for its users.
    fn tell(&self, warning: bool, reason: &'static str, message: String) -> BoxFuture<'_, ()>;
    /// A warning about this node.
    fn warn(&self, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
        self.tell(true, reason, message)
    }
}

/// The loop.
#[derive(Clone)]
pub struct Collector {
    /// The store.
    pub images: Images,
    /// When to remove, and how much.
    pub thresholds: Thresholds,
    /// Between two looks.
    pub period: Duration,
    /// What pods need.
    pub needed: watch::Receiver<Needed>,
    /// What runs.
    pub runtime: Arc<dyn Runtime>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Events.
    pub events: Arc<dyn NodeEvents>,
    /// Images that were removed.
    pub collected: IntCounterVec,
}

/// For [`Collector::collected`].
#[must_use]
pub fn collected(registry: &Registry) -> IntCounterVec {
    let all = counters(
        "kubelet_image_garbage_collected_total",
        "Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
        &["reason"],
    );
    register(registry, [Box::new(all.clone()) as Box<dyn Collect>]);
    all
}

impl Collector {
    /// Until the manager is gone.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval_at(Instant::now() + self.period, self.period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed_before = false;
        loop {
            tokio::select! {
                changed = self.needed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                    self.remember().await;
                }
                _ = tick.tick() => failed_before = self.look(failed_before).await,
            }
        }
    }

    /// Removes everything that nobody needs, whatever its age: the disk is full.
    pub async fn remove_unused(&self) {
        let (listed, needed) = {
            let needed = self.needed.borrow();
            (needed.listed, needed.images.clone())
        };
        let sandboxes = self.runtime.pods().await;
        let (images, thresholds, now) = (self.images.clone(), self.thresholds, self.clock.now());
        let looked = tokio::task::spawn_blocking(move || {
            let before = if listed { BTreeMap::new() } else { images.needed() };
            let needed = with_machine(needed, before, &sandboxes);
            collect(&images, &needed, &thresholds, Goal::Unused, now)
        });
        match looked.await {
            Ok(Ok((choice, collected))) => drop(self.tell(&choice, &collected).await),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "remove unused images");
            }
            Err(error) => tracing::warn!(%error, "remove unused images"),
        }
    }

    async fn remember(&mut self) {
        let needed = self.needed.borrow_and_update().clone();
        if !needed.listed {
            return;
        }
        let images = self.images.clone();
        let written = tokio::task::spawn_blocking(move || images.set_needed(&needed.images)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what pods need is not written down");
        }
    }

    /// One look; whether it failed.
    async fn look(&self, failed_before: bool) -> bool {
        let Needed { listed, images: needed } = self.needed.borrow().clone();
        let sandboxes = self.runtime.pods().await;
        let (images, thresholds, now) = (self.images.clone(), self.thresholds, self.clock.now());
        let looked = tokio::task::spawn_blocking(move || {
            let before = if listed { BTreeMap::new() } else { images.needed() };
            let needed = with_machine(needed, before, &sandboxes);
            collect(&images, &needed, &thresholds, Goal::Thresholds, now)
        });
        let failure = match looked.await {
            Ok(Ok((choice, collected))) => self.tell(&choice, &collected).await,
            Ok(Err(error)) => Some(crate::wire::chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            Some(text) if failed_before => {
                self.events.warn("ImageGCFailed", text).await;
                true
            }
            Some(text) => {
                tracing::warn!(
                    error = text,
                    "images could not be collected; told as an event if it happens again"
                );
                true
            }
            None => false,
        }
    }

    async fn tell(&self, choice: &Choice, collected: &Collected) -> Option<String> {
        for image in &collected.removed {
            let reason = choice.remove.iter().find(|(one, _)| one.id == image.id).map(|(_, reason)| reason);
            let class = if matches!(reason, Some(Reason::Age(_))) { "age" } else { "space" };
            self.collected.with_label_values(&[class]).inc();
            let reason = reason.map(ToString::to_string);
            tracing::info!(image = image.id, names = ?image.names, reason, "image removed");
        }
        for (id, error) in &collected.failures {
            tracing::warn!(image = id, %error, "image not removed");
        }
        let found: u64 = collected.removed.iter().map(|image| image.bytes).sum();
        if found >= choice.wanted {
            return None;
        }
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {found} \
             bytes eligible to free.",
            choice.wanted
        );
        self.events.warn("FreeDiskSpaceFailed", text.clone()).await;
        Some(text)
    }
}

/// Everything that needs an image: pods that are known, pods that were, and containers on this machine.
#[must_use]
pub fn with_machine(
    mut needed: BTreeMap<String, String>,
    before: BTreeMap<String, String>,
    sandboxes: &[Sandbox],
) -> BTreeMap<String, String> {
    for sandbox in sandboxes {
        for container in &sandbox.containers {
            let by = format!("pod {}/{}", sandbox.pod.namespace, sandbox.pod.name);
            for image in [&container.image_ref, &container.image_id] {
                needed.entry(image.clone()).or_insert_with(|| by.clone());
            }
        }
    }
    for (image, by) in before {
        needed.entry(image).or_insert_with(|| format!("{by}, as last known"));
    }
    needed
}

fn collect(
    images: &Images,
    needed: &BTreeMap<String, String>,
    thresholds: &Thresholds,
    goal: Goal,
    now: Timestamp,
) -> Result<(Choice, Collected), StoreError> {
    let usage: Usage = images.usage()?;
    let choice = choose(images.candidates(needed, now)?, usage, thresholds, goal, now);
    if choice.wanted > 0 {
        tracing::info!(percent = usage.percent(), wanted = choice.wanted, "the image disk is too full");
    }
    let collected = images.collect(&choice);
    Ok((choice, collected))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;

    use super::*;
    use crate::worker::fakes::Fake;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl NodeEvents for Heard {
        fn tell(&self, _: bool, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
            self.0.lock().unwrap().push(format!("{reason}: {message}"));
            async {}.boxed()
        }
    }

    #[test]
    fn what_was_known_before_a_restart_counts_until_the_pods_are() {
        let of = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(image, by)| ((*image).to_owned(), (*by).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let merged =
            with_machine(of(&[("a", "pod n/new")]), of(&[("a", "pod n/old"), ("b", "pod n/old")]), &[]);
        assert_eq!(merged, of(&[("a", "pod n/new"), ("b", "pod n/old, as last known")]));
    }

    #[tokio::test]
    async fn space_that_cannot_be_freed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        let (_sender, needed) = watch::channel(Needed::default());
        let (events, _events) = tokio::sync::mpsc::unbounded_channel();
        let (written, _written) = tokio::sync::mpsc::unbounded_channel();
        let fake = Arc::new(Fake::new(events, written));
        let heard = Arc::new(Heard::default());
        // Any disk is fuller than this.
        let thresholds = Thresholds { high: 0, low: 0, ..Thresholds::default() };
        let collector = Collector {
            images,
            thresholds,
            period: PERIOD,
            needed,
            runtime: Arc::clone(&fake) as _,
            clock: fake,
            events: Arc::clone(&heard) as _,
            collected: collected(&Registry::new()),
        };
        assert!(collector.look(false).await && collector.look(true).await);
        let heard = heard.0.lock().unwrap();
        let reasons: Vec<_> = heard.iter().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(reasons, ["FreeDiskSpaceFailed", "FreeDiskSpaceFailed", "ImageGCFailed"]);
        assert!(heard[0].contains("Failed to garbage collect required amount of images. Attempted to free "));
    }
}

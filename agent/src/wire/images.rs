//! [`ports::Images`] over the image store: disk work on the blocking pool, a few pulls at a time, the node's own
//! credentials after the pod's.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{FutureExt as _, future::BoxFuture};
use orlop_runtime::image::{Images, PullError, PullOptions, Reference, StoreError, Verification};
use prometheus::{HistogramVec, Registry, core::Collector};
use tokio::{sync::Semaphore, time::Instant};

use super::chain;
use crate::{
    credential::NodeCredentials,
    images::rate::Bucket,
    metrics::{histograms, register},
    pod::machine::{Image, Keyring},
    worker::ports::{self, ImageFailure, Pulled},
};

/// The images of this machine.
#[derive(Clone)]
pub struct Store {
    /// The store.
    pub images: Images,
    /// How to pull.
    pub options: Arc<PullOptions>,
    /// The node's own credentials.
    pub credentials: Arc<NodeCredentials>,
    /// Whether pods must show credentials for what is here.
    pub verification: Arc<Verification>,
    /// Pulls at a time.
    pub turns: Arc<Semaphore>,
    /// How fast they may follow each other.
    pub rate: Option<Arc<Mutex<Bucket>>>,
    /// How long they take.
    pub durations: PullDurations,
}

/// Durations of pulls by the size of their images. Cheap to clone.
#[derive(Clone)]
pub struct PullDurations(HistogramVec);

impl Default for PullDurations {
    fn default() -> Self {
        let buckets = [1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600];
        Self(histograms(
            "kubelet_image_pull_duration_seconds",
            "Duration in seconds to pull an image.",
            &["image_size_in_bytes"],
            buckets.map(f64::from).to_vec(),
        ))
    }
}

impl PullDurations {
    /// Makes them known.
    pub fn register(&self, registry: &Registry) {
        register(registry, [Box::new(self.0.clone()) as Box<dyn Collector>]);
    }
}

/// Upstream's classes.
fn size_class(bytes: u64) -> &'static str {
    const MB: u64 = 1024 * 1024;
    const GB: u64 = 1024 * MB;
    match bytes {
        b if b < 10 * MB => "0-10MB",
        b if b < 100 * MB => "10MB-100MB",
        b if b < 500 * MB => "100MB-500MB",
        b if b < GB => "500MB-1GB",
        b if b < 5 * GB => "1GB-5GB",
        b if b < 10 * GB => "5GB-10GB",
        b if b < 20 * GB => "10GB-20GB",
        b if b < 30 * GB => "20GB-30GB",
        b if b < 40 * GB => "30GB-40GB",
        b if b < 60 * GB => "40GB-60GB",
        b if b < 100 * GB => "60GB-100GB",
        _ => "GT100GB",
    }
}

impl Store {
    /// The pod's credentials, then the node's.
    async fn all_credentials(&self, reference: &str, of_pod: &Keyring) -> Keyring {
        let mut all = of_pod.clone();
        if let Ok(reference) = Reference::parse(reference) {
            self.credentials.add(&mut all, &reference.name()).await;
        }
        all
    }

    fn may_begin(&self) -> bool {
        let now = Instant::now().into_std();
        self.rate.as_ref().is_none_or(|rate| rate.lock().unwrap_or_else(PoisonError::into_inner).take(now))
    }
}

fn unavailable(error: StoreError) -> ImageFailure {
    match error {
        StoreError::Reference { .. } => ImageFailure::InvalidName(chain(&error)),
        other => ImageFailure::Inspect(chain(&other)),
    }
}

async fn on_disk<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ImageFailure> {
    let found = tokio::task::spawn_blocking(look).await;
    found.map_err(|error| ImageFailure::Inspect(error.to_string()))?.map_err(unavailable)
}

impl ports::Images for Store {
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageFailure>> {
        let (images, reference) = (self.images.clone(), reference.to_owned());
        on_disk(move || images.get(&reference)).boxed()
    }

    fn allowed<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a Keyring,
    ) -> BoxFuture<'a, Result<bool, ImageFailure>> {
        let (images, verification) = (self.images.clone(), Arc::clone(&self.verification));
        let (reference, credentials) = (reference.to_owned(), credentials.clone());
        on_disk(move || images.allowed(&reference, &credentials, &verification)).boxed()
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a Keyring,
    ) -> BoxFuture<'a, Result<Pulled, ImageFailure>> {
        async move {
            let all = self.all_credentials(reference, credentials).await;
            let _turn = self.turns.acquire().await;
            if !self.may_begin() {
                return Err(ImageFailure::Pull("pull QPS exceeded".into()));
            }
            let began = Instant::now();
            let image = self.images.pull(reference, all, &self.options).await;
            let image = image.map_err(|error| failure(&error))?;
            let took = began.elapsed();
            self.durations.0.with_label_values(&[size_class(image.size)]).observe(took.as_secs_f64());
            Ok(Pulled { image, took })
        }
        .boxed()
    }
}

fn failure(error: &PullError) -> ImageFailure {
    match error {
        PullError::Reference { .. } => ImageFailure::InvalidName(chain(error)),
        other => ImageFailure::Pull(chain(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{images::rate::Rate, worker::ports::Images as _};

    #[tokio::test]
    async fn pulls_that_follow_too_fast_fail_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let rate = Rate::new(1, 2).unwrap();
        let store = Store {
            images: Images::open(dir.path()).unwrap(),
            options: Arc::default(),
            credentials: Arc::new(NodeCredentials::open(dir.path().join("config.json"), None).unwrap()),
            verification: Arc::default(),
            turns: Arc::new(Semaphore::new(1)),
            rate: Some(Arc::new(Mutex::new(Bucket::new(rate, std::time::Instant::now())))),
            durations: PullDurations::default(),
        };
        let mut said = Vec::new();
        for _ in 0..3 {
            // Fails before anything is asked: this is no name of an image.
            let failed = store.pull("registry.invalid/UPPER", &Keyring::default()).await.err().unwrap();
            said.push(match failed {
                ImageFailure::Pull(text) => text,
                ImageFailure::InvalidName(_) => "began".to_owned(),
                ImageFailure::Inspect(text) => panic!("{text}"),
            });
        }
        assert_eq!(said, ["began", "began", "pull QPS exceeded"]);
    }
}

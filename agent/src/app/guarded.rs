//! The pods' network as their workers have it: a pod waits in it until what holds for its addresses is in force.
//!
//! ```text
//!  attach() ──addresses, whether its sockets are left alone──▶ dataplane ──in force──▶ the pod may start
//!     └────── a pod came, or went ──▶ whoever looks for host ports
//! ```
//! Not for: where policies come from (`policies`).

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use orlop_dataplane::{Sockets, Update, netns, policy::model::Key};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::policies::PATIENCE;
use orlop::{
    memory::{Kind, Memory},
    worker::ports::{Attached, Failure, Network, PodRef, Wishes},
};

/// How long a pod waits where policies are known, by memory at the latest, or the control plane is this process: they will
/// come, on a slow machine after a while.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// Updates waiting for the dataplane.
const QUEUE: usize = 64;

/// A pod network that gives a pod away only when the policies about it are in force, and tells when pods come and go.
pub(super) struct Guarded {
    network: Arc<dyn Network>,
    /// Changes with every pod.
    changed: watch::Sender<u64>,
    updates: mpsc::Sender<Update>,
    patience: Duration,
    /// Cookies of pods' network namespaces, by UID: of those whose sockets are left alone, and of all that were here before us.
    namespaces: Mutex<BTreeMap<String, u64>>,
}

impl Guarded {
    /// With what the dataplane is to hear. `run_dir` is where pods of an agent before this one are found.
    pub(super) fn new(
        network: Arc<dyn Network>,
        changed: watch::Sender<u64>,
        memory: Option<&Memory>,
        run_dir: &Path,
    ) -> (Self, BoxStream<'static, Update>) {
        // What lives and dies with its control plane remembers nothing of it.
        let known = memory.is_none_or(|memory| memory.has_list(Kind::NetworkPolicy));
        let patience = if known { LONG_PATIENCE } else { PATIENCE };
        let (updates, heard) = mpsc::channel(QUEUE);
        let heard = stream::unfold(heard, async |mut heard| Some((heard.recv().await?, heard)));
        let pods = orlop_runtime::list(run_dir).into_iter();
        let namespaces: BTreeMap<String, u64> =
            pods.filter_map(|pod| Some((pod.pod.uid, cookie(&pod.netns?).ok()?))).collect();
        let there = Update::Sockets(Sockets::Only(namespaces.values().copied().collect()));
        let first = stream::once(std::future::ready(there));
        let guarded = Self { network, changed, updates, patience, namespaces: Mutex::new(namespaces) };
        (guarded, first.chain(heard).boxed())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn attach_guarded(&self, pod: &PodRef, wishes: &Wishes, netns: &Path) -> Result<Attached, Failure> {
        let attached = self.network.attach(pod, wishes, netns).await?;
        self.in_force(pod, &attached.addresses).await;
        if wishes.packets_only {
            self.leave_alone(pod, netns).await?;
        }
        Ok(attached)
    }

    async fn in_force(&self, pod: &PodRef, ips: &[IpAddr]) {
        let key = Key { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let ips = ips.iter().copied().collect();
        if !self.told(self.patience, |done| Update::Attached(key, ips, done)).await {
            tracing::warn!(pod = pod.uid, "network policies are not known yet: the pod starts without");
        }
    }

    /// Has its sockets left alone before there are any.
    async fn leave_alone(&self, pod: &PodRef, netns: &Path) -> Result<(), Failure> {
        let opened = netns.to_owned();
        let cookie = tokio::task::spawn_blocking(move || cookie(&opened)).await;
        let cookie = cookie.map_err(io::Error::other).flatten();
        let cookie = cookie.map_err(|error| Failure(format!("network namespace of the pod: {error}")))?;
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid.clone(), cookie);
        if !self.told(PATIENCE, |done| Update::Sockets(Sockets::Leave(cookie, Some(done)))).await {
            tracing::warn!(pod = pod.uid, "sockets of the pod may be translated at first");
        }
        Ok(())
    }

    /// Whether the dataplane said in time that it is done. Without one there is nobody to wait for.
    async fn told(&self, patience: Duration, update: impl FnOnce(mpsc::Sender<()>) -> Update) -> bool {
        let (done, mut told) = mpsc::channel(1);
        let wait = async {
            if self.updates.send(update(done)).await.is_ok() {
                told.recv().await;
            }
        };
        timeout(patience, wait).await.is_ok()
    }
}

fn cookie(path: &Path) -> io::Result<u64> {
    netns::cookie(File::open(path)?)
}

impl Network for Guarded {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        async move {
            let attached = self.attach_guarded(pod, wishes, netns).await;
            self.tell();
            attached
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
            if let Some(cookie) = known {
                // Without a dataplane nobody has to hear of it.
                let _nobody = self.updates.send(Update::Sockets(Sockets::Forget(cookie))).await;
            }
            let detached = self.network.detach(uid).await;
            self.tell();
            detached
        }
        .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        self.network.attached()
    }

    fn ready(&self) -> Result<(), Failure> {
        self.network.ready()
    }

    fn opens_ports(&self) -> bool {
        self.network.opens_ports()
    }
}

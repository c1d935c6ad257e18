//! A CRI v1 socket: `crictl`, or a kubelet of upstream, over the same runtime, images and network that the agent uses.
//!
//! ```text
//!  client ──gRPC, unix socket──▶ runtime_service, image_service ─▶ pods, containers ─▶ words [p] ─▶ runtime, network
//!     └──SPDY or WebSocket, loopback, one-time token──▶ streaming ─▶ server::stream
//!  runtime events ─▶ Cri::listen ─▶ GetContainerEvents
//! ```
//! What a client said is kept in the runtime's records (`words::kept`): a new process finds all of it again. Pods made here
//! are the client's; the agent leaves them alone, and clients may look at the agent's but not make or remove anything in
//! them. Not for: deciding what should run.

mod containers;
mod events;
mod files;
mod image_service;
mod pods;
mod ports;
mod runtime_service;
mod stats;
mod streaming;
mod words;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_cri_api::v1::{
    ContainerEventResponse, image_service_server::ImageServiceServer,
    runtime_service_server::RuntimeServiceServer,
};
use orlop_model::net::IpNet;
use orlop_runtime::Runtime;
use tokio::{
    net::UnixListener,
    sync::{broadcast, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, codegen::Service as _};

use self::{files::Files, ports::HostPorts, streaming::Streaming, words::stats::Sample};
use crate::{usage::Usage, wire::images::Store, worker::ports::Network};

/// Largest message of the kubelet's client.
const MAX_MESSAGE: usize = 16 << 20;
/// Events that a slow listener may be behind; past that it is told.
const EVENTS: usize = 1024;
const IMAGES: &str = "/runtime.v1.ImageService/";

/// Whether a pod of this UID was made by a client of the socket: nothing the agent has to care for.
#[must_use]
pub fn owns(uid: &str) -> bool {
    words::kept::owns(uid)
}

/// What the server works with.
pub struct Setup {
    /// Containers.
    pub runtime: Runtime,
    /// Images.
    pub images: Store,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Where a client's word on the pods' addresses goes, if it has one.
    pub pod_cidrs: Option<watch::Sender<Option<Vec<IpNet>>>>,
    /// For files of pods.
    pub run_dir: PathBuf,
    /// Where image and container file systems are.
    pub state_dir: PathBuf,
    /// Parent of pods whose client names none.
    pub cgroup_root: String,
}

/// The socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket's path.
    #[error("listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The streaming server's port.
    #[error("listen for streams on the loopback address")]
    Streaming(#[source] std::io::Error),
    /// Files of pods.
    #[error("make {} ready", path.display())]
    Files {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct Cri(Arc<Inner>);

struct Inner {
    setup: Setup,
    files: Files,
    streaming: Streaming,
    ports: HostPorts,
    events: broadcast::Sender<ContainerEventResponse>,
    /// The last look at each pod's and container's counters.
    samples: Mutex<HashMap<String, Sample>>,
    usage: Usage,
    stop: CancellationToken,
}

impl Cri {
    /// Makes everything ready but the socket.
    ///
    /// # Errors
    /// The loopback address or the run directory cannot be used.
    pub async fn open(setup: Setup, stop: CancellationToken) -> Result<Self, CriError> {
        let dir = setup.run_dir.join("cri");
        let files = Files::open(dir.clone()).map_err(|source| CriError::Files { path: dir, source })?;
        let pods: Vec<String> = setup.runtime.pods().await.into_iter().map(|pod| pod.pod.uid).collect();
        files.sweep(&pods);
        let streaming =
            Streaming::start(setup.runtime.clone(), stop.clone()).await.map_err(CriError::Streaming)?;
        let (events, _) = broadcast::channel(EVENTS);
        let (ports, samples) = (HostPorts::default(), Mutex::default());
        let usage = Usage::new(setup.runtime.clone(), &setup.state_dir);
        let cri = Self(Arc::new(Inner { setup, files, streaming, ports, events, samples, usage, stop }));
        cri.open_ports().await;
        Ok(cri)
    }

    /// Serves the socket until told to stop.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn serve(self, path: PathBuf) -> Result<(), CriError> {
        let listener = listen(&path).map_err(|source| CriError::Listen { path: path.clone(), source })?;
        tracing::info!(socket = %path.display(), "CRI socket ready");
        let stop = self.0.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (cri, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = cri.talk(stream) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                // Out of file descriptors, most likely: let some close.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        fs::remove_file(&path).ok();
        Ok(())
    }

    async fn talk(self, stream: tokio::net::UnixStream) {
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImageServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (mut runtime, mut images) = (runtime.clone(), images.clone());
            let request = request.map(tonic::body::Body::new);
            async move {
                if request.uri().path().starts_with(IMAGES) {
                    images.call(request).await
                } else {
                    runtime.call(request).await
                }
            }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "CRI connection");
        }
    }

    fn runtime(&self) -> &Runtime {
        &self.0.setup.runtime
    }
}

/// A socket for root alone. One that a process before us has left is replaced; one that somebody answers at is not.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path).ok();
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Runs work on files off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

/// An error of ours with its causes.
fn internal(error: &dyn std::error::Error) -> Status {
    Status::internal(crate::wire::chain(error))
}

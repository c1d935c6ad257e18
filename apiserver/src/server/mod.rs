//! The API server as a whole: opening, serving over TLS, and clients inside the process.
//!
//! ```text
//! TLS connection ─▶ identity (certificate, token) ─┐
//!                                                  ├─▶ Api::handle
//! ClientService (identity given by the caller) ────┘
//! ```

mod bootstrap;
mod client;
mod connection;
mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use orlop_model::net::{Family, IpNet};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::Identity;
use crate::auth::token::{KeyError, Tokens};
use crate::discovery::Discovery;
use crate::kinds;
use crate::kubelet::Kubelets;
use crate::pki::{self, Leaf, Pki, PkiError, kubeconfig};
use crate::rest::Api;
use crate::rest::health;
use crate::rest::list::Pages;
use crate::rest::status::Failure;
use crate::store::fjall::FjallEngine;
use crate::store::{EngineError, Options, Store, WriteError};

pub use client::ClientService;

/// How long open connections may take to finish at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where keys and objects live.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// The address under which pods reach it.
    pub advertise_address: IpAddr,
    /// Where service addresses come from: one network of a family, the main one first.
    pub service_cidrs: Vec<IpNet>,
    /// Further host names or addresses for the serving certificate.
    pub names: Vec<String>,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Keys or certificates.
    #[error("open the keys of the API server")]
    Pki(#[from] PkiError),
    /// The token key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error("open the store of the API server")]
    Store(#[source] EngineError),
    /// The address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The main service network has no room for the server's own address.
    #[error("there is no service network, or it is too small")]
    ServiceNetwork,
    /// Packets to the server's service address could not become packets to the server.
    #[error("the first service network is of {services}, the server's address {address} is not")]
    Family {
        /// The services' main family.
        services: Family,
        /// Where pods are to reach the server.
        address: IpAddr,
    },
    /// TLS refuses our own certificates.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The first objects cannot be written.
    #[error("create the first objects")]
    Bootstrap(#[source] Failure),
}

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It can be called once.
    #[error("the API server is already serving")]
    AlreadyServing,
    /// TLS refuses our own certificates.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The last flush failed.
    #[error("close the store")]
    Close(#[source] WriteError),
}

/// A running API server; clones share it.
#[derive(Clone, Debug)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    api: Arc<Api>,
    pki: Pki,
    config: Config,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    certificates: Arc<tls::Certificates>,
}

impl ApiServer {
    /// Opens keys and store, takes the port and creates what every cluster has. Ready to serve afterwards.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let now = Timestamp::now();
        let pki = Pki::open(&config.data_dir.join("pki"), now)?;
        let kubernetes_ip = config.service_cidrs.first().and_then(|net| net.nth(1));
        let kubernetes_ip = kubernetes_ip.ok_or(OpenError::ServiceNetwork)?;
        let (services, address) = (Family::of(kubernetes_ip), config.advertise_address);
        if Family::of(address) != services {
            return Err(OpenError::Family { services, address });
        }
        let certificates = tls::Certificates::new(&pki, names(&config, kubernetes_ip), now)?;
        let listener = listen(config.listen)?;
        let address =
            listener.local_addr().map_err(|source| OpenError::Listen { address: config.listen, source })?;
        let path = config.data_dir.join("store");
        pki::private_dir(&path)?;
        let store = tokio::task::spawn_blocking(move || {
            let engine = FjallEngine::open(&path)?;
            Store::open(Box::new(engine), Options::default())
        })
        .await
        .unwrap_or_else(|panic| Err(EngineError::new("open the store", panic)))
        .map_err(OpenError::Store)?;
        let key = pki.account_key();
        let api = Arc::new(Api {
            store,
            service_cidrs: config.service_cidrs.clone(),
            kubernetes_ip,
            closing: CancellationToken::new(),
            allocation: tokio::sync::Mutex::new(()),
            tokens: Tokens::new(&key.serialize_pem(), &key.public_key_pem())?,
            discovery: Discovery::new(kinds::BUILTIN.to_vec(), health::git_version(), address.to_string()),
            kubelets: Kubelets::new(&kubelet_certificate(&pki, now)?).map_err(OpenError::Tls)?,
            pages: Pages::default(),
        });
        bootstrap::run(&api, config.advertise_address, address.port()).await.map_err(OpenError::Bootstrap)?;
        let listener = Mutex::new(Some(listener));
        let certificates = Arc::new(certificates);
        Ok(Self { inner: Arc::new(Inner { api, pki, config, address, listener, certificates }) })
    }

    /// Serves until `stop` is cancelled, then ends watches, drains connections and flushes the store.
    pub async fn serve(&self, stop: CancellationToken) -> Result<(), ServeError> {
        let Inner { api, pki, config, address, listener, certificates } = &*self.inner;
        let listener = listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = listener.ok_or(ServeError::AlreadyServing)?;
        let acceptor = tls::acceptor(pki, Arc::clone(certificates)).map_err(ServeError::Tls)?;
        let names = names(config, api.kubernetes_ip);
        tokio::select! {
            () = connection::accept(listener, acceptor, api, stop.cancelled_owned(), DRAIN) => {}
            () = certificates.keep_fresh(pki, names) => {}
            () = api.expire_events() => {}
            () = bootstrap::keep(api, config.advertise_address, address.port()) => {}
        }
        api.store.close().await.map_err(ServeError::Close)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// A client inside the process, for `kube::Client::new`. Authorization applies to it as to everybody.
    pub fn client_service(&self, identity: Identity) -> ClientService {
        ClientService::new(Arc::clone(&self.inner.api), identity)
    }

    /// A kubeconfig with a client certificate of its own.
    pub fn issue_kubeconfig(
        &self,
        user: &str,
        groups: &[String],
        server_url: &str,
    ) -> Result<String, PkiError> {
        let leaf = self.inner.pki.issue_client(user, groups, Timestamp::now())?;
        Ok(kubeconfig::render(server_url, user, self.ca_pem(), &leaf.cert_pem, &leaf.key_pem))
    }

    /// The authority that clients should trust.
    pub fn ca_pem(&self) -> &str {
        self.inner.pki.ca_pem()
    }

    /// Certificate and key (PEM) for talking to kubelets.
    pub fn kubelet_client(&self) -> Result<(String, String), PkiError> {
        let leaf = kubelet_certificate(&self.inner.pki, Timestamp::now())?;
        Ok((leaf.cert_pem, leaf.key_pem))
    }
}

/// What kubelets are shown.
fn kubelet_certificate(pki: &Pki, now: Timestamp) -> Result<Leaf, PkiError> {
    pki.issue_client("kube-apiserver-kubelet-client", &["system:masters".to_owned()], now)
}

/// Binds now, so that a taken port is an error of opening.
fn listen(address: SocketAddr) -> Result<TcpListener, OpenError> {
    let fail = |source| OpenError::Listen { address, source };
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).map_err(fail)?;
    socket.set_reuse_address(true).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    socket.bind(&address.into()).map_err(fail)?;
    socket.listen(1024).map_err(fail)?;
    TcpListener::from_std(socket.into()).map_err(fail)
}

/// Host names and addresses of the serving certificate.
fn names(config: &Config, kubernetes_ip: IpAddr) -> tls::Names {
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(Into::into)
    .into();
    let mut addresses: Vec<IpAddr> =
        vec![kubernetes_ip, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), config.advertise_address];
    if !config.listen.ip().is_unspecified() {
        addresses.push(config.listen.ip());
    }
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    addresses.sort();
    addresses.dedup();
    tls::Names { names, addresses }
}

/// When a certificate made now is due for renewal, seen from now.
fn until_renewal(made: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(pki::renew_at(made).duration_since(now)).unwrap_or(Duration::ZERO)
}

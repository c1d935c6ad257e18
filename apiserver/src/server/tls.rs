//! TLS of the listener: our serving certificate, renewed in time, and client certificates of our authority.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::{OpenError, until_renewal};
use crate::pki::Pki;

/// What the serving certificate is for.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// The serving certificate of the moment.
#[derive(Debug)]
pub(super) struct Certificates {
    current: RwLock<(Arc<CertifiedKey>, Timestamp)>,
}

impl Certificates {
    pub(super) fn new(pki: &Pki, names: Names, now: Timestamp) -> Result<Self, OpenError> {
        Ok(Self { current: RwLock::new((make(pki, &names, now)?, now)) })
    }

    /// Replaces the certificate whenever it is due; never returns.
    pub(super) async fn keep_fresh(&self, pki: &Pki, names: Names) {
        loop {
            let made = self.current.read().unwrap_or_else(PoisonError::into_inner).1;
            let wait = until_renewal(made, Timestamp::now());
            // Sleeping in days follows a clock that is set later.
            tokio::time::sleep(wait.clamp(Duration::from_secs(60), Duration::from_secs(86_400))).await;
            let now = Timestamp::now();
            if until_renewal(made, now) > Duration::ZERO {
                continue;
            }
            match make(pki, &names, now) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = (fresh, now);
                    tracing::info!("renewed the serving certificate");
                }
                Err(error) => tracing::error!(%error, "the serving certificate was not renewed"),
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

fn make(pki: &Pki, names: &Names, now: Timestamp) -> Result<Arc<CertifiedKey>, OpenError> {
    let leaf = pki.issue_serving(&names.names, &names.addresses, now)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&leaf.key()).map_err(OpenError::Tls)?;
    Ok(Arc::new(CertifiedKey::new(leaf.chain, key)))
}

/// Accepts clients with a certificate of ours and clients without any.
pub(super) fn acceptor(pki: &Pki, certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

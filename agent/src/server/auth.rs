//! TLS of the kubelet API, and who calls it by a client certificate of the cluster's CA. Not for: tokens (`access`).

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use super::{access::Identity, expiry};

/// What serves, and until when its certificate holds.
pub(super) type Tls = (ServerConfig, Option<Timestamp>);

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The cluster's CA is not usable.
    #[error("cluster CA: {0}")]
    ClientCa(String),
    /// The certificate or the key that was given cannot be read.
    #[error("{0}")]
    Given(String),
    /// Our own certificate could not be made.
    #[error("make the kubelet's serving certificate")]
    Certificate(#[from] rcgen::Error),
    /// rustls refused it.
    #[error("kubelet TLS")]
    Rustls(#[from] rustls::Error),
}

/// A self-signed serving certificate (the kubelet's default too) and verification of clients against `client_ca`.
pub(super) fn server_config(node: &str, address: IpAddr, client_ca: &[u8]) -> Result<Tls, TlsError> {
    let own = rcgen::generate_simple_self_signed([node.to_owned(), address.to_string()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    with(vec![own.cert.der().clone()], key, client_ca)
}

/// With a certificate and a key that were given, PEM.
pub(super) fn given(certificate: &[u8], key: &[u8], client_ca: &[u8]) -> Result<Tls, TlsError> {
    let wrong = |error: rustls_pki_types::pem::Error| TlsError::Given(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(wrong)?;
    with(chain.map_err(wrong)?, key, client_ca)
}

fn with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_ca: &[u8],
) -> Result<Tls, TlsError> {
    let expires = chain.first().and_then(expiry::of);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_ca) {
        let certificate = certificate.map_err(|error| TlsError::ClientCa(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::ClientCa(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::ClientCa(error.to_string()))?;
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, expires))
}

/// The identity in a client's certificate: CN is the user, O are the groups.
pub(super) fn identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificates?.first()?).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    Some(Identity { user, groups, ..Identity::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_the_operator() {
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
        let own = rcgen::generate_simple_self_signed(["n1".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let ca = certificate.as_bytes();
        assert!(given(certificate.as_bytes(), key.as_bytes(), ca).is_ok());
        assert!(matches!(given(certificate.as_bytes(), b"no key", ca), Err(TlsError::Given(_))));
        let other =
            rcgen::generate_simple_self_signed(["n1".to_owned()]).unwrap().signing_key.serialize_pem();
        assert!(matches!(given(certificate.as_bytes(), other.as_bytes(), ca), Err(TlsError::Rustls(_))));
    }
}

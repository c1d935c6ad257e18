//! Talking to kubelets: HTTPS with our client certificate, answers as streams.
//!
//! Kubelets have certificates of their own making; as upstream does by default, theirs are not verified and the
//! node is trusted by its address, which only the node itself and administrators can write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::Leaf;
use crate::rest::body::Body;

/// How long a kubelet may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a kubelet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// IP address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a kubelet gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Nobody there.
    #[error("connect to {host}:{port}")]
    Connect {
        /// Where to.
        host: String,
        /// Where to.
        port: u16,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Not a name or address.
    #[error("the node's address {0:?} is no host name")]
    Name(String),
    /// TLS failed.
    #[error("TLS with the kubelet")]
    Tls(#[source] std::io::Error),
    /// HTTP failed.
    #[error("ask the kubelet")]
    Http(#[source] hyper::Error),
    /// The path makes no request.
    #[error("make the request")]
    Path(#[source] http::uri::InvalidUri),
    /// The address makes no header.
    #[error("make the request")]
    Host(#[source] http::header::InvalidHeaderValue),
}

/// A client for all kubelets.
#[derive(Clone)]
pub struct Kubelets {
    tls: TlsConnector,
}

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubelets")
    }
}

impl Kubelets {
    /// With the certificate it presents.
    pub fn new(certificate: &Leaf) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
            .with_client_auth_cert(certificate.chain.clone(), certificate.key())?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// GET; the connection lives as long as the answer's body.
    pub async fn get(&self, address: &Address, path: &str) -> Result<Response<Body>, KubeletError> {
        let answer = self.ask(address, &Method::GET, path, &HeaderMap::new(), Bytes::new()).await?;
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// One request, whose answer may become another protocol.
    pub async fn ask(
        &self,
        address: &Address,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, KubeletError> {
        let Address { host, port } = address;
        let connecting = TcpStream::connect((host.as_str(), *port));
        let stream = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(result) => result,
            Err(elapsed) => Err(elapsed.into()),
        };
        let stream =
            stream.map_err(|source| KubeletError::Connect { host: host.clone(), port: *port, source })?;
        // Keys that are typed come one by one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection without TCP_NODELAY");
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| KubeletError::Name(host.clone()))?;
        let stream = self.tls.connect(name, stream).await.map_err(KubeletError::Tls)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(KubeletError::Http)?;
        // Ends when the body is dropped or complete: it owns the only handle left.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a kubelet ended");
            }
        });
        let mut request = Request::new(Full::new(body));
        method.clone_into(request.method_mut());
        *request.uri_mut() = path.parse().map_err(KubeletError::Path)?;
        headers.clone_into(request.headers_mut());
        let host = authority(host, *port).try_into().map_err(KubeletError::Host)?;
        request.headers_mut().insert(http::header::HOST, host);
        sender.send_request(request).await.map_err(KubeletError::Http)
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The beginning of a short answer, for messages.
pub async fn read_text(mut body: Body) -> String {
    const MAX: usize = 4096;
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > MAX {
            text.truncate(MAX);
            break;
        }
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// See the module's header.
#[derive(Debug)]
struct Unverified(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Talking to one registry: manifests and blobs by digest, with errors an operator can act on.
//!
//! One client per registry and credential: `oci-client` keeps the first credential that it is given for a registry
//! and ignores later ones, so a shared client would pull one pod's image with another pod's secret.
//! Not for: what manifests mean, where layers go.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    path::Path,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use oci_client::{
    Client,
    client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{DigestError as OciDigestError, OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    PullOptions,
    digest::{Digest, Mismatch, verify},
    manifest::{ACCEPTED, DOCUMENT_MAX},
    reference::Reference,
};

/// Attempts at one blob; each goes on where the last one broke off.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// Between two progress reports of one layer.
const REPORT_STEP: u64 = 256 << 10;
/// Clients kept for their connections and tokens.
const CLIENTS_MAX: usize = 64;

/// A user name and password or token for one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password or token; never printed.
    pub password: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a registry did instead of answering.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No such repository, tag or blob.
    #[error("not found")]
    NotFound,
    /// Credentials missing, wrong, or not good enough. Some registries say this of what does not exist.
    #[error("unauthorized: authentication required or access denied")]
    Unauthorized,
    /// Asked too often.
    #[error("the registry asks for fewer requests (429)")]
    TooManyRequests,
    /// No connection, no answer in time, or an answer of 500 and above.
    #[error("registry unreachable")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// A blob ended early again and again: a bad line, or a registry that lost part of it.
    #[error("broke off after {done} of {size} bytes")]
    BrokeOff {
        /// Bytes received.
        done: u64,
        /// Bytes promised.
        size: u64,
        /// What ended it.
        #[source]
        source: std::io::Error,
    },
    /// Not the content that was promised.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Longer than such a document may be.
    #[error("longer than {0} bytes")]
    TooLong(u64),
    /// An extra certificate authority that cannot be read, or a machine without certificates.
    #[error("set up TLS (is the package ca-certificates installed?)")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// Scratch file of a blob.
    #[error("write the blob")]
    Write(#[source] std::io::Error),
    /// Anything else that the registry said.
    #[error("the registry refused")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

impl RegistryError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TooManyRequests | Self::BrokeOff { .. })
    }
}

/// A registry, seen through one repository and one credential.
pub(crate) struct Registry {
    client: Client,
    repository: oci_client::Reference,
}

/// Clients in use, by what makes them different.
#[derive(Default)]
pub(crate) struct Clients(Mutex<HashMap<Key, Client>>);

#[derive(PartialEq, Eq, Hash)]
struct Key {
    registry: String,
    auth: Option<Auth>,
    plain_http: bool,
    extra_ca: Vec<Vec<u8>>,
    timeouts: (Duration, Duration),
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl Clients {
    pub(crate) async fn registry(
        &self,
        reference: &Reference,
        auth: Option<Auth>,
        options: &PullOptions,
    ) -> Result<Registry, RegistryError> {
        let repository = oci_reference(reference);
        let registry = repository.resolve_registry().to_owned();
        let plain_http =
            options.plain_http.iter().any(|host| *host == registry || host == reference.registry());
        let key = Key {
            registry: registry.clone(),
            auth: auth.clone(),
            plain_http,
            extra_ca: options.extra_ca.clone(),
            timeouts: (options.connect_timeout, options.read_timeout),
        };
        let client = self.client(key, &registry, plain_http, options)?;
        let auth = match auth {
            Some(Auth { username, password }) => RegistryAuth::Basic(username, password),
            None => RegistryAuth::Anonymous,
        };
        client.store_auth_if_needed(&registry, &auth).await;
        Ok(Registry { client, repository })
    }

    fn client(
        &self,
        key: Key,
        registry: &str,
        plain_http: bool,
        options: &PullOptions,
    ) -> Result<Client, RegistryError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        install_crypto();
        let config = ClientConfig {
            protocol: match plain_http {
                true => ClientProtocol::HttpsExcept(vec![registry.to_owned()]),
                false => ClientProtocol::Https,
            },
            extra_root_certificates: certificates(&options.extra_ca),
            platform_resolver: None,
            connect_timeout: Some(options.connect_timeout),
            read_timeout: Some(options.read_timeout),
            user_agent: concat!("orlop/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // Fails on a machine without any certificates, even for plain HTTP. Not with `tls_certs_only` either: oci-client
        // 0.18 also builds a default HTTP client on its way, which panics there.
        let client = Client::try_from(config).map_err(|error| RegistryError::Tls(error.into()))?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// reqwest is built without a crypto provider of its own. Somebody having installed one already is fine.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// One certificate per PEM block: the HTTP client reads only the first of a bundle.
fn certificates(bundles: &[Vec<u8>]) -> Vec<Certificate> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = |bundle: &Vec<u8>| String::from_utf8_lossy(bundle).into_owned();
    bundles
        .iter()
        .flat_map(|bundle| text(bundle).split_inclusive(END).map(str::to_owned).collect::<Vec<_>>())
        .filter(|block| block.contains(END))
        .map(|block| Certificate { encoding: CertificateEncoding::Pem, data: block.into_bytes() })
        .collect()
}

fn oci_reference(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
        (None, tag) => {
            oci_client::Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned())
        }
    }
}

impl Registry {
    /// The manifest or index that the reference itself names, with its digest.
    pub(crate) async fn resolve(&self) -> Result<(Digest, Vec<u8>), RegistryError> {
        self.manifest(&self.repository).await
    }

    /// A manifest by digest.
    pub(crate) async fn manifest_at(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        let reference = self.repository.clone_with_digest(digest.to_string());
        let (_, bytes) = self.manifest(&reference).await?;
        verify(&bytes, digest)?;
        Ok(bytes)
    }

    async fn manifest(&self, reference: &oci_client::Reference) -> Result<(Digest, Vec<u8>), RegistryError> {
        let auth = RegistryAuth::Anonymous; // The client has its credential; this argument would only be a first one.
        let (bytes, _) = self.client.pull_manifest_raw(reference, &auth, ACCEPTED).await.map_err(classify)?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(RegistryError::TooLong(DOCUMENT_MAX));
        }
        let digest = Digest::of(&bytes);
        if let Some(wanted) = reference.digest().and_then(|text| Digest::parse(text).ok()) {
            verify(&bytes, &wanted)?;
        }
        Ok((digest, bytes.to_vec()))
    }

    /// A small blob, into memory.
    pub(crate) async fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        let name = digest.as_str();
        let mut stream = self.client.pull_blob_stream(&self.repository, name).await.map_err(classify)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| broken(error, digest))?);
            if bytes.len() as u64 > max {
                return Err(RegistryError::TooLong(max));
            }
        }
        verify(&bytes, digest)?;
        Ok(bytes)
    }

    /// A large blob, into a file; goes on after breaks. Digest and size are checked.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        path: &Path,
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let file = tokio::fs::File::create(path).await.map_err(RegistryError::Write)?;
        let mut download = Download { file, hasher: Sha256::new(), done: 0, reported: 0, digest, size };
        let mut pause = FIRST_PAUSE;
        let mut broke_off = None;
        for attempt in 1.. {
            let before = download.done;
            match self.attempt(&mut download, report).await {
                Ok(()) if download.done == size => break,
                // Ended early without an error: go on only while that leads further.
                Ok(()) if download.done > before && attempt < ATTEMPTS => {
                    broke_off = Some(download.wrong_size().into());
                }
                Ok(()) => return Err(download.wrong_size().into()),
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    tracing::debug!(%digest, done = download.done, %error, "blob broke off, going on");
                    if let RegistryError::BrokeOff { .. } = error {
                        broke_off = Some(error);
                    }
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                // Where it broke off says more than what a registry answers to being asked for the rest.
                Err(error) => return Err(broke_off.unwrap_or(error)),
            }
        }
        download.file.flush().await.map_err(RegistryError::Write)?;
        report(size);
        let actual = Digest::from_hasher(download.hasher);
        if actual != *digest {
            return Err(Mismatch::Digest { expected: digest.clone(), actual }.into());
        }
        Ok(())
    }

    async fn attempt(
        &self,
        download: &mut Download<'_>,
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let name = download.digest.as_str();
        let mut stream = if download.done == 0 {
            self.client.pull_blob_stream(&self.repository, name).await.map_err(classify)?
        } else {
            let rest =
                self.client.pull_blob_stream_partial(&self.repository, name, download.done, None).await;
            match rest {
                Ok(BlobResponse::Partial(stream)) => stream,
                Ok(BlobResponse::Full(stream)) => {
                    download.restart().await?;
                    stream
                }
                // Nothing there: the blob is shorter than promised.
                Err(OciDistributionError::ServerError { code: 416, .. }) => return Ok(()),
                Err(error) => return Err(classify(error)),
            }
        };
        while let Some(chunk) = stream.stream.next().await {
            match chunk {
                Ok(chunk) => download.write(&chunk, report).await?,
                // Ours to find out: the length tells more, and it may only be the end of a broken connection.
                Err(error) if is_digest_error(&error) => break,
                Err(source) => {
                    let Download { done, size, .. } = *download;
                    return Err(RegistryError::BrokeOff { done, size, source });
                }
            }
        }
        Ok(())
    }
}

struct Download<'a> {
    file: tokio::fs::File,
    hasher: Sha256,
    done: u64,
    reported: u64,
    digest: &'a Digest,
    size: u64,
}

impl Download<'_> {
    async fn write(
        &mut self,
        chunk: &[u8],
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        self.done += chunk.len() as u64;
        if self.done > self.size {
            return Err(self.wrong_size().into());
        }
        self.hasher.update(chunk);
        self.file.write_all(chunk).await.map_err(RegistryError::Write)?;
        if self.done - self.reported >= REPORT_STEP {
            self.reported = self.done;
            report(self.done);
        }
        Ok(())
    }

    /// The server does not know ranges.
    async fn restart(&mut self) -> Result<(), RegistryError> {
        use tokio::io::AsyncSeekExt;
        self.file.set_len(0).await.map_err(RegistryError::Write)?;
        self.file.rewind().await.map_err(RegistryError::Write)?;
        (self.hasher, self.done, self.reported) = (Sha256::new(), 0, 0);
        Ok(())
    }

    fn wrong_size(&self) -> Mismatch {
        Mismatch::Size { digest: self.digest.clone(), expected: self.size, actual: self.done }
    }
}

fn is_digest_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OciDigestError>())
}

fn broken(error: std::io::Error, digest: &Digest) -> RegistryError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<OciDigestError>()) {
        Some(OciDigestError::VerificationError { actual, .. }) => match Digest::parse(actual) {
            Ok(actual) => Mismatch::Digest { expected: digest.clone(), actual }.into(),
            Err(_) => RegistryError::Other(error.into()),
        },
        _ => RegistryError::Unreachable(error.into()),
    }
}

/// What an operator has to do about it decides, not which layer of the client noticed.
fn classify(error: OciDistributionError) -> RegistryError {
    use OciDistributionError as E;
    let of_code = |code: &OciErrorCode| match code {
        OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound
        | OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestBlobUnknown => Some(RegistryError::NotFound),
        OciErrorCode::Unauthorized | OciErrorCode::Denied => Some(RegistryError::Unauthorized),
        OciErrorCode::Toomanyrequests => Some(RegistryError::TooManyRequests),
        _ => None,
    };
    match error {
        E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => RegistryError::Unauthorized,
        E::ImageManifestNotFoundError(_) => RegistryError::NotFound,
        E::RegistryError { ref envelope, .. } => {
            let known = envelope.errors.iter().find_map(|error| of_code(&error.code));
            known.unwrap_or_else(|| RegistryError::Other(error.into()))
        }
        E::ServerError { code: 404, .. } => RegistryError::NotFound,
        E::ServerError { code: 401 | 403, .. } => RegistryError::Unauthorized,
        E::ServerError { code: 429, .. } => RegistryError::TooManyRequests,
        E::ServerError { code: 500.., .. } => RegistryError::Unreachable(error.into()),
        E::RequestError(error) if error.is_builder() => RegistryError::Other(error.into()),
        E::RequestError(error) => RegistryError::Unreachable(error.into()),
        E::DigestError(OciDigestError::VerificationError { ref expected, ref actual }) => {
            match (Digest::parse(expected), Digest::parse(actual)) {
                (Ok(expected), Ok(actual)) => Mismatch::Digest { expected, actual }.into(),
                _ => RegistryError::Other(error.into()),
            }
        }
        E::IoError(error) => RegistryError::Unreachable(error.into()),
        other => RegistryError::Other(other.into()),
    }
}

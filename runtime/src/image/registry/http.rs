//! The door to the HTTP client: one client per kind of TLS, bounded answers, errors that say what to do.
//!
//! Proxies come from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). A redirect is followed a few times,
//! never from TLS to plain text, and carries no credential to another host. Not for: what is asked.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use reqwest::{
    Certificate, Client, Identity, Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER},
    redirect,
};

use super::{
    error::{RegistryError, of_answer},
    hosts::Tls,
    retry,
};
use crate::image::PullOptions;

const REDIRECTS_MAX: usize = 10;
/// Clients kept for their connections.
const CLIENTS_MAX: usize = 64;
/// Of a body that explains a failure.
const EXPLANATION_MAX: u64 = 16 << 10;

/// Clients in use, by what makes them different.
#[derive(Debug, Default)]
pub(super) struct Https(Mutex<HashMap<Key, Client>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    tls: Tls,
    extra_ca: Vec<Vec<u8>>,
    timeouts: (Duration, Duration),
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) url: &'a str,
    pub(super) accept: Option<&'a str>,
    pub(super) authorization: Option<&'a HeaderValue>,
    /// Only what comes from here on.
    pub(super) from: Option<u64>,
}

impl Https {
    pub(super) fn client(&self, tls: &Tls, options: &PullOptions) -> Result<Client, RegistryError> {
        let key = Key {
            tls: tls.clone(),
            extra_ca: options.extra_ca.clone(),
            timeouts: (options.connect_timeout, options.read_timeout),
        };
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(tls, options)?;
        // Files may have changed since: a new authority is used after a restart, or when the hosts of a registry change.
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build(tls: &Tls, options: &PullOptions) -> Result<Client, RegistryError> {
    install_crypto();
    let mut authorities = Vec::new();
    for bundle in &options.extra_ca {
        authorities.extend(certificates(bundle)?);
    }
    for path in &tls.ca {
        authorities.extend(certificates(&read(path)?)?);
    }
    let identity = tls.client.as_ref().map(|(certificate, key)| identity(certificate, key)).transpose()?;
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("orlop/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .redirect(redirect::Policy::custom(follow));
        match &identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    };
    let client = builder().tls_certs_merge(authorities).build();
    match client {
        // A machine without certificates may still pull from a registry without TLS.
        Err(_) if tls.plain => builder().tls_certs_only([]).build(),
        client => client,
    }
    .map_err(|error| RegistryError::Tls(error.into()))
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error(format!("more than {REDIRECTS_MAX} redirects"));
    }
    if attempt.previous().contains(attempt.url()) {
        return attempt.error("redirects lead in a circle");
    }
    let was_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_tls && attempt.url().scheme() != "https" {
        return attempt.error("a redirect from TLS to plain text");
    }
    attempt.follow()
}

/// reqwest is built without a crypto provider of its own. Somebody having installed one already is fine.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|error| RegistryError::Tls(format!("read {}: {error}", path.display()).into()))
}

fn certificates(bundle: &[u8]) -> Result<Vec<Certificate>, RegistryError> {
    Certificate::from_pem_bundle(bundle).map_err(|error| RegistryError::Tls(error.into()))
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, RegistryError> {
    let mut pem = read(key)?;
    pem.push(b'\n');
    pem.extend(read(certificate)?);
    Identity::from_pem(&pem).map_err(|error| RegistryError::Tls(error.into()))
}

/// Sends a request; any answer is a success here.
pub(super) async fn get(client: &Client, ask: &Ask<'_>) -> Result<Response, RegistryError> {
    let Ask { url, accept, authorization, from } = ask;
    let mut request = client.get(*url);
    if let Some(accept) = accept {
        request = request.header(ACCEPT, *accept);
    }
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, *authorization);
    }
    if let Some(from) = from {
        request = request.header(RANGE, format!("bytes={from}-"));
    }
    request.send().await.map_err(failed)
}

/// Sends a form. It may hold a secret: a redirect is not followed with it.
pub(super) async fn post(
    client: &Client,
    url: &str,
    form: &[(&str, String)],
) -> Result<Response, RegistryError> {
    let encoded = url_with("form:", form)?.query().unwrap_or_default().to_owned();
    let length = encoded.len();
    // A stream cannot be sent twice.
    let body = futures::stream::once(std::future::ready(Ok::<_, std::io::Error>(encoded)));
    let request = client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let request = request.header(CONTENT_LENGTH, length).body(reqwest::Body::wrap_stream(body));
    request.send().await.map_err(failed)
}

/// A success as it is, anything else as the reason it stands for. 416 is a success where a range was asked for.
pub(super) async fn checked(response: Response, ranged: bool) -> Result<Response, RegistryError> {
    let status = response.status().as_u16();
    if matches!(status, 200 | 206) || (ranged && status == 416) {
        return Ok(response);
    }
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| retry::retry_after(text, Timestamp::now()));
    let body = explanation(response).await;
    Err(of_answer(status, &body, after))
}

/// The beginning of a body, as far as it comes.
async fn explanation(response: Response) -> Vec<u8> {
    let mut stream = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > EXPLANATION_MAX {
            break;
        }
    }
    bytes
}

/// A whole body of bounded length.
pub(super) async fn body(response: Response, max: u64) -> Result<Vec<u8>, RegistryError> {
    if response.content_length().is_some_and(|length| length > max) {
        return Err(RegistryError::TooLong(max));
    }
    let mut stream = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(failed)?);
        if bytes.len() as u64 > max {
            return Err(RegistryError::TooLong(max));
        }
    }
    Ok(bytes)
}

/// The address of a token server with what is asked of it.
pub(super) fn url_with(base: &str, query: &[(&str, String)]) -> Result<Url, RegistryError> {
    let mut url = Url::parse(base).map_err(|error| RegistryError::Other(error.into()))?;
    url.query_pairs_mut().extend_pairs(query);
    Ok(url)
}

/// The address is left out of the text: it is told elsewhere, and may hold signatures.
fn failed(error: reqwest::Error) -> RegistryError {
    let error = error.without_url();
    if error.is_redirect() {
        RegistryError::Redirect(error.into())
    } else if error.is_builder() {
        RegistryError::Other(error.into())
    } else {
        RegistryError::Unreachable(error.into())
    }
}

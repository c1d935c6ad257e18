//! Talking to registries: manifests and blobs by digest, through mirrors, with credentials, over bad lines.
//!
//! ```text
//!  Registry ─ seats in order ─▶ request ─▶ http ─▶ 401? tokens ─▶ once more
//!     │         (mirrors, then the registry itself; each with its credentials)
//!     ├─ resolve, manifest_at, small_blob: bounded documents, in memory
//!     └─ blob (download.rs): resumed after breaks, into a file
//! ```
//! A credential is sent only to the host that it names, and nothing learnt with one is used for another. Not for: what
//! manifests mean, where layers go.

mod challenge;
mod download;
mod error;
mod hosts;
mod http;
mod retry;
mod tokens;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use reqwest::Response;

pub use self::{
    error::RegistryError,
    hosts::{Capability, HostSettings, Registries, RegistriesError, RegistryHosts},
};
use self::{
    hosts::Host,
    http::{Ask, Https},
    tokens::{Key, Tokens},
};
use super::{
    PullOptions,
    digest::{Digest, verify},
    keyring::{Credential, Keyring, Source},
    manifest::{ACCEPTED, DOCUMENT_MAX},
    reference::Reference,
};

/// Attempts at a document, at the last host that can be asked.
const DOCUMENT_ATTEMPTS: u32 = 3;

/// What all pulls of a process share: connections and tokens.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    https: Https,
    tokens: Tokens,
}

/// The hosts that answer for one repository, seen with one set of credentials.
pub(crate) struct Registry {
    clients: Arc<Clients>,
    reference: Reference,
    seats: Vec<Seat>,
    options: PullOptions,
    timing: Timing,
}

#[derive(Clone, Copy)]
struct Timing {
    document: Duration,
    pace_window: Duration,
    pace_bytes: u64,
}

/// A host and the credentials for it; `None` is anonymous, and last.
struct Seat {
    host: Host,
    credentials: Vec<Option<Credential>>,
    /// Which of them opened the door: the others are not tried on the same pull any more.
    chosen: OnceLock<usize>,
}

impl Registry {
    pub(crate) fn new(
        clients: &Arc<Clients>,
        reference: &Reference,
        keyring: &Keyring,
        options: &PullOptions,
    ) -> Self {
        let (registry, repository) = (reference.registry(), reference.repository());
        let plain = options.plain_http.iter().any(|host| host == registry);
        let hosts = options.registries.hosts(registry, repository, plain);
        let seat = |host: Host| {
            let found = keyring.lookup(&host.lookup);
            let credentials = found.into_iter().map(Some).chain([None]).collect();
            Seat { host, credentials, chosen: OnceLock::new() }
        };
        Self {
            clients: Arc::clone(clients),
            reference: reference.clone(),
            seats: hosts.into_iter().map(seat).collect(),
            timing: Timing {
                document: options.document_timeout,
                pace_window: options.pace_window,
                pace_bytes: options.pace_bytes,
            },
            options: options.clone(),
        }
    }

    /// The manifest or index that the reference itself names, with its digest.
    pub(crate) async fn resolve(&self) -> Result<(Digest, Vec<u8>), RegistryError> {
        let (by_tag, name) = match self.reference.digest() {
            Some(digest) => (false, digest.to_string()),
            None => (true, self.reference.tag().unwrap_or("latest").to_owned()),
        };
        let bytes = self.document("manifests", &name, DOCUMENT_MAX, by_tag).await?;
        Ok((Digest::of(&bytes), bytes))
    }

    /// A manifest by digest.
    pub(crate) async fn manifest_at(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        self.document("manifests", digest.as_str(), DOCUMENT_MAX, false).await
    }

    /// A small blob, into memory.
    pub(crate) async fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, RegistryError> {
        self.document("blobs", digest.as_str(), max, false).await
    }

    /// The pod's credential that any part of the image needed: what other pods have to show to use it too. `None`:
    /// nobody needs one, or only the node's own.
    pub(crate) fn opened_by(&self) -> Option<&Credential> {
        let used = self.seats.iter().filter_map(|seat| seat.credentials[*seat.chosen.get()?].as_ref());
        used.into_iter().find(|credential| credential.source != Source::Node)
    }

    /// A document of bounded length from the first host that has it; by digest, it is checked.
    async fn document(
        &self,
        kind: &str,
        name: &str,
        max: u64,
        by_tag: bool,
    ) -> Result<Vec<u8>, RegistryError> {
        let may = |seat: &&Seat| if by_tag { seat.host.resolves } else { seat.host.pulls };
        let seats: Vec<&Seat> = self.seats.iter().filter(may).collect();
        let mut failures = Vec::new();
        for (at, seat) in seats.iter().enumerate() {
            let attempts = if at + 1 == seats.len() { DOCUMENT_ATTEMPTS } else { 1 };
            match self.document_from(seat, kind, name, max, attempts).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    tracing::debug!(host = seat.host.name(), kind, name, %error, "not from this host");
                    failures.push((seat.host.name().to_owned(), error));
                }
            }
        }
        let Some((_, last)) = failures.pop() else { return Err(RegistryError::NoHost) };
        Err(last.after(failures))
    }

    async fn document_from(
        &self,
        seat: &Seat,
        kind: &str,
        name: &str,
        max: u64,
        attempts: u32,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = seat.host.url(kind, name);
        let accepted = ACCEPTED.join(", ");
        let accept = (kind == "manifests").then_some(accepted.as_str());
        let mut attempt = 1;
        loop {
            let ask = async { http::body(self.request(seat, &url, accept, None).await?, max).await };
            // A document is small: the limit is for all of it, so that nobody can drip it out.
            let got = tokio::time::timeout(self.timing.document, ask).await;
            let got = got.unwrap_or_else(|_| Err(RegistryError::Unreachable("no answer in time".into())));
            match got {
                Ok(bytes) => {
                    if let Ok(digest) = Digest::parse(name) {
                        verify(&bytes, &digest)?;
                    }
                    return Ok(bytes);
                }
                Err(error) if error.is_transient() && attempt < attempts => {
                    let Some(pause) = retry::pause(attempt, error.asked_pause()) else { return Err(error) };
                    tracing::debug!(url, %error, "asking again");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks with the credentials of the host until one is good enough.
    async fn request(
        &self,
        seat: &Seat,
        url: &str,
        accept: Option<&str>,
        from: Option<u64>,
    ) -> Result<Response, RegistryError> {
        let all = 0..seat.credentials.len();
        let candidates = seat.chosen.get().map_or(all, |index| *index..index + 1);
        let mut first = None;
        for index in candidates {
            match self.request_as(seat, index, url, accept, from).await {
                Ok(response) => {
                    seat.chosen.get_or_init(|| index);
                    return Ok(response);
                }
                Err(error) if error.is_about_credentials() => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or(RegistryError::Unauthorized))
    }

    /// At most two requests and one for a token: a registry that answers a fresh token with another 401 means it.
    async fn request_as(
        &self,
        seat: &Seat,
        index: usize,
        url: &str,
        accept: Option<&str>,
        from: Option<u64>,
    ) -> Result<Response, RegistryError> {
        let Clients { https, tokens } = &*self.clients;
        let client = https.client(&seat.host.tls, &self.options)?;
        let key = Key {
            origin: seat.host.origin.clone(),
            repository: seat.host.repository.clone(),
            auth: seat.credentials[index].as_ref().map(|credential| credential.auth.clone()),
        };
        let known = tokens.get(&key, Instant::now());
        let ask = Ask { url, accept, authorization: known.as_ref(), from };
        let response = http::get(&client, &ask).await?;
        if response.status().as_u16() != 401 {
            return http::checked(response, from.is_some()).await;
        }
        let learnt = tokens.answer(&client, &seat.host, &key, &response).await?;
        let ask = Ask { authorization: Some(&learnt), ..ask };
        http::checked(http::get(&client, &ask).await?, from.is_some()).await
    }
}

//! get and list, and the snapshots behind lists that are read page by page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::{self, Body};
use super::encode::{Encoder, ListMeta};
use super::filter::Filter;
use super::status::Failure;
use super::{Api, Call, Target};
use crate::store::Object;

/// How long a request for a future revision waits for it.
const FUTURE: Duration = Duration::from_secs(3);
/// How long the rest of a list is kept.
const KEEP: Duration = Duration::from_secs(300);
/// How many of them.
const MAX_PAGES: usize = 32;

/// Rests of lists, so that all pages come from one picture.
#[derive(Debug, Default)]
pub struct Pages {
    held: Mutex<VecDeque<Page>>,
}

#[derive(Debug)]
struct Page {
    id: u64,
    made: Instant,
    revision: u64,
    rest: Arc<[Arc<Object>]>,
}

/// What `continue` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// Snapshot; absent = go on in the newest state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// The first key of the next page.
    from: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Failure> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token.ok_or_else(|| Failure::bad_request("continue key is not valid: illegal base64 data"))
    }
}

impl Pages {
    fn hold(&self, revision: u64, rest: &[Arc<Object>]) -> u64 {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let id = u64::from_le_bytes(super::world::random::<8>());
        held.retain(|page| page.made.elapsed() < KEEP);
        if held.len() == MAX_PAGES {
            held.pop_front();
        }
        held.push_back(Page { id, made: Instant::now(), revision, rest: rest.into() });
        id
    }

    fn find(&self, id: u64) -> Option<(u64, Arc<[Arc<Object>]>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let page = held.iter().find(|page| page.id == id && page.made.elapsed() < KEEP)?;
        Some((page.revision, Arc::clone(&page.rest)))
    }
}

impl Api {
    pub(super) fn get(&self, call: &Call, target: &Target) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let object =
            self.store.get(&target.key()).ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
        encoder.respond(StatusCode::OK, &object.value)
    }

    pub(super) async fn list(&self, call: &Call, target: &Target) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let filter = Filter::parse(target.kind, &call.query)?;
        let limit = call.query.number::<usize>("limit")?.unwrap_or(0);
        let version = call.query.get("resourceVersion");
        let (revision, mut objects) = match call.query.get("continue") {
            Some(token) => {
                if version.is_some_and(|v| v != "0") {
                    return Err(Failure::bad_request(
                        "specifying resource version is not allowed when using continue",
                    ));
                }
                self.resume(target, &filter, &Token::decode(token)?)?
            }
            None => {
                self.reach(version, call.query.get("resourceVersionMatch")).await?;
                self.select(target, &filter)
            }
        };
        let mut meta = ListMeta { revision, ..ListMeta::default() };
        // Informers read everything at resourceVersion 0 and send a limit all the same.
        if limit > 0 && objects.len() > limit && version != Some("0") {
            let from = objects[limit].key.to_string();
            let id = Some(self.pages.hold(revision, &objects[limit..]));
            meta.continue_token = Some(Token { id, from }.encode());
            meta.remaining = filter.is_empty().then(|| objects.len() - limit);
            objects.truncate(limit);
        }
        Ok(body::json_bytes(StatusCode::OK, encoder.list(&objects, &meta)?))
    }

    /// The objects a collection request means, and the revision of that picture.
    pub(crate) fn select(&self, target: &Target, filter: &Filter) -> (u64, Vec<Arc<Object>>) {
        let (revision, mut objects) = match filter.name() {
            Some(name) if !(target.kind.namespaced() && target.namespace.is_empty()) => {
                let revision = self.store.revision();
                let one = Target { name: name.to_owned(), ..target.clone() };
                (revision, self.store.get(&one.key()).into_iter().collect())
            }
            _ => self.store.list(&target.prefix()),
        };
        if !filter.is_empty() {
            objects.retain(|object| filter.matches_bytes(&object.value));
        }
        (revision, objects)
    }

    fn resume(
        &self,
        target: &Target,
        filter: &Filter,
        token: &Token,
    ) -> Result<(u64, Vec<Arc<Object>>), Failure> {
        if let Some(id) = token.id {
            if let Some((revision, rest)) = self.pages.find(id) {
                return Ok((revision, rest.iter().filter(|o| *o.key >= *token.from).cloned().collect()));
            }
            let mut failure = Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a \
                 new list without the continue parameter, or use the continue token in this response to retrieve \
                 the remainder of the results. Continuing with the provided token results in an inconsistent list - \
                 objects that were created, modified, or deleted between the time the first chunk was returned and \
                 now may show up in the list.",
            );
            failure.continue_token = Some(Token { id: None, from: token.from.clone() }.encode());
            return Err(failure);
        }
        let (revision, mut objects) = self.select(target, filter);
        objects.retain(|object| *object.key >= *token.from);
        Ok((revision, objects))
    }

    /// Checks a list's resourceVersion and waits for one that is a little ahead.
    pub(crate) async fn reach(&self, version: Option<&str>, how: Option<&str>) -> Result<(), Failure> {
        let wanted = parse_version(version)?;
        if how.is_some() && version.is_none() {
            return Err(Failure::new(
                422,
                "Invalid",
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        let exact = match how {
            None | Some("NotOlderThan") => false,
            Some("Exact") => true,
            Some(other) => {
                return Err(Failure::new(
                    422,
                    "Invalid",
                    format!(
                        "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                    ),
                ));
            }
        };
        let current = self.store.revision();
        if wanted > current && tokio::time::timeout(FUTURE, self.store.wait_for(wanted)).await.is_err() {
            return Err(Failure::too_large_version(wanted, self.store.revision()));
        }
        if exact && wanted != 0 && wanted != self.store.revision() {
            return Err(Failure::expired(format!(
                "The resourceVersion for the provided list is too old: {wanted} ({})",
                self.store.revision()
            )));
        }
        Ok(())
    }
}

/// A resourceVersion as a number; absent reads as 0.
pub(crate) fn parse_version(text: Option<&str>) -> Result<u64, Failure> {
    let text = text.unwrap_or("0");
    text.parse().map_err(|_| {
        Failure::bad_request(format!("invalid resource version {text:?}: strconv.ParseUint: invalid syntax"))
    })
}

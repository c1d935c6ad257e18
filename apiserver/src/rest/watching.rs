//! The request side of watches: where in history to start and what to send first.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::body::{self, Body};
use super::encode::Encoder;
use super::filter::Filter;
use super::list::parse_version;
use super::status::Failure;
use super::{Api, Call, Target};
use crate::watch::{self, Watch};

/// Upstream ends watches without a timeout after 30 to 60 minutes.
const DEFAULT_TIMEOUT: u64 = 45 * 60;
/// Nobody needs more, and clocks cannot count to any number.
const MAX_TIMEOUT: u64 = 24 * 3600;

impl Api {
    pub(super) async fn watch(
        self: &Arc<Self>,
        call: Call,
        target: Target,
    ) -> Result<Response<Body>, Failure> {
        let query = &call.query;
        let encoder = Encoder::new(target.kind, call.form, query)?;
        let filter = Filter::parse(target.kind, query)?;
        let version = query.get("resourceVersion");
        let wanted = parse_version(version)?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let timeout = query.number::<u64>("timeoutSeconds")?.filter(|s| *s > 0).unwrap_or(DEFAULT_TIMEOUT);
        let timeout = timeout.min(MAX_TIMEOUT);
        let initial = initial_events(query)?;
        if wanted > self.store.revision() {
            self.reach(version, None).await?;
        }
        let prefix = match filter.name() {
            // A watch of one object need not look at the others; `x` must not match `xy`, which the filter sees to.
            Some(name) if !(target.kind.namespaced() && target.namespace.is_empty()) => {
                Target { name: name.to_owned(), ..target.clone() }.key()
            }
            _ => target.prefix(),
        };
        let send_state = initial.unwrap_or(wanted == 0);
        let (cursor, objects) = if send_state {
            let (_, mut objects, cursor) = self.store.list_and_cursor(&prefix);
            objects.retain(|object| filter.matches_bytes(&object.value));
            (cursor, objects)
        } else if wanted == 0 {
            (self.store.list_and_cursor(&prefix).2, Vec::new())
        } else {
            match self.store.cursor(wanted) {
                Ok(cursor) => (cursor, Vec::new()),
                Err(lost) => {
                    let text = format!("too old resource version: {wanted} ({})", lost.floor);
                    let line = watch::error_line(&Failure::expired(text));
                    return Ok(body::json_bytes(StatusCode::OK, line));
                }
            }
        };
        let stream = watch::stream(Watch {
            prefix,
            filter,
            encoder,
            cursor,
            initial: objects.into(),
            mark_initial: initial == Some(true),
            bookmarks,
            timeout: Duration::from_secs(timeout),
            closing: self.closing.clone(),
        });
        Ok(body::typed(StatusCode::OK, "application/json", body::streamed(stream)))
    }
}

/// `sendInitialEvents`, with upstream's rules about what must come with it.
fn initial_events(query: &super::query::Query) -> Result<Option<bool>, Failure> {
    let matching = query.get("resourceVersionMatch");
    let invalid =
        |text: &str| Failure::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {text}"));
    let Some(wanted) = query.get("sendInitialEvents") else {
        return match matching {
            None => Ok(None),
            Some(_) => Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
        };
    };
    if matching != Some("NotOlderThan") {
        return Err(invalid(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let wanted = !matches!(wanted, "false" | "0");
    if wanted && !query.flag("allowWatchBookmarks") {
        return Err(invalid(
            "sendInitialEvents: Forbidden: sendInitialEvents requires setting allowWatchBookmarks to true",
        ));
    }
    Ok(Some(wanted))
}

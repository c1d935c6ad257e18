//! delete and deletecollection: preconditions, grace, finalizers and propagation.

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::encode::{Encoder, ListMeta};
use super::filter::Filter;
use super::status::Failure;
use super::update::may_go;
use super::write::{Refused, parse};
use super::{Api, Call, Target, object, world};
use crate::kinds::{Gvk, Kind, Storage};
use crate::store::Expect;

const DELETE_OPTIONS: Gvk = Gvk { group: "", version: "v1", kind: "DeleteOptions" };

/// What a client says about a deletion.
#[derive(Clone, Debug, Default)]
pub(super) struct DeleteOptions {
    grace: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    version: Option<String>,
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(Failure::new(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: \
                     supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            )),
        }
    }
}

impl DeleteOptions {
    /// From body and query; the body wins.
    pub(super) fn read(call: &Call) -> Result<Self, Failure> {
        let body = call.decode_optional(DELETE_OPTIONS)?.unwrap_or_default();
        let text =
            |path: &[&str]| Some(object::text(&body, path)).filter(|t| !t.is_empty()).map(str::to_owned);
        let policy =
            text(&["propagationPolicy"]).or_else(|| call.query.get("propagationPolicy").map(Into::into));
        let orphan = body["orphanDependents"]
            .as_bool()
            .or_else(|| call.query.get("orphanDependents").map(|text| text != "false"));
        let propagation = match (policy, orphan) {
            (Some(policy), _) => Some(Propagation::parse(&policy)?),
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        };
        let grace = match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => call.query.number("gracePeriodSeconds")?,
        };
        let dry = body["dryRun"].as_array().is_some_and(|list| list.iter().any(|v| v == "All"));
        Ok(Self {
            grace,
            propagation,
            uid: text(&["preconditions", "uid"]),
            version: text(&["preconditions", "resourceVersion"]),
            dry_run: dry || call.dry_run()?,
        })
    }

    /// An immediate or graceful deletion without conditions.
    pub(super) fn with_grace(grace: Option<i64>) -> Self {
        Self { grace, ..Self::default() }
    }
}

/// What a deletion came to.
pub(super) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Value),
    /// It is marked and waits for somebody.
    Marked(Value),
}

impl Api {
    pub(super) async fn delete(&self, call: &Call, target: Target) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let options = DeleteOptions::read(call)?;
        Ok(match self.delete_object(&target, &options).await? {
            Deleted::Marked(value) => encoder.respond_stored(StatusCode::OK, value)?,
            Deleted::Gone(value) if target.kind.returns_deleted => {
                encoder.respond_stored(StatusCode::OK, value)?
            }
            Deleted::Gone(value) => body::json(StatusCode::OK, &success(target.kind, &value)),
        })
    }

    pub(super) async fn delete_collection(
        &self,
        call: &Call,
        target: &Target,
    ) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let options = DeleteOptions::read(call)?;
        let filter = Filter::parse(target.kind, &call.query)?;
        let (revision, objects) = self.select(target, &filter);
        for object in &objects {
            let value = parse(&object.value)?;
            let one = Target {
                namespace: object::namespace(&value).to_owned(),
                name: object::name(&value).to_owned(),
                ..target.clone()
            };
            match self.delete_object(&one, &options).await {
                Ok(_) => {}
                Err(failure) if failure.code == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        let meta = ListMeta { revision, ..ListMeta::default() };
        Ok(body::json_bytes(StatusCode::OK, encoder.list(&objects, &meta)?))
    }

    pub(super) async fn delete_object(
        &self,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Deleted, Failure> {
        let kind = target.kind;
        loop {
            let key = target.key();
            let stored = self.store.get(&key).ok_or_else(|| Failure::not_found(kind, &target.name))?;
            let old = parse(&stored.value)?;
            check(&old, options, target)?;
            (kind.hooks.prepare_delete)(&old)?;
            let new = mark(&old, options, kind, Timestamp::now());
            let gone = may_go(&new, kind);
            if options.dry_run {
                return Ok(if gone { Deleted::Gone(new) } else { Deleted::Marked(new) });
            }
            if !gone && new == old {
                return Ok(Deleted::Marked(old));
            }
            let written = if gone {
                // Watchers and answers show the object as it was, not the mark of an instant.
                let last = if kind.resource == "pods" { new } else { old };
                self.remove(kind, key, stored.revision, last).await
            } else {
                let durable = kind.storage == Storage::Durable;
                self.put(key, Expect::Revision(stored.revision), durable, new).await
            };
            match written {
                Ok(object) if gone => return Ok(Deleted::Gone(parse(&object.value)?)),
                Ok(object) => return Ok(Deleted::Marked(parse(&object.value)?)),
                Err(Refused::Failure(failure)) => return Err(failure),
                Err(Refused::Conflict) => {}
            }
        }
    }
}

fn check(old: &Value, options: &DeleteOptions, target: &Target) -> Result<(), Failure> {
    let conflict = |what: &str, wanted: &str, found: &str| {
        let text =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Failure::conflict(target.kind, &target.name, &text)
    };
    let version = object::text(old, &["metadata", "resourceVersion"]);
    match (&options.uid, &options.version) {
        (Some(uid), _) if uid != object::uid(old) => Err(conflict("UID", uid, object::uid(old))),
        (_, Some(wanted)) if wanted != version => Err(conflict("ResourceVersion", wanted, version)),
        _ => Ok(()),
    }
}

/// The object with what a deletion leaves on it: time, grace and finalizers.
fn mark(old: &Value, options: &DeleteOptions, kind: &Kind, now: Timestamp) -> Value {
    let mut new = old.clone();
    let before = object::at(old, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let deleting = object::is_deleting(old);
    let wanted = grace(old, options, kind);
    let grace = match (deleting, before, options.grace) {
        // A second deletion can only shorten the first.
        (true, Some(before), Some(_)) => before.min(wanted),
        (true, before, _) => before.unwrap_or(0),
        (false, _, _) => wanted,
    };
    let metadata = object::metadata(&mut new);
    if !deleting || before != Some(grace) {
        let at = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
        metadata.insert("deletionTimestamp".into(), world::format_time(at).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        // Only the first deletion changes what is wanted (upstream's BeforeDelete).
        let generation = metadata.get("generation").and_then(Value::as_i64).filter(|_| !deleting);
        if let Some(generation) = generation {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    let mut finalizers: Vec<&str> = object::finalizers(old);
    if let Some(propagation) = options.propagation {
        finalizers.retain(|f| !["orphan", "foregroundDeletion"].contains(f));
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push("foregroundDeletion"),
            Propagation::Orphan => finalizers.push("orphan"),
        }
    }
    let list = (!finalizers.is_empty()).then(|| json!(finalizers));
    object::set(object::metadata(&mut new), "finalizers", list);
    if kind.resource == "namespaces" {
        object::child(&mut new, "status").insert("phase".into(), "Terminating".into());
    }
    new
}

/// Only pods on a node, which have not ended, are waited for.
fn grace(old: &Value, options: &DeleteOptions, kind: &Kind) -> i64 {
    if kind.resource != "pods" {
        return 0;
    }
    let ended = matches!(object::text(old, &["status", "phase"]), "Succeeded" | "Failed");
    if ended || object::text(old, &["spec", "nodeName"]).is_empty() {
        return 0;
    }
    let own = object::at(old, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    match options.grace.or(own).unwrap_or(30) {
        // As upstream: negative means the shortest there is.
        ..0 => 1,
        seconds => seconds,
    }
}

fn success(kind: &Kind, value: &Value) -> Value {
    let mut details = json!({"name": object::name(value), "kind": kind.resource, "uid": object::uid(value)});
    if !kind.gvk.group.is_empty() {
        details["group"] = kind.gvk.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

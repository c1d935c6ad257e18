//! create.

use http::{Response, StatusCode};
use serde_json::Value;

use super::body::Body;
use super::encode::{self, Encoder};
use super::status::Failure;
use super::write::Refused;
use super::{Api, Call, Target, object, world};
use crate::admission::{Causes, Surroundings, meta};
use crate::kinds::{self, Kind, Storage};
use crate::store::Expect;

/// A generated name is a prefix of at most this length and five characters.
const MAX_PREFIX: usize = 58;
/// How many generated names are tried.
const TRIES: usize = 8;
/// How long creation waits for what it needs.
const APPEARS: std::time::Duration = std::time::Duration::from_secs(1);

impl Api {
    pub(super) async fn create(&self, call: &Call, target: Target) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let decoded = call.decode(target.kind.gvk)?;
        let dry_run = call.dry_run()?;
        let mut value = match target.kind.convert {
            Some(convert) => (convert.to_stored)(decoded.value),
            None => decoded.value,
        };
        object::metadata(&mut value).remove("managedFields");
        let stored = self.create_object(&target, value, dry_run).await?;
        let response = encoder.respond_stored(StatusCode::CREATED, stored)?;
        Ok(encode::warn(response, &decoded.warnings))
    }

    /// Creates an object in stored form; everything but decoding and encoding.
    pub(crate) async fn create_object(
        &self,
        target: &Target,
        mut value: Value,
        dry_run: bool,
    ) -> Result<Value, Failure> {
        let kind = target.kind;
        place(&mut value, target)?;
        let generated = object::name(&value)
            .is_empty()
            .then(|| object::text(&value, &["metadata", "generateName"]).to_owned())
            .filter(|prefix| !prefix.is_empty());
        for attempt in 1..=TRIES {
            let mut value = value.clone();
            if let Some(prefix) = &generated {
                let end = prefix.char_indices().nth(MAX_PREFIX).map_or(prefix.len(), |(i, _)| i);
                let name = format!("{}{}", &prefix[..end], self.random_suffix());
                object::metadata(&mut value).insert("name".into(), name.into());
            }
            let name = object::name(&value).to_owned();
            match self.try_create(target, value, dry_run).await {
                Ok(value) => return Ok(value),
                Err(Refused::Failure(failure)) => return Err(failure),
                Err(Refused::Conflict) if generated.is_some() && attempt < TRIES => {}
                Err(Refused::Conflict) => return Err(Failure::already_exists(kind, &name)),
            }
        }
        Err(Failure::already_exists(kind, ""))
    }

    async fn try_create(&self, target: &Target, mut value: Value, dry_run: bool) -> Result<Value, Refused> {
        let kind = target.kind;
        let _serialized = match kind.serialized {
            true => Some(self.allocation.lock().await),
            false => None,
        };
        stamp_new(&mut value, kind, &self.now());
        let name = object::name(&value).to_owned();
        self.check_namespace(target, &name).map_err(Refused::Failure)?;
        (kind.hooks.default)(&mut value);
        self.await_first(kind, &value).await;
        (kind.hooks.prepare_create)(&mut value, self).map_err(Refused::Failure)?;
        let mut causes = Causes::default();
        meta::validate(&value, kind, &mut causes);
        (kind.hooks.validate)(&value, &mut causes);
        (kind.hooks.validate_create)(&value, &mut causes);
        if !causes.is_empty() {
            return Err(Refused::Failure(Failure::invalid(kind, &name, &causes)));
        }
        let key = super::key(kind, &target.namespace, &name);
        if dry_run {
            return if self.store.get(&key).is_some() { Err(Refused::Conflict) } else { Ok(value) };
        }
        let stored = self.put(key, Expect::Absent, kind.storage == Storage::Durable, value).await?;
        super::write::parse(&stored.value).map_err(Refused::Failure)
    }

    /// Gives what this object refers to a moment to appear, as in a namespace that was just created.
    async fn await_first(&self, kind: &Kind, value: &Value) {
        let Some((prefix, name)) = (kind.hooks.awaits)(value) else { return };
        let key = format!("{prefix}/{}/{name}", object::namespace(value));
        let appears = async {
            while self.store.get(&key).is_none() {
                let next = self.store.revision() + 1;
                if !self.store.wait_for(next).await {
                    return;
                }
            }
        };
        // When it never does, the hook that needs it says so.
        drop(tokio::time::timeout(APPEARS, appears).await);
    }

    /// New objects need a namespace that exists and is not going away.
    fn check_namespace(&self, target: &Target, name: &str) -> Result<(), Failure> {
        if !target.kind.namespaced() {
            return Ok(());
        }
        let Some(namespaces) = kinds::find("", "v1", "namespaces") else { return Ok(()) };
        let namespace = &target.namespace;
        let found = Surroundings::get(self, "namespaces", "", namespace)
            .ok_or_else(|| Failure::not_found(namespaces, namespace))?;
        if object::is_deleting(&found) {
            let text = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut failure = Failure::forbidden(target.kind, name, &text);
            if let Some(details) = &mut failure.details {
                details["causes"] = serde_json::json!([{
                    "reason": "NamespaceTerminating", "field": "metadata.namespace",
                    "message": format!("namespace {namespace} is being terminated"),
                }]);
            }
            return Err(failure);
        }
        Ok(())
    }
}

/// Namespace of the path into the object, or a refusal if it names another one.
pub(super) fn place(value: &mut Value, target: &Target) -> Result<(), Failure> {
    let metadata = object::metadata(value);
    if !target.kind.namespaced() {
        metadata.remove("namespace");
        return Ok(());
    }
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !given.is_empty() && given != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata.insert("namespace".into(), target.namespace.as_str().into());
    Ok(())
}

/// What only the server writes into metadata of a new object.
fn stamp_new(value: &mut Value, kind: &Kind, now: &str) {
    let metadata = object::metadata(value);
    for key in [
        "resourceVersion",
        "uid",
        "selfLink",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata.remove(key);
    }
    metadata.insert("uid".into(), world::uuid().into());
    metadata.insert("creationTimestamp".into(), now.into());
    if kind.has_generation {
        metadata.insert("generation".into(), 1.into());
    }
}

//! update, and the common part of everything that changes an existing object.

use http::{Response, StatusCode};
use serde_json::Value;

use super::body::Body;
use super::encode::{self, Encoder};
use super::status::Failure;
use super::write::{Refused, parse};
use super::{Api, Call, Target, create, object};
use crate::admission::{Causes, Surroundings, ephemeral, meta, resize};
use crate::codec::Expected;
use crate::kinds::{Kind, Storage};
use crate::patch::apply::{self, Writer};
use crate::store::Expect;

/// How often a change without resourceVersion is tried against a newer object.
const TRIES: usize = 50;

/// Which part of an object a change may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but status.
    Main,
    /// Status alone.
    Status,
    /// Resources of a pod's containers alone.
    Resize,
    /// Ephemeral containers of a pod alone.
    Ephemeral,
    /// Whatever the caller does (binding, finalize): only metadata is guarded.
    Free,
}

/// How an object is changed and by whom.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    pub(super) part: Part,
    /// Subresource written through, or empty.
    pub(super) subresource: &'static str,
    pub(super) dry_run: bool,
    /// Name under which the change is tracked.
    pub(super) manager: String,
    /// The change is an apply, which brings its own owners.
    pub(super) applies: bool,
}

impl Intent {
    /// What a request means to do.
    pub(super) fn of(call: &Call, part: Part, subresource: &'static str) -> Result<Self, Failure> {
        Ok(Self { part, subresource, dry_run: call.dry_run()?, manager: call.manager(), applies: false })
    }

    /// Names the writer for tracking of fields.
    pub(super) fn writer<'a>(&'a self, kind: &Kind, api_version: &'a str, now: &'a str) -> Writer<'a> {
        let reset: &[&str] = match self.part {
            Part::Main if kind.has_status => &["status"],
            Part::Status => &["spec"],
            Part::Resize | Part::Ephemeral => &["status"],
            Part::Main | Part::Free => &[],
        };
        let expected = Expected { api_version, kind: kind.gvk.kind };
        Writer { expected, manager: &self.manager, subresource: self.subresource, reset, now }
    }
}

impl Api {
    pub(super) async fn update(&self, call: &Call, target: Target) -> Result<Response<Body>, Failure> {
        self.update_part(call, target, Part::Main, "").await
    }

    pub(super) async fn update_part(
        &self,
        call: &Call,
        target: Target,
        part: Part,
        subresource: &'static str,
    ) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let decoded = call.decode(target.kind.gvk)?;
        let mut value = match target.kind.convert {
            Some(convert) => (convert.to_stored)(decoded.value),
            None => decoded.value,
        };
        create::place(&mut value, &target)?;
        check_name(&mut value, &target)?;
        let intent = Intent::of(call, part, subresource)?;
        let stored = self.change(&target, &intent, |_| Ok(value.clone())).await?;
        Ok(encode::warn(encoder.respond_stored(StatusCode::OK, stored)?, &decoded.warnings))
    }

    /// Puts everything but metadata of an object back to what it should be.
    pub(crate) async fn put_back(&self, target: &Target, wanted: &Value) -> Result<(), Failure> {
        let make = |old: &Value| {
            let mut new = old.clone();
            for (key, value) in wanted.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata")
            {
                match value.as_object().filter(|_| new[key].is_object()) {
                    Some(fields) => object::child(&mut new, key).extend(fields.clone()),
                    None => new[key] = value.clone(),
                }
            }
            Ok(new)
        };
        let manager = "orlop".to_owned();
        let intent = Intent { part: Part::Main, subresource: "", dry_run: false, manager, applies: false };
        self.change(target, &intent, make).await.map(drop)
    }

    /// Reads, changes, checks and writes an object until nobody else was in between.
    pub(super) async fn change(
        &self,
        target: &Target,
        intent: &Intent,
        make: impl Fn(&Value) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let kind = target.kind;
        for _ in 0..TRIES {
            let _serialized = match kind.serialized {
                true => Some(self.allocation.lock().await),
                false => None,
            };
            let key = target.key();
            let stored = self.store.get(&key).ok_or_else(|| Failure::not_found(kind, &target.name))?;
            let old = parse(&stored.value)?;
            let mut new = make(&old)?;
            check_preconditions(&new, &old, stored.revision, target)?;
            self.prepare(&mut new, &old, kind, intent.part, &target.name)?;
            self.track(&mut new, &old, kind, intent);
            if apply::same_but_times(&new, &old) {
                return Ok(old);
            }
            let gone = object::is_deleting(&new) && may_go(&new, kind);
            if intent.dry_run {
                return Ok(new);
            }
            let written = if gone {
                self.remove(kind, key, stored.revision, new).await
            } else {
                let durable = kind.storage == Storage::Durable && !(kind.hooks.lazy)(&new, &old);
                self.put(key, Expect::Revision(stored.revision), durable, new).await
            };
            match written {
                Ok(object) => return parse(&object.value),
                Err(Refused::Failure(failure)) => return Err(failure),
                // Against the newer object, a resourceVersion that was given will not hold.
                Err(Refused::Conflict) => {}
            }
        }
        Err(Failure::stale(kind, &target.name))
    }

    /// Whoever owns fields of an object that was applied loses them to whoever changes them. Objects that nobody
    /// applied carry no owners: the first apply gives what it finds to one.
    fn track(&self, new: &mut Value, old: &Value, kind: &Kind, intent: &Intent) {
        let tracked = |object: &Value| object::at(object, &["metadata", "managedFields"]).is_some();
        if intent.applies {
            return;
        }
        if !tracked(old) {
            object::metadata(new).remove("managedFields");
        } else {
            let (api_version, now) = (kind.gvk.api_version(), self.now());
            apply::track_update(Some(old), new, &intent.writer(kind, &api_version, &now));
        }
    }

    fn prepare(
        &self,
        new: &mut Value,
        old: &Value,
        kind: &Kind,
        part: Part,
        name: &str,
    ) -> Result<(), Failure> {
        carry_metadata(new, old);
        match part {
            Part::Free => return Ok(()),
            Part::Status => {
                *new = status_of(new, old, kind);
                return Ok(());
            }
            Part::Resize => *new = resize::merge(new, old),
            Part::Ephemeral => *new = ephemeral::merge(new, old),
            Part::Main => {}
        }
        if kind.has_status {
            let status = old.get("status").cloned();
            object::set(object::map(new), "status", status);
        }
        (kind.hooks.default)(new);
        (kind.hooks.prepare_update)(new, old, self)?;
        if kind.has_generation && new.get("spec") != old.get("spec") {
            let generation =
                object::at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
            object::metadata(new).insert("generation".into(), (generation + 1).into());
        }
        let mut causes = Causes::default();
        meta::validate(new, kind, &mut causes);
        meta::validate_update(new, old, &mut causes);
        (kind.hooks.validate)(new, &mut causes);
        match part {
            Part::Resize => resize::validate(new, old, &mut causes),
            Part::Ephemeral => ephemeral::validate(new, old, &mut causes),
            _ => (kind.hooks.validate_update)(new, old, &mut causes),
        }
        if causes.is_empty() { Ok(()) } else { Err(Failure::invalid(kind, name, &causes)) }
    }
}

/// The name in the body must be the one in the path.
fn check_name(value: &mut Value, target: &Target) -> Result<(), Failure> {
    let name = object::name(value).to_owned();
    if name.is_empty() {
        object::metadata(value).insert("name".into(), target.name.as_str().into());
        return Ok(());
    }
    if name != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// resourceVersion and uid of the new object must be those of the old one, if they are given.
fn check_preconditions(new: &Value, old: &Value, revision: u64, target: &Target) -> Result<(), Failure> {
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        let text = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(old)
        );
        return Err(Failure::conflict(target.kind, &target.name, &text));
    }
    let version = object::text(new, &["metadata", "resourceVersion"]);
    if version.is_empty() {
        return Ok(());
    }
    if version != revision.to_string() {
        return Err(Failure::stale(target.kind, &target.name));
    }
    Ok(())
}

/// Metadata that updates cannot change.
fn carry_metadata(new: &mut Value, old: &Value) {
    let metadata = object::metadata(new);
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
    ] {
        object::set(metadata, key, object::at(old, &["metadata", key]).cloned());
    }
    metadata.remove("selfLink");
    let keys = ["kind", "apiVersion"].map(|key| (key, old.get(key).cloned()));
    for (key, value) in keys {
        object::set(object::map(new), key, value);
    }
}

/// The old object with the status of the new one. Nodes and pods also take labels and annotations this way.
fn status_of(new: &Value, old: &Value, kind: &Kind) -> Value {
    let mut result = old.clone();
    object::set(object::map(&mut result), "status", new.get("status").cloned());
    let managed = object::at(new, &["metadata", "managedFields"]).cloned();
    object::set(object::metadata(&mut result), "managedFields", managed);
    if matches!(kind.resource, "nodes" | "pods") {
        for key in ["labels", "annotations", "finalizers"] {
            object::set(object::metadata(&mut result), key, object::at(new, &["metadata", key]).cloned());
        }
    }
    result
}

/// Whether a deleted object has nothing left to wait for.
pub(super) fn may_go(value: &Value, kind: &Kind) -> bool {
    let grace = object::at(value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let spec_finalizers = object::at(value, &["spec", "finalizers"]).and_then(Value::as_array);
    let held = kind.resource == "namespaces" && spec_finalizers.is_some_and(|list| !list.is_empty());
    object::finalizers(value).is_empty() && grace.unwrap_or(0) == 0 && !held
}

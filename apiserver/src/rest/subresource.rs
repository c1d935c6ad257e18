//! Subresources: which there are, and the small ones. Scale and token have files of their own.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::delete::DeleteOptions;
use super::encode::Encoder;
use super::status::Failure;
use super::update::{Intent, Part};
use super::{Api, Call, Target, object};
use crate::admission::Surroundings;
use crate::kinds::Gvk;

impl Api {
    pub(super) async fn subresource(
        self: &Arc<Self>,
        call: Call,
        verb: &str,
        target: Target,
        name: &str,
    ) -> Result<Response<Body>, Failure> {
        let sub = target.kind.subresource(name).ok_or_else(Failure::no_such_path)?;
        if !sub.verbs.contains(&verb) {
            return Err(Failure::method_not_allowed());
        }
        match (name, verb) {
            ("status", "get") => self.get(&call, &target),
            ("status", "update") => self.update_part(&call, target, Part::Status, "status").await,
            ("status", _) => self.patch_part(&call, target, Part::Status, "status").await,
            ("resize", "get") => self.get(&call, &target),
            ("resize", "update") => self.update_part(&call, target, Part::Resize, "resize").await,
            ("resize", _) => self.patch_part(&call, target, Part::Resize, "resize").await,
            ("ephemeralcontainers", "get") => self.get(&call, &target),
            ("ephemeralcontainers", "update") => {
                self.update_part(&call, target, Part::Ephemeral, "ephemeralcontainers").await
            }
            ("ephemeralcontainers", _) => {
                self.patch_part(&call, target, Part::Ephemeral, "ephemeralcontainers").await
            }
            ("log", _) => self.log(&call, &target).await,
            ("exec" | "attach" | "portforward", _) => self.connect(call, &target, name).await,
            ("proxy", _) => self.proxy(call, &target).await,
            ("scale", _) => self.scale(&call, verb, target).await,
            ("binding", _) => self.bind(&call, target, sub.gvk).await,
            ("eviction", _) => self.evict(&call, target, sub.gvk).await,
            ("token", _) => self.token_request(&call, &target),
            ("finalize", _) => self.finalize(&call, target).await,
            _ => Err(Failure::no_such_path()),
        }
    }

    /// Puts a pod on a node.
    async fn bind(&self, call: &Call, target: Target, gvk: Gvk) -> Result<Response<Body>, Failure> {
        let binding = call.decode(gvk)?.value;
        let node = object::text(&binding, &["target", "name"]);
        if node.is_empty() {
            return Err(Failure::new(422, "Invalid", "Binding \"\" is invalid: target.name: Required value"));
        }
        let now = self.now();
        let annotations =
            object::at(&binding, &["metadata", "annotations"]).and_then(Value::as_object).cloned();
        self.change(&target, &Intent::of(call, Part::Free, "binding")?, |old| {
            let conflict = |text: &str| Failure::conflict(target.kind, &target.name, text);
            if object::is_deleting(old) {
                return Err(conflict(&format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    target.name
                )));
            }
            let present = object::text(old, &["spec", "nodeName"]);
            if !present.is_empty() {
                return Err(conflict(&format!(
                    "pod {} is already assigned to node {present:?}",
                    target.name
                )));
            }
            let uid = object::uid(&binding);
            if !uid.is_empty() && uid != object::uid(old) {
                return Err(conflict(&format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::uid(old)
                )));
            }
            let mut new = old.clone();
            object::child(&mut new, "spec").insert("nodeName".into(), node.into());
            if let Some(annotations) = &annotations {
                let mut metadata = Value::Object(object::metadata(&mut new).clone());
                object::child(&mut metadata, "annotations").extend(annotations.clone());
                object::map(&mut new).insert("metadata".into(), metadata);
            }
            scheduled(&mut new, &now);
            Ok(new)
        })
        .await?;
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(body::json(StatusCode::CREATED, &status))
    }

    /// Deletes a pod as its owner would be asked to; disruption budgets do not exist yet.
    async fn evict(&self, call: &Call, target: Target, gvk: Gvk) -> Result<Response<Body>, Failure> {
        let eviction = call.decode(gvk)?.value;
        let grace = object::at(&eviction, &["deleteOptions", "gracePeriodSeconds"]).and_then(Value::as_i64);
        if !call.dry_run()? {
            self.delete_object(&target, &DeleteOptions::with_grace(grace)).await?;
        }
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(body::json(StatusCode::CREATED, &status))
    }

    /// Takes finalizers off a namespace's spec; the last one ends it.
    async fn finalize(&self, call: &Call, target: Target) -> Result<Response<Body>, Failure> {
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let wanted = call.decode(target.kind.gvk)?.value;
        let stored = self
            .change(&target, &Intent::of(call, Part::Free, "finalize")?, |old| {
                let mut new = old.clone();
                let version = object::at(&wanted, &["metadata", "resourceVersion"]).cloned();
                object::set(object::metadata(&mut new), "resourceVersion", version);
                let finalizers = object::at(&wanted, &["spec", "finalizers"]).cloned();
                object::set(object::child(&mut new, "spec"), "finalizers", finalizers);
                Ok(new)
            })
            .await?;
        encoder.respond_stored(StatusCode::OK, stored)
    }
}

/// Condition `PodScheduled` becomes true.
fn scheduled(pod: &mut Value, now: &str) {
    let status = object::child(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    list.retain(|c| c["type"] != "PodScheduled");
    list.push(json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
    }));
}

//! patch: the change comes as JSON patch, merge patch or strategic merge patch.

use http::{Response, StatusCode};
use serde_json::Value;

use super::applying::is_apply;
use super::body::Body;
use super::encode::{self, Encoder};
use super::status::Failure;
use super::update::{Intent, Part};
use super::{Api, Call, Target, create};
use crate::codec::{Decoded, Expected, FieldValidation};
use crate::kinds::Gvk;
use crate::patch::{self, PatchError, PatchType};
use crate::schema::SchemaSet;

/// What subresources with bodies of their own take.
const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A patch whose type is known but which was not applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch<'a> {
    kind: PatchType,
    body: &'a [u8],
    gvk: Gvk,
    validation: FieldValidation,
}

impl<'a> Patch<'a> {
    /// Reads what the request says about its body, which changes an object of `gvk`.
    pub(super) fn read(call: &'a Call, gvk: Gvk) -> Result<Self, Failure> {
        let strategic = SchemaSet::builtin().lookup(&gvk.api_version(), gvk.kind).is_some();
        let kind =
            PatchType::from_content_type(call.content_type(), strategic).map_err(|e| failure(&e, gvk))?;
        if kind == PatchType::Apply {
            return Err(Failure::unsupported_media_type(ACCEPTED));
        }
        Ok(Self { kind, body: &call.body, gvk, validation: call.validation()? })
    }

    /// The object as it is after the patch.
    pub(super) fn apply(&self, old: &Value) -> Result<Decoded, Failure> {
        let api_version = self.gvk.api_version();
        let expected = Expected { api_version: &api_version, kind: self.gvk.kind };
        patch::apply_patch(old, self.body, self.kind, expected, self.validation)
            .map_err(|e| failure(&e, self.gvk))
    }
}

fn failure(error: &PatchError, gvk: Gvk) -> Failure {
    let mut failure = Failure::new(error.code(), error.reason(), error.to_string());
    if let PatchError::Invalid { .. } = error {
        let group = if gvk.group.is_empty() { String::new() } else { format!(".{}", gvk.group) };
        failure.message = format!("{}{group}{error}", gvk.kind);
        failure.details = Some(serde_json::json!({
            "group": gvk.group, "kind": gvk.kind,
            "causes": [{"reason": "FieldValueInvalid", "field": "patch", "message": error.cause_message()}],
        }));
    }
    failure
}

impl Api {
    pub(super) async fn patch(&self, call: &Call, target: Target) -> Result<Response<Body>, Failure> {
        self.patch_part(call, target, Part::Main, "").await
    }

    pub(super) async fn patch_part(
        &self,
        call: &Call,
        target: Target,
        part: Part,
        subresource: &'static str,
    ) -> Result<Response<Body>, Failure> {
        if is_apply(call) {
            return self.apply(call, target, part, subresource).await;
        }
        let encoder = Encoder::new(target.kind, call.form, &call.query)?;
        let patch = Patch::read(call, target.kind.gvk)?;
        let warnings = std::sync::Mutex::new(Vec::new());
        let stored = self
            .change(&target, &Intent::of(call, part, subresource)?, |old| {
                let old = match target.kind.convert {
                    Some(convert) => (convert.from_stored)(old.clone()),
                    None => old.clone(),
                };
                let decoded = patch.apply(&old)?;
                *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = decoded.warnings;
                let mut new = match target.kind.convert {
                    Some(convert) => (convert.to_stored)(decoded.value),
                    None => decoded.value,
                };
                create::place(&mut new, &target)?;
                Ok(new)
            })
            .await?;
        let warnings = warnings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(encode::warn(encoder.respond_stored(StatusCode::OK, stored)?, &warnings))
    }
}

//! patch as server-side apply: merges a configuration into what is there, or creates it.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::encode::{self, Encoder};
use super::status::Failure;
use super::update::{Intent, Part};
use super::{Api, Call, Target, create, object};
use crate::admission::Surroundings;
use crate::patch::apply::{self, ApplyError, Writer};

/// Whether a patch says that it is one.
pub(super) fn is_apply(call: &Call) -> bool {
    let essence = call.content_type().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence == "application/apply-patch+yaml"
}

impl Api {
    pub(super) async fn apply(
        &self,
        call: &Call,
        target: Target,
        part: Part,
        subresource: &'static str,
    ) -> Result<Response<Body>, Failure> {
        let kind = target.kind;
        let encoder = Encoder::new(kind, call.form, &call.query)?;
        if call.query.get("fieldManager").is_none() {
            return Err(Failure::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let intent = Intent { applies: true, ..Intent::of(call, part, subresource)? };
        let (force, now, api_version) = (call.query.flag("force"), self.now(), kind.gvk.api_version());
        let writer = intent.writer(kind, &api_version, &now);
        let (mut config, warnings) =
            apply::read_config(&call.body, &writer, call.validation()?).map_err(|e| refused(&e))?;
        create::place(&mut config, &target)?;
        let name = object::name(&config);
        if !name.is_empty() && name != target.name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        object::metadata(&mut config).insert("name".into(), target.name.as_str().into());
        let merge = |live: Option<&Value>| merge(live, &config, force, &writer, &target);
        let (code, stored) = match self.change(&target, &intent, |old| merge(Some(old))).await {
            Err(failure) if failure.code == 404 && part == Part::Main => {
                let created = self.create_object(&target, merge(None)?, intent.dry_run).await?;
                (StatusCode::CREATED, created)
            }
            other => (StatusCode::OK, other?),
        };
        Ok(encode::warn(encoder.respond_stored(code, stored)?, &warnings))
    }
}

/// Merges in the form of the kind that was asked for.
fn merge(
    live: Option<&Value>,
    config: &Value,
    force: bool,
    writer: &Writer<'_>,
    target: &Target,
) -> Result<Value, Failure> {
    let convert = target.kind.convert;
    let live = live.map(|live| convert.map_or_else(|| live.clone(), |c| (c.from_stored)(live.clone())));
    let merged = apply::apply(live.as_ref(), config, force, writer).map_err(|e| refused(&e))?;
    Ok(convert.map_or_else(|| merged.clone(), |c| (c.to_stored)(merged.clone())))
}

fn refused(error: &ApplyError) -> Failure {
    let mut failure = Failure::new(error.code(), error.reason(), error.to_string());
    if let ApplyError::Conflict(conflict) = error {
        let causes: Vec<Value> = conflict
            .causes
            .iter()
            .map(|c| json!({"reason": "FieldManagerConflict", "message": c.message, "field": c.field}))
            .collect();
        failure.details = Some(json!({"causes": causes}));
    }
    failure
}

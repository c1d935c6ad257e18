//! Manifests that do not come over the API: the same decoding, defaults and rules, without a server.
//!
//! For a node's own files. Nothing is looked up in a store: what only a server can decide (names, addresses, accounts)
//! stays as it was written.

use serde_json::Value;

use crate::admission::{Causes, apparmor, meta};
use crate::codec::{self, Expected};
use crate::kinds;

/// The object as the API server would store it, in upstream's defaults.
///
/// # Errors
/// In upstream's words: fields that do not exist or do not fit, and values that break a rule.
pub fn admit(object: &Value) -> Result<Value, String> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let row = kinds::find_kind(group, version, kind)
        .ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?;
    let (mut value, findings) = codec::conform(object, Expected { api_version, kind })?;
    if !findings.is_empty() {
        return Err(codec::strict_error(&findings));
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".into(), api_version.into());
        fields.insert("kind".into(), kind.into());
    }
    (row.hooks.default)(&mut value);
    if kind == "Pod" {
        apparmor::say_both_ways(&mut value);
    }
    let mut causes = Causes::default();
    meta::validate(&value, row, &mut causes);
    (row.hooks.validate)(&value, &mut causes);
    (row.hooks.validate_create)(&value, &mut causes);
    if causes.is_empty() {
        return Ok(value);
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    Err(format!("{kind} {name:?} is invalid: {}", causes.text()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(manifest: &str, expected: Expect) {
        let value = serde_norway::from_str(manifest).unwrap();
        expected.assert_eq(&admit(&value).map_or_else(|error| error, |value| value["spec"].to_string()));
    }

    #[test]
    fn a_pod_gets_defaults() {
        check(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}",
            expect![[
                r#"{"containers":[{"image":"i","imagePullPolicy":"Always","name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}"#
            ]],
        );
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        check(
            "{apiVersion: v1, kind: Pod, metadata: {name: P}, spec: {containers: [{name: c}]}}",
            expect![[
                r#"Pod "P" is invalid: [metadata.name: Invalid value: "P": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.containers[0].image: Required value]"#
            ]],
        );
        check(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, prots: []}]}}",
            expect![[r#"strict decoding error: unknown field "spec.containers[0].prots""#]],
        );
        check(
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: 1}}",
            expect![
                "json: cannot unmarshal number into Go struct field PodSpec.spec.containers of type []v1.Container"
            ],
        );
        check(
            "{apiVersion: v1, kind: Prod, metadata: {name: p}}",
            expect![[r#"no matches for kind "Prod" in version "v1""#]],
        );
        check(
            "{apiVersion: apps/v2, kind: Deployment}",
            expect![[r#"no matches for kind "Deployment" in version "apps/v2""#]],
        );
    }

    #[test]
    fn words_of_a_secret_become_bytes() {
        let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}";
        let secret = admit(&serde_norway::from_str(secret).unwrap()).unwrap();
        assert_eq!((&secret["data"]["a"], &secret["type"]), (&"Yg==".into(), &"Opaque".into()));
    }
}

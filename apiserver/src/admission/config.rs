//! ConfigMaps and Secrets: keys, sizes and immutability.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orlop_model::names;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::or_text;
use crate::kinds::Hooks;
use crate::rest::object;

/// Code of config maps.
pub const CONFIG_MAP: Hooks = Hooks {
    validate: |map, causes| validate(map, &["data", "binaryData"], causes),
    validate_update: |new, old, causes| immutable(new, old, &["data", "binaryData"], causes),
    ..Hooks::NONE
};

/// Code of secrets.
pub const SECRET: Hooks = Hooks {
    default: default_secret,
    validate: |secret, causes| {
        validate(secret, &["data"], causes);
        of_type(secret, causes);
    },
    validate_update: update_secret,
    ..Hooks::NONE
};

const MAX_BYTES: usize = 1 << 20;

/// `stringData` is a way to write `data`.
fn default_secret(secret: &mut Value) {
    let fields = object::map(secret);
    or_text(fields, "type", "Opaque");
    let Some(Value::Object(strings)) = fields.remove("stringData") else { return };
    let data = object::map(fields.entry("data").or_insert_with(|| json!({})));
    for (key, value) in strings {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
}

fn validate(object: &Value, maps: &[&str], causes: &mut Causes) {
    let mut size = 0;
    for map in maps {
        for (key, value) in object[*map].as_object().into_iter().flatten() {
            for error in names::config_key_errors(key) {
                causes.invalid(format!("{map}[{key}]"), &key.as_str().into(), &error);
            }
            if *map == "binaryData" && object["data"].get(key).is_some() {
                causes.invalid(
                    format!("data[{key}]"),
                    &key.as_str().into(),
                    "duplicate of key present in binaryData",
                );
            }
            let text = value.as_str().unwrap_or_default();
            // Three bytes to four characters, but for plain text.
            let plain = *map == "data" && object["kind"] == "ConfigMap";
            size += if plain { text.len() } else { text.len() / 4 * 3 };
        }
    }
    if size > MAX_BYTES {
        causes.too_long(
            maps.first().copied().unwrap_or_default(),
            &format!("may not be more than {MAX_BYTES} bytes"),
        );
    }
}

/// What users of a type of secret rely on.
fn of_type(secret: &Value, causes: &mut Causes) {
    let data = &secret["data"];
    let require = |keys: &[&str], causes: &mut Causes| {
        for key in keys.iter().filter(|key| data.get(**key).is_none()) {
            causes.required(format!("data[{key}]"), "");
        }
    };
    match secret["type"].as_str().unwrap_or_default() {
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"], causes),
        "kubernetes.io/ssh-auth" => require(&["ssh-privatekey"], causes),
        "kubernetes.io/basic-auth" if ["username", "password"].iter().all(|key| data.get(key).is_none()) => {
            require(&["username", "password"], causes);
        }
        "kubernetes.io/dockerconfigjson" => registries(data, ".dockerconfigjson", causes),
        "kubernetes.io/dockercfg" => registries(data, ".dockercfg", causes),
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let account = secret["metadata"]["annotations"][ACCOUNT].as_str().unwrap_or_default();
            if account.is_empty() {
                causes.required(format!("metadata.annotations[{ACCOUNT}]"), "");
            }
        }
        _ => {}
    }
}

/// Credentials for registries, in JSON; what is wrong is told without showing them.
fn registries(data: &Value, key: &str, causes: &mut Causes) {
    let field = format!("data[{key}]");
    let Some(text) = data[key].as_str() else { return causes.required(field, "") };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        causes.invalid(field, &"<secret contents redacted>".into(), &error.to_string());
    }
}

fn update_secret(new: &Value, old: &Value, causes: &mut Causes) {
    if new["type"] != old["type"] {
        causes.invalid("type", &new["type"], "field is immutable");
    }
    immutable(new, old, &["data"], causes);
}

fn immutable(new: &Value, old: &Value, maps: &[&str], causes: &mut Causes) {
    if old["immutable"] != true {
        return;
    }
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        causes.forbidden("immutable", DETAIL);
    }
    for map in maps {
        if new[*map] != old[*map] {
            causes.forbidden(*map, DETAIL);
        }
    }
}

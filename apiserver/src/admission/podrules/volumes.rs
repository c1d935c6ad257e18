//! Volumes, and where containers mount them.

use orlop_model::quantities::Quantity;
use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};
use super::super::storage;
use super::env::{self, Asker};

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: &[&str] = &["Disabled", "Enabled", "IfPossible"];
const BACKSTEP: &str = "must not contain '..'";
/// Tokens live at least ten minutes, and no longer than this.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// The source of a volume.
pub(super) fn source(volume: &Value, field: &str, causes: &mut Causes) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
    if sources.is_empty() {
        causes.required(field, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        causes.forbidden(format!("{field}.{extra}"), "may not specify more than 1 volume type");
    }
    let named = [
        ("secret", "secretName"),
        ("configMap", "name"),
        ("hostPath", "path"),
        ("persistentVolumeClaim", "claimName"),
        ("csi", "driver"),
    ];
    for (source, key) in named {
        if volume.get(source).is_some_and(|s| text(s, key).is_empty()) {
            causes.required(format!("{field}.{source}.{key}"), "");
        }
    }
    if let Some(host) = volume.get("hostPath") {
        no_backsteps(text(host, "path"), &format!("{field}.hostPath.path"), causes);
        let kind = text(host, "type");
        if !HOST_PATH_TYPES.contains(&kind) {
            causes.not_supported(format!("{field}.hostPath.type"), &kind.into(), HOST_PATH_TYPES);
        }
    }
    if let Some(ephemeral) = volume.get("ephemeral") {
        let field = format!("{field}.ephemeral.volumeClaimTemplate");
        match ephemeral.get("volumeClaimTemplate") {
            None => causes.required(field, ""),
            Some(template) => storage::claim_spec(&template["spec"], &format!("{field}.spec"), causes),
        }
    }
    if let Some(image) = volume.get("image") {
        // Templates may leave it to whoever makes pods from them.
        if text(image, "reference").is_empty() && field.starts_with("spec.volumes[") {
            causes.required(format!("{field}.image.reference"), "");
        }
        super::one_of(image, "pullPolicy", &format!("{field}.image"), super::PULL_POLICIES, causes);
    }
    let limit = volume["emptyDir"]["sizeLimit"].as_str().and_then(|text| Quantity::parse(text).ok());
    if limit.is_some_and(|limit| limit.milli() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        causes.forbidden(format!("{field}.emptyDir.sizeLimit"), detail);
    }
    for name in ["configMap", "secret"] {
        if let Some(found) = volume.get(name) {
            let field = format!("{field}.{name}");
            mode(&found["defaultMode"], &format!("{field}.defaultMode"), causes);
            keys(found, &field, causes);
        }
    }
    if let Some(found) = volume.get("downwardAPI") {
        let field = format!("{field}.downwardAPI");
        mode(&found["defaultMode"], &format!("{field}.defaultMode"), causes);
        downward(found, &field, causes);
    }
    if let Some(found) = volume.get("projected") {
        projected(found, &format!("{field}.projected"), causes);
    }
}

fn projected(volume: &Value, at: &str, causes: &mut Causes) {
    mode(&volume["defaultMode"], &format!("{at}.defaultMode"), causes);
    for (i, source) in items(volume, "sources").iter().enumerate() {
        let field = format!("{at}.sources[{i}]");
        if source.as_object().is_some_and(|source| source.len() > 1) {
            causes.forbidden(field.clone(), "may not specify more than 1 volume type per source");
        }
        for name in ["configMap", "secret"] {
            if let Some(found) = source.get(name) {
                let field = format!("{field}.{name}");
                if text(found, "name").is_empty() {
                    causes.required(format!("{field}.name"), "");
                }
                keys(found, &field, causes);
            }
        }
        if let Some(found) = source.get("downwardAPI") {
            downward(found, &format!("{field}.downwardAPI"), causes);
        }
        if let Some(token) = source.get("serviceAccountToken") {
            let field = format!("{field}.serviceAccountToken");
            let seconds = &token["expirationSeconds"];
            match seconds.as_i64() {
                Some(given) if given < *TOKEN_SECONDS.start() => {
                    let detail = "may not specify a duration less than 10 minutes";
                    causes.invalid(format!("{field}.expirationSeconds"), seconds, detail);
                }
                Some(given) if given > *TOKEN_SECONDS.end() => {
                    let detail = "may not specify a duration larger than 2^32 seconds";
                    causes.invalid(format!("{field}.expirationSeconds"), seconds, detail);
                }
                _ => {}
            }
            path(text(token, "path"), &format!("{field}.path"), causes);
        }
    }
}

/// Which keys of a ConfigMap or Secret become which files.
fn keys(source: &Value, at: &str, causes: &mut Causes) {
    for (i, item) in items(source, "items").iter().enumerate() {
        let field = format!("{at}.items[{i}]");
        if text(item, "key").is_empty() {
            causes.required(format!("{field}.key"), "");
        }
        path(text(item, "path"), &format!("{field}.path"), causes);
        mode(&item["mode"], &format!("{field}.mode"), causes);
    }
}

fn downward(source: &Value, at: &str, causes: &mut Causes) {
    for (i, item) in items(source, "items").iter().enumerate() {
        let field = format!("{at}.items[{i}]");
        path(text(item, "path"), &format!("{field}.path"), causes);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(reference), resource) => {
                env::field_ref(reference, &format!("{field}.fieldRef"), Asker::File, causes);
                if resource.is_some() {
                    let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    causes.invalid(field.clone(), &"resource".into(), detail);
                }
            }
            (None, Some(reference)) => {
                env::resource_ref(reference, &format!("{field}.resourceFieldRef"), Asker::File, causes);
            }
            (None, None) => {
                causes.required(field.clone(), "one of fieldRef and resourceFieldRef is required");
            }
        }
        mode(&item["mode"], &format!("{field}.mode"), causes);
    }
}

/// `volumeMounts` of a container; `volumes` are the names there are.
pub(super) fn mounts(container: &Value, at: &str, volumes: &[&str], causes: &mut Causes) {
    let mut paths: Vec<&str> = Vec::new();
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        let field = format!("{at}.volumeMounts[{i}]");
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else if !volumes.contains(&name) {
            causes.not_found(format!("{field}.name"), &name.into());
        }
        if path.is_empty() {
            causes.required(format!("{field}.mountPath"), "");
        } else if paths.contains(&path) {
            causes.invalid(format!("{field}.mountPath"), &path.into(), "must be unique");
        }
        paths.push(path);
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        descending(sub, &format!("{field}.subPath"), causes);
        if !expression.is_empty() && !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            causes.invalid(format!("{field}.subPathExpr"), &expression.into(), detail);
        }
        descending(expression, &format!("{field}.subPathExpr"), causes);
        propagation(text(mount, "mountPropagation"), container, &format!("{field}.mountPropagation"), causes);
        recursive_read_only(mount, &format!("{field}.recursiveReadOnly"), causes);
    }
}

/// `volumeDevices` of a container.
pub(super) fn devices(container: &Value, at: &str, volumes: &[&str], causes: &mut Causes) {
    let mounted = |key: &str, value: &str| {
        items(container, "volumeMounts").iter().any(|mount| text(mount, key) == value)
    };
    let mut seen: (Vec<&str>, Vec<&str>) = Default::default();
    for (i, device) in items(container, "volumeDevices").iter().enumerate() {
        let field = format!("{at}.volumeDevices[{i}]");
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else if !volumes.contains(&name) {
            causes.not_found(format!("{field}.name"), &name.into());
        } else if seen.0.contains(&name) {
            causes.invalid(format!("{field}.name"), &name.into(), "must be unique");
        }
        if mounted("name", name) && !name.is_empty() {
            causes.invalid(format!("{field}.name"), &name.into(), "must not already exist in volumeMounts");
        }
        let field = format!("{field}.devicePath");
        if path.is_empty() {
            causes.required(field, "");
        } else if seen.1.contains(&path) {
            causes.invalid(field, &path.into(), "must be unique");
        } else if mounted("mountPath", path) {
            causes.invalid(field, &path.into(), "must not already exist as a path in volumeMounts");
        } else {
            no_backsteps(path, &field, causes);
        }
        seen.0.push(name);
        seen.1.push(path);
    }
}

fn propagation(given: &str, container: &Value, field: &str, causes: &mut Causes) {
    if given == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        causes.forbidden(field, detail);
    } else if !given.is_empty() && !PROPAGATIONS.contains(&given) {
        causes.not_supported(field, &given.into(), PROPAGATIONS);
    }
}

fn recursive_read_only(mount: &Value, field: &str, causes: &mut Causes) {
    match text(mount, "recursiveReadOnly") {
        "" | "Disabled" => {}
        "IfPossible" | "Enabled" => {
            if mount["readOnly"] != true {
                causes.forbidden(field, "may only be specified when readOnly is true");
            }
            if !matches!(text(mount, "mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                causes.forbidden(field, detail);
            }
        }
        other => causes.not_supported(field, &other.into(), RECURSIVE_READ_ONLY),
    }
}

/// A file of a volume: below it, and not one of the names that the atomic writer uses.
fn path(path: &str, field: &str, causes: &mut Causes) {
    if path.is_empty() {
        return causes.required(field, "");
    }
    descending(path, field, causes);
    if path.starts_with("..") && !path.split('/').any(|part| part == "..") {
        causes.invalid(field, &path.into(), "must not start with '..'");
    }
}

/// A relative path that leads nowhere up.
pub(super) fn descending(path: &str, field: &str, causes: &mut Causes) {
    if path.starts_with('/') {
        causes.invalid(field, &path.into(), "must be a relative path");
    }
    no_backsteps(path, field, causes);
}

fn no_backsteps(path: &str, field: &str, causes: &mut Causes) {
    if path.split('/').any(|part| part == "..") {
        causes.invalid(field, &path.into(), BACKSTEP);
    }
}

fn mode(mode: &Value, field: &str, causes: &mut Causes) {
    if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        causes.invalid(field, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

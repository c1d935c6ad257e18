//! Security contexts of pods and containers.

use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};
use super::volumes::descending;

const IDS: &str = "must be between 0 and 2147483647, inclusive";
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const APPARMOR_MISSING: &str = "must be set when AppArmor type is Localhost";
const APPARMOR_LONGEST: usize = 4095;
const PROC_MOUNTS: &[&str] = &["Default", "Unmasked"];
const SYSCTL: &str = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// A container's.
pub(super) fn of_container(container: &Value, spec: &Value, at: &str, causes: &mut Causes) {
    let Some(context) = container.get("securityContext").filter(|context| !context.is_null()) else { return };
    let at = format!("{at}.securityContext");
    for key in ["runAsUser", "runAsGroup"] {
        id(&context[key], &format!("{at}.{key}"), causes);
    }
    seccomp(&context["seccompProfile"], &format!("{at}.seccompProfile"), causes);
    apparmor(&context["appArmorProfile"], &format!("{at}.appArmorProfile"), causes);
    let proc_mount = text(context, "procMount");
    if !proc_mount.is_empty() && !PROC_MOUNTS.contains(&proc_mount) {
        causes.not_supported(format!("{at}.procMount"), &proc_mount.into(), PROC_MOUNTS);
    } else if proc_mount == "Unmasked" && spec["hostUsers"] != false {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        causes.invalid(format!("{at}.procMount"), &proc_mount.into(), detail);
    }
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            causes.invalid(at.clone(), context, detail);
        }
        if items(&context["capabilities"], "add").iter().any(|name| name == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            causes.invalid(at, context, detail);
        }
    }
}

/// The pod's, and its namespaces.
pub(super) fn of_pod(spec: &Value, at: &str, causes: &mut Causes) {
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.invalid(format!("{at}.shareProcessNamespace"), &true.into(), detail);
    }
    if spec["hostUsers"] == false {
        own_users(spec, at, causes);
    }
    let context = &spec["securityContext"];
    let at = format!("{at}.securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[key], &format!("{at}.{key}"), causes);
    }
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        id(group, &format!("{at}.supplementalGroups[{i}]"), causes);
    }
    seccomp(&context["seccompProfile"], &format!("{at}.seccompProfile"), causes);
    apparmor(&context["appArmorProfile"], &format!("{at}.appArmorProfile"), causes);
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in items(context, "sysctls").iter().enumerate() {
        let (field, name) = (format!("{at}.sysctls[{i}].name"), text(sysctl, "name"));
        if name.is_empty() {
            causes.required(field, "");
        } else if !is_sysctl(name) {
            causes.invalid(field, &name.into(), SYSCTL);
        } else if seen.contains(&name) {
            causes.duplicate(field, &name.into());
        } else {
            seen.push(name);
        }
    }
}

/// A user namespace of its own goes with no other namespace of the host, and with no device.
fn own_users(spec: &Value, at: &str, causes: &mut Causes) {
    let detail = "when `hostUsers` is false";
    for key in ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|key| spec[*key] == true) {
        causes.forbidden(format!("{at}.{key}"), detail);
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            if !items(container, "volumeDevices").is_empty() {
                causes.forbidden(format!("{at}.{list}[{i}].volumeDevices"), detail);
            }
        }
    }
}

fn id(id: &Value, field: &str, causes: &mut Causes) {
    if id.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        causes.invalid(field, id, IDS);
    }
}

fn seccomp(profile: &Value, at: &str, causes: &mut Causes) {
    if profile.is_null() {
        return;
    }
    let (kind, local) = (text(profile, "type"), &profile["localhostProfile"]);
    let field = format!("{at}.localhostProfile");
    match (kind, local.as_str()) {
        ("Localhost", None) => causes.required(field, "must be set when seccomp type is Localhost "),
        ("Localhost", Some(path)) => descending(path, &field, causes),
        (_, Some(_)) => causes.invalid(field, local, "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
    if kind.is_empty() {
        causes.required(format!("{at}.type"), "type is required when seccompProfile is set");
    } else if !PROFILE_TYPES.contains(&kind) {
        causes.not_supported(format!("{at}.type"), &kind.into(), PROFILE_TYPES);
    }
}

fn apparmor(profile: &Value, at: &str, causes: &mut Causes) {
    if profile.is_null() {
        return;
    }
    let (kind, local) = (text(profile, "type"), &profile["localhostProfile"]);
    let field = format!("{at}.localhostProfile");
    let name = local.as_str();
    match (kind, name) {
        ("Localhost", None) => causes.required(field, APPARMOR_MISSING),
        ("Localhost", Some(name)) if name.trim() != name => {
            causes.invalid(field, local, "must not be padded with whitespace");
        }
        ("Localhost", Some("")) => causes.required(field, APPARMOR_MISSING),
        ("Localhost", Some(name)) if name.len() > APPARMOR_LONGEST => {
            causes.too_long(field, &format!("may not be more than {APPARMOR_LONGEST} bytes"));
        }
        ("RuntimeDefault" | "Unconfined", Some(_)) => {
            causes.invalid(field, local, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
    if kind.is_empty() {
        causes.required(format!("{at}.type"), "type is required when appArmorProfile is set");
    } else if !PROFILE_TYPES.contains(&kind) {
        causes.not_supported(format!("{at}.type"), &kind.into(), PROFILE_TYPES);
    }
}

/// Words of lower case, digits, `-` and `_`, joined by dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let word = |word: &str| {
        let bytes = word.as_bytes();
        let ends = bytes.first().is_some_and(|b| end(*b)) && bytes.last().is_some_and(|b| end(*b));
        ends && bytes.iter().all(|b| end(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(word)
}

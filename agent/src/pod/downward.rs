//! The downward API: fields and resources of a pod as text.
//!
//! Used by environment variables and by volumes; what only volumes may ask for is in [`volume_field`].

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector};
use orlop_model::quantities::Quantity;

use super::{resources, settings::Settings};

/// The value of a field for an environment variable. `pod_ips` are the addresses as they are now.
pub fn env_field(
    settings: &Settings,
    pod: &Pod,
    pod_ips: &[IpAddr],
    field: &ObjectFieldSelector,
) -> Result<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let spec = pod.spec.as_ref();
    let meta = &pod.metadata;
    Ok(match field.field_path.as_str() {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "spec.nodeName" => settings.node_name.clone(),
        "spec.serviceAccountName" => spec.map(|spec| text(&spec.service_account_name)).unwrap_or_default(),
        "status.hostIP" => join(settings.node_ips.get(..1).unwrap_or_default()),
        "status.hostIPs" => join(&settings.node_ips),
        "status.podIP" => join(pod_ips.get(..1).unwrap_or_default()),
        "status.podIPs" => join(pod_ips),
        path => {
            let entry = keyed(path, "metadata.labels", meta.labels.as_ref())
                .or_else(|| keyed(path, "metadata.annotations", meta.annotations.as_ref()));
            return entry.ok_or_else(|| format!("unsupported fieldPath: {path}"));
        }
    })
}

/// The value of a field for a file: also whole labels and annotations.
pub fn volume_field(
    settings: &Settings,
    pod: &Pod,
    pod_ips: &[IpAddr],
    field: &ObjectFieldSelector,
) -> Result<String, String> {
    match field.field_path.as_str() {
        "metadata.labels" => Ok(lines(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(pod.metadata.annotations.as_ref())),
        _ => env_field(settings, pod, pod_ips, field),
    }
}

/// `metadata.labels['k']`.
fn keyed(path: &str, prefix: &str, map: Option<&BTreeMap<String, String>>) -> Option<String> {
    let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
    Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
}

/// Sorted lines `key="escaped value"`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// As Go's `%q` prints a string.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of `requests.cpu` and the like, in units of the divisor, rounded up. An unset limit is what the node
/// can give.
pub fn resource(
    settings: &Settings,
    pod: &Pod,
    container: &str,
    field: &ResourceFieldSelector,
) -> Result<String, String> {
    let container = field.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container);
    let spec = pod.spec.as_ref();
    let mut all =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let found =
        all.find(|c| c.name == container).ok_or_else(|| format!("container {container} not found"))?;
    let (kind, name) =
        field.resource.split_once('.').ok_or_else(|| format!("unsupported resource: {}", field.resource))?;
    let wanted = found.resources.as_ref();
    let amounts = match kind {
        "limits" => wanted.and_then(|r| r.limits.as_ref()),
        "requests" => wanted.and_then(|r| r.requests.as_ref()),
        _ => return Err(format!("unsupported resource: {}", field.resource)),
    };
    let set = amounts.is_some_and(|amounts| amounts.contains_key(name));
    let (milli, whole) = (resources::milli(amounts, name), resources::value(amounts, name));
    let allocatable = &settings.allocatable;
    let milli_value = match (name, kind, set) {
        ("cpu", "limits", false) => i128::from(allocatable.cpu_milli),
        ("memory", "limits", false) => i128::from(allocatable.memory) * 1000,
        ("ephemeral-storage", "limits", false) => i128::from(allocatable.ephemeral_storage) * 1000,
        ("cpu", ..) => i128::from(milli),
        _ => i128::from(whole) * 1000,
    };
    let divisor = field.divisor.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map_or(0, |q| q.milli());
    let divisor = if divisor == 0 { 1000 } else { divisor };
    Ok(((milli_value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_as_sorted_escaped_lines() {
        let map = [("z", "1"), ("note", "x \"q\"\nline")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(lines(Some(&map.into())), "note=\"x \\\"q\\\"\\nline\"\nz=\"1\"");
    }

    #[test]
    fn resources_round_up_and_fall_back_to_the_node() {
        let pod: Pod = serde_norway::from_str(
            "{spec: {containers: [{name: c, resources: {limits: {cpu: 250m, memory: 65Mi}}}, {name: d}]}}",
        )
        .unwrap();
        let settings = Settings::for_tests();
        let value = |container: &str, name: &str, divisor: &str| {
            let field = ResourceFieldSelector {
                resource: name.into(),
                divisor: (!divisor.is_empty())
                    .then(|| k8s_openapi::apimachinery::pkg::api::resource::Quantity(divisor.into())),
                ..ResourceFieldSelector::default()
            };
            resource(&settings, &pod, container, &field).unwrap()
        };
        assert_eq!(value("c", "limits.cpu", ""), "1");
        assert_eq!(value("c", "limits.cpu", "1m"), "250");
        assert_eq!(value("c", "limits.memory", ""), "68157440");
        assert_eq!(value("c", "limits.memory", "1Mi"), "65");
        assert_eq!(value("d", "limits.cpu", ""), "2");
        assert_eq!(value("d", "requests.memory", ""), "0");
    }
}

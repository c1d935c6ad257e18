//! Groups, versions and resources, in the old form (one document per group version) and the aggregated one.
//!
//! Order is meaning: clients take the first version of a group as the preferred one.

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Subresource};

/// Groups in the order of the rows, each with its versions.
fn groups(kinds: &[Kind]) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in kinds {
        match groups.iter_mut().find(|(group, _)| *group == kind.gvk.group) {
            Some((_, versions)) if versions.contains(&kind.gvk.version) => {}
            Some((_, versions)) => versions.push(kind.gvk.version),
            None => groups.push((kind.gvk.group, vec![kind.gvk.version])),
        }
    }
    groups
}

/// Every group version, in order.
pub(super) fn group_versions(kinds: &[Kind]) -> Vec<(&'static str, &'static str)> {
    groups(kinds).into_iter().flat_map(|(g, versions)| versions.into_iter().map(move |v| (g, v))).collect()
}

/// `api/v1`, `apis/apps/v1`.
pub(super) fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `GET /api`.
pub(super) fn api_versions(kinds: &[Kind], address: &str) -> Value {
    let versions = groups(kinds).into_iter().find(|(group, _)| group.is_empty()).map(|(_, v)| v);
    json!({
        "kind": "APIVersions",
        "versions": versions.unwrap_or_default(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_entry(group: &str, versions: &[&str]) -> Map<String, Value> {
    let entry = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let mut object = Map::new();
    object.insert("name".into(), group.into());
    object.insert("versions".into(), versions.iter().map(entry).collect());
    object.insert("preferredVersion".into(), versions.first().map_or(Value::Null, entry));
    object
}

/// `GET /apis`.
pub(super) fn group_list(kinds: &[Kind]) -> Value {
    let named = groups(kinds).into_iter().filter(|(group, _)| !group.is_empty());
    let entries: Vec<_> = named.map(|(group, versions)| group_entry(group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": entries})
}

/// `GET /apis/GROUP`.
pub(super) fn group(kinds: &[Kind], name: &str) -> Option<Value> {
    let (group, versions) =
        groups(kinds).into_iter().find(|(group, _)| *group == name && !group.is_empty())?;
    let mut object = group_entry(group, &versions);
    object.insert("kind".into(), "APIGroup".into());
    object.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(object))
}

/// `GET /api/v1`, `GET /apis/GROUP/VERSION`.
pub(super) fn resources(kinds: &[Kind], group: &str, version: &str) -> Option<Value> {
    let mut rows = Vec::new();
    for kind in kinds.iter().filter(|k| k.gvk.group == group && k.gvk.version == version) {
        let mut row = json!({
            "name": kind.resource,
            "singularName": kind.singular,
            "namespaced": kind.namespaced(),
            "kind": kind.gvk.kind,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            row["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            row["categories"] = json!(kind.categories);
        }
        rows.push(row);
        for sub in kind.subresources {
            let mut row = json!({
                "name": format!("{}/{}", kind.resource, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced(),
                "kind": sub.gvk.kind,
                "verbs": sub.verbs,
            });
            if foreign(kind, sub) {
                row["group"] = sub.gvk.group.into();
                row["version"] = sub.gvk.version.into();
            }
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows,
    }))
}

fn foreign(kind: &Kind, sub: &Subresource) -> bool {
    (sub.gvk.group, sub.gvk.version) != (kind.gvk.group, kind.gvk.version)
}

/// `APIGroupDiscoveryList` for `/api` (`core`) or `/apis`.
pub(super) fn aggregated(kinds: &[Kind], core: bool, api_version: &str) -> Value {
    let items: Vec<Value> = groups(kinds)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let rows = kinds.iter().filter(|k| k.gvk.group == group && k.gvk.version == version);
                    let rows: Vec<Value> = rows.map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": rows})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut row = json!({
        "resource": kind.resource,
        "responseKind": {"group": "", "version": "", "kind": kind.gvk.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        row["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        row["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            // Empty group and version mean those of the resource.
            let (group, version) =
                if foreign(kind, sub) { (sub.gvk.group, sub.gvk.version) } else { ("", "") };
            json!({
                "subresource": sub.name,
                "responseKind": {"group": group, "version": version, "kind": sub.gvk.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        row["subresources"] = subresources.into();
    }
    row
}

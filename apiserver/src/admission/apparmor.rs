//! AppArmor profiles in the words of before 1.30: an annotation for each container, and the fields of today. Pure.
//!
//! As upstream has it at creation: what is said in one of the two ways is said in the other too, and the field wins.

use serde_json::{Value, json};

use crate::rest::object;

const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Says both of each container of a new pod.
pub(crate) fn say_both_ways(pod: &mut Value) {
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    let mut said = Vec::new();
    for list in ["initContainers", "containers"] {
        let annotations = pod["metadata"]["annotations"].clone();
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let key = format!("{PREFIX}{}", container["name"].as_str().unwrap_or_default());
            let own = container["securityContext"]["appArmorProfile"].clone();
            match annotations.get(&key).and_then(Value::as_str) {
                None => said.extend(word(if own.is_null() { &of_pod } else { &own }).map(|word| (key, word))),
                Some(annotation) if own.is_null() => {
                    if let Some(profile) = profile(annotation).filter(|profile| *profile != of_pod) {
                        object::child(container, "securityContext").insert("appArmorProfile".into(), profile);
                    }
                }
                Some(_) => {}
            }
        }
    }
    if !said.is_empty() {
        let annotations = object::child(&mut pod["metadata"], "annotations");
        annotations.extend(said.into_iter().map(|(key, word)| (key, word.into())));
    }
}

fn word(profile: &Value) -> Option<String> {
    match (profile["type"].as_str()?, profile["localhostProfile"].as_str()) {
        ("RuntimeDefault", _) => Some("runtime/default".to_owned()),
        ("Unconfined", _) => Some("unconfined".to_owned()),
        ("Localhost", Some(name)) => Some(format!("localhost/{name}")),
        _ => None,
    }
}

fn profile(word: &str) -> Option<Value> {
    match word {
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        "unconfined" => Some(json!({"type": "Unconfined"})),
        _ => {
            let name = word.strip_prefix("localhost/").filter(|name| !name.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_becomes_both() {
        let mut pod = json!({
            "metadata": {"annotations": {
                format!("{PREFIX}old"): "localhost/mine", format!("{PREFIX}both"): "unconfined", format!("{PREFIX}odd"): "x",
                format!("{PREFIX}same"): "runtime/default",
            }},
            "spec": {
                "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}},
                "initContainers": [{"name": "old"}],
                "containers": [
                    {"name": "both", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "a"}}},
                    {"name": "odd"}, {"name": "same"}, {"name": "pods"},
                    {"name": "new", "securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "b"}}},
                ],
            },
        });
        say_both_ways(&mut pod);
        let profile =
            |list: &str, at: usize| pod["spec"][list][at]["securityContext"]["appArmorProfile"].to_string();
        assert_eq!(profile("initContainers", 0), r#"{"localhostProfile":"mine","type":"Localhost"}"#);
        assert_eq!(profile("containers", 0), r#"{"localhostProfile":"a","type":"Localhost"}"#);
        assert_eq!([1, 2, 3].map(|at| profile("containers", at)), ["null", "null", "null"]);
        let annotation = |name: &str| pod["metadata"]["annotations"][format!("{PREFIX}{name}")].clone();
        assert_eq!((annotation("pods"), annotation("new")), ("runtime/default".into(), "localhost/b".into()));
        assert_eq!((annotation("both"), annotation("odd")), ("unconfined".into(), "x".into()));
        // A pod that says nothing stays as it is.
        let plain = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let mut same = plain.clone();
        say_both_ways(&mut same);
        assert_eq!(same["metadata"], plain["metadata"]);
    }
}

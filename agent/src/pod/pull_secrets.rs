//! Registry credentials from `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` secrets.

use k8s_openapi::api::core::v1::Secret;
use orlop_runtime::image::{Source, parse_docker_config, parse_dockercfg};

use super::machine::Credential;

/// Locations (as written there) and credentials. What cannot be read yields nothing.
pub fn credentials(secret: &Secret) -> Vec<(String, Credential)> {
    let data =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let found = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(json), _) => parse_docker_config(json),
        (None, Some(json)) => parse_dockercfg(json),
        (None, None) => Ok(Vec::new()),
    };
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &secret.metadata;
    let source = Source::Secret { namespace: of(&meta.namespace), name: of(&meta.name), uid: of(&meta.uid) };
    let found = found.unwrap_or_default().into_iter();
    found.map(|(location, auth)| (location, Credential { auth, source: source.clone() })).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn check(key: &str, json: &str, expected: &[&str]) {
        let data = BTreeMap::from([(key.to_owned(), ByteString(json.into()))]);
        let secret = Secret { data: Some(data), ..Secret::default() };
        let found: Vec<_> = credentials(&secret)
            .into_iter()
            .map(|(location, one)| format!("{location} {}:{}", one.auth.username, one.auth.password))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn both_kinds_of_secrets() {
        check(".dockerconfigjson", r#"{"auths":{"r.example":{"auth":"dTpwOng="}}}"#, &["r.example u:p:x"]);
        check(".dockercfg", r#"{"r.example":{"username":"a","password":"b"}}"#, &["r.example a:b"]);
        check(".dockerconfigjson", "{", &[]);
        check("other", "{}", &[]);
    }
}

//! Registry credentials from `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` secrets.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use super::machine::RegistryAuth;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

/// Registry (as written there) and credentials. What cannot be read yields nothing.
pub fn auths(secret: &Secret) -> Vec<(String, RegistryAuth)> {
    let data =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let entries = if let Some(json) = data(".dockerconfigjson") {
        serde_json::from_slice::<Config>(json).map(|config| config.auths).unwrap_or_default()
    } else if let Some(json) = data(".dockercfg") {
        serde_json::from_slice(json).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    entries.into_iter().filter_map(|(registry, entry)| Some((registry, credentials(entry)?))).collect()
}

fn credentials(entry: Entry) -> Option<RegistryAuth> {
    if let (Some(username), Some(password)) = (entry.username, entry.password) {
        return Some(RegistryAuth { username, password });
    }
    let decoded = String::from_utf8(STANDARD.decode(entry.auth?.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(RegistryAuth { username: username.into(), password: password.trim_end_matches('\0').into() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn both_spellings_of_credentials() {
        let json = r#"{"auths":{"r.example":{"auth":"dTpwOng="},"s.example":{"username":"a","password":"b"},"t":{}}}"#;
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.into()))]);
        let secret = Secret { data: Some(data), ..Secret::default() };
        let found: Vec<_> =
            auths(&secret).into_iter().map(|(r, a)| format!("{r} {}:{}", a.username, a.password)).collect();
        assert_eq!(found, ["r.example u:p:x", "s.example a:b"]);
    }
}

//! What the files of ConfigMap, Secret, downward API and projected volumes contain.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
        VolumeProjection,
    },
};

use super::{
    Disk,
    atomic::{File, Files},
};
use crate::{
    pod::{
        desired::{self, pod_ref},
        downward,
    },
    worker::ports::{ObjectFailure, TokenRequest},
};

const DEFAULT_MODE: i32 = 0o644;

/// The files of a volume and when they have to be looked at again.
pub(super) struct Payload {
    pub(super) files: Files,
    pub(super) refresh_at: Option<Timestamp>,
}

/// `None`: the volume is of another kind.
pub(super) async fn payload(disk: &Disk, pod: &Pod, volume: &Volume) -> Result<Option<Payload>, String> {
    let mut payload = Payload { files: Files::new(), refresh_at: None };
    let owner = pod_ref(pod);
    if let Some(source) = &volume.config_map {
        let found = disk.objects.config_map(&owner, &source.name).await;
        let wish = Wish::new(source.items.as_deref(), source.default_mode, source.optional);
        if let Some(map) = present(found, &wish)? {
            payload.files = of_config_map(&map, &wish)?;
        }
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = disk.objects.secret(&owner, name).await;
        let wish = Wish::new(source.items.as_deref(), source.default_mode, source.optional);
        if let Some(secret) = present(found, &wish)? {
            payload.files = of_secret(&secret, &wish)?;
        }
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        payload.files = of_downward(disk, pod, items, source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        for projection in source.sources.iter().flatten() {
            // Later sources win where two name the same path.
            projected(disk, pod, &volume.name, projection, source.default_mode, &mut payload).await?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

async fn projected(
    disk: &Disk,
    pod: &Pod,
    volume: &str,
    source: &VolumeProjection,
    mode: Option<i32>,
    payload: &mut Payload,
) -> Result<(), String> {
    let owner = pod_ref(pod);
    if let Some(source) = &source.config_map {
        let wish = Wish::new(source.items.as_deref(), mode, source.optional);
        let found = disk.objects.config_map(&owner, &source.name).await;
        if let Some(map) = present(found, &wish)? {
            payload.files.extend(of_config_map(&map, &wish)?);
        }
    }
    if let Some(source) = &source.secret {
        let wish = Wish::new(source.items.as_deref(), mode, source.optional);
        let found = disk.objects.secret(&owner, &source.name).await;
        if let Some(secret) = present(found, &wish)? {
            payload.files.extend(of_secret(&secret, &wish)?);
        }
    }
    if let Some(source) = &source.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        payload.files.extend(of_downward(disk, pod, items, mode)?);
    }
    if let Some(source) = &source.service_account_token {
        let (file, refresh_at) = token(disk, pod, volume, source, mode).await?;
        payload.files.insert(source.path.clone(), file);
        payload.refresh_at = payload.refresh_at.into_iter().chain([refresh_at]).min();
    }
    if source.cluster_trust_bundle.is_some() {
        return Err("ClusterTrustBundle projection is not supported".into());
    }
    Ok(())
}

async fn token(
    disk: &Disk,
    pod: &Pod,
    volume: &str,
    source: &ServiceAccountTokenProjection,
    mode: Option<i32>,
) -> Result<(File, Timestamp), String> {
    let spec = desired::spec(pod);
    let account = spec.service_account_name.clone().filter(|name| !name.is_empty());
    let request = TokenRequest {
        pod: pod_ref(pod),
        service_account: account.unwrap_or_else(|| "default".into()),
        audience: source.audience.clone().filter(|audience| !audience.is_empty()),
        expiration_seconds: source.expiration_seconds.unwrap_or(3600),
    };
    let got = disk.tokens.get(&*disk.objects, volume, &source.path, &request).await;
    let (token, refresh_at) = got.map_err(|error| format!("failed to fetch token: {error}"))?;
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let uid = sole_user(pod);
    let mode = match (uid, group) {
        (None, None) => file_mode(mode, None),
        _ => 0o600,
    };
    Ok((File { bytes: token.into_bytes(), mode, uid }, refresh_at))
}

/// The user all containers run as, if the pod says so for every one of them.
fn sole_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut users = all.map(|container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// What is asked of a ConfigMap or Secret.
struct Wish<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
}

impl<'a> Wish<'a> {
    fn new(items: Option<&'a [KeyToPath]>, mode: Option<i32>, optional: Option<bool>) -> Wish<'a> {
        let items = items.filter(|items| !items.is_empty());
        Wish { items, mode, optional: optional.unwrap_or_default() }
    }
}

/// An optional object that is not there is an empty volume.
fn present<T>(found: Result<T, ObjectFailure>, wish: &Wish<'_>) -> Result<Option<T>, String> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(ObjectFailure::NotFound { .. }) if wish.optional => Ok(None),
        Err(failure) => Err(failure.to_string()),
    }
}

fn of_config_map(map: &ConfigMap, wish: &Wish<'_>) -> Result<Files, String> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary =
        map.binary_data.iter().flatten().map(|(key, ByteString(bytes))| (key.clone(), bytes.clone()));
    select(text.chain(binary).collect(), wish, "configmap references non-existent config key")
}

fn of_secret(secret: &Secret, wish: &Wish<'_>) -> Result<Files, String> {
    let data = secret.data.iter().flatten().map(|(key, ByteString(bytes))| (key.clone(), bytes.clone()));
    select(data.collect(), wish, "references non-existent secret key")
}

fn select(data: BTreeMap<String, Vec<u8>>, wish: &Wish<'_>, missing: &str) -> Result<Files, String> {
    let file =
        |bytes: Vec<u8>, mode: Option<i32>| File { bytes, mode: file_mode(wish.mode, mode), uid: None };
    let Some(items) = wish.items else {
        return Ok(data.into_iter().map(|(key, bytes)| (key, file(bytes, None))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), file(bytes.clone(), item.mode))),
            None if wish.optional => {}
            None => return Err(format!("{missing}: {}", item.key)),
        }
    }
    Ok(files)
}

fn of_downward(
    disk: &Disk,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: Option<i32>,
) -> Result<Files, String> {
    let pod = &with_source(pod);
    let mut files = Files::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::volume_field(&disk.settings, pod, &[], field)?,
            (None, Some(field)) => downward::resource(&disk.settings, pod, "", field)?,
            (None, None) => String::new(),
        };
        let file = File { bytes: text.into_bytes(), mode: file_mode(mode, item.mode), uid: None };
        files.insert(item.path.clone(), file);
    }
    Ok(files)
}

/// A kubelet adds to the annotations where it heard of the pod and when; programs read it there.
fn with_source(pod: &Pod) -> Pod {
    let mut pod = Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: None };
    let seen = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.entry("kubernetes.io/config.source".into()).or_insert_with(|| "api".into());
    annotations.entry("kubernetes.io/config.seen".into()).or_insert_with(|| seen.unwrap_or_default());
    pod
}

fn file_mode(default: Option<i32>, own: Option<i32>) -> u32 {
    let mode = own.or(default).unwrap_or(DEFAULT_MODE);
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(items: &str, optional: bool, expect: Expect) {
        let items: Option<Vec<KeyToPath>> = serde_norway::from_str(items).unwrap();
        let map: ConfigMap =
            serde_norway::from_str("{data: {a: one, b: two}, binaryData: {c: AAE=}}").unwrap();
        let wish = Wish::new(items.as_deref(), Some(0o600), Some(optional));
        let text = match of_config_map(&map, &wish) {
            Ok(files) => {
                files.iter().map(|(p, f)| format!("{p} {:o} {:?}\n", f.mode, f.bytes.len())).collect()
            }
            Err(error) => format!("error: {error}\n"),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn all_keys_or_the_named_ones() {
        check("null", false, expect![["a 600 3\nb 600 3\nc 600 2\n"]]);
        check(
            "[{key: a, path: x/y}, {key: c, path: z, mode: 256}]",
            false,
            expect![["x/y 600 3\nz 400 2\n"]],
        );
    }

    #[test]
    fn a_key_that_is_not_there() {
        let items = "[{key: nope, path: x}]";
        check(items, false, expect![["error: configmap references non-existent config key: nope\n"]]);
        check(items, true, expect![[""]]);
    }

    #[test]
    fn one_user_for_all_containers() {
        let user = |spec: &str| {
            let pod = Pod { spec: Some(serde_norway::from_str(spec).unwrap()), ..Pod::default() };
            sole_user(&pod)
        };
        assert_eq!(user("{containers: [{name: c}]}"), None);
        assert_eq!(user("{securityContext: {runAsUser: 7}, containers: [{name: c}]}"), Some(7));
        assert_eq!(user("{containers: [{name: c, securityContext: {runAsUser: 7}}, {name: d}]}"), None);
    }
}

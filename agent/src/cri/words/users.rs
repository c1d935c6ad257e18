//! `[p]` Users that a pod has of its own: the ids that a client chooses for it (KEP-127), and mounts that are mapped to them.
//!
//! One range for users and groups alike, from root on: what a kubelet sends, and all that containerd takes too.

use orlop_cri_api::v1::{IdMapping, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};
use orlop_runtime::ids::IdRange;

/// The ids of a pod; `None` if its users are the host's.
pub(in crate::cri) fn of_pod(pod: &PodSandboxConfig) -> Result<Option<IdRange>, String> {
    let security = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    ids(security.and_then(|security| security.namespace_options.as_ref()))
}

/// A client that does not know of them says nothing.
fn ids(options: Option<&NamespaceOption>) -> Result<Option<IdRange>, String> {
    let Some(users) = options.and_then(|options| options.userns_options.as_ref()) else { return Ok(None) };
    let UserNamespace { uids, gids, .. } = users;
    let wrong = |reason: String| Err(format!("user namespace: {reason}"));
    match users.mode() {
        NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(None),
        NamespaceMode::Node => wrong("mode NODE has no mappings".to_owned()),
        NamespaceMode::Pod => range(uids, gids).map(Some).or_else(wrong),
        mode => wrong(format!("mode {} is not supported", mode.as_str_name())),
    }
}

/// What a container says of it has to be the pod's.
pub(in crate::cri) fn check(
    options: Option<&NamespaceOption>,
    of_pod: Option<IdRange>,
) -> Result<(), String> {
    let said = options.is_some_and(|options| options.userns_options.is_some());
    if said && ids(options)? != of_pod {
        return Err("user namespace: the container's mapping is not the pod's".to_owned());
    }
    Ok(())
}

/// Whether files of a mount keep their owners: those are mapped only where the client says so, and only to the pod's.
pub(in crate::cri) fn keep_owners(mount: &Mount, of_pod: Option<IdRange>) -> Result<bool, String> {
    let Mount { container_path, uid_mappings, gid_mappings, .. } = mount;
    if uid_mappings.is_empty() && gid_mappings.is_empty() {
        return Ok(of_pod.is_some());
    }
    let wrong = |reason: &str| format!("id mappings of the mount at {container_path}: {reason}");
    let wanted = range(uid_mappings, gid_mappings).map_err(|reason| wrong(&reason))?;
    match of_pod {
        Some(ids) if ids == wanted => Ok(false),
        Some(_) => Err(wrong("they are not the pod's")),
        None => Err(wrong("the pod has no user namespace of its own")),
    }
}

fn range(uids: &[IdMapping], gids: &[IdMapping]) -> Result<IdRange, String> {
    let one = |what: &str, mappings: &[IdMapping]| match mappings {
        [one] => Ok(*one),
        other => Err(format!("one mapping of {what} is supported, not {}", other.len())),
    };
    let (users, groups) = (one("users", uids)?, one("groups", gids)?);
    if users != groups {
        return Err("users and groups have to be mapped alike".to_owned());
    }
    let IdMapping { host_id, container_id, length } = users;
    if container_id != 0 {
        return Err(format!("the first id in the container has to be 0, not {container_id}"));
    }
    IdRange::chosen(host_id, length).map_err(|bad| format!("ids {host_id} on, {length} of them: {bad}"))
}

#[cfg(test)]
mod tests {
    use orlop_cri_api::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext};

    use super::*;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping { host_id, container_id, length }
    }

    fn options(mode: NamespaceMode, uids: &[IdMapping], gids: &[IdMapping]) -> NamespaceOption {
        let users = UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() };
        NamespaceOption { userns_options: Some(users), ..NamespaceOption::default() }
    }

    fn shown<T: std::fmt::Debug>(result: Result<T, String>) -> String {
        result.map_or_else(|error| error, |value| format!("{value:?}"))
    }

    #[test]
    fn one_range_for_users_and_groups() {
        let check = |mode, uids: &[IdMapping], gids: &[IdMapping], expected: &str| {
            let security = LinuxSandboxSecurityContext {
                namespace_options: Some(options(mode, uids, gids)),
                ..Default::default()
            };
            let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
            let pod = PodSandboxConfig { linux: Some(linux), ..PodSandboxConfig::default() };
            assert_eq!(shown(of_pod(&pod)), expected);
        };
        let (good, other) = (mapping(0, 131_072, 65_536), mapping(0, 196_608, 65_536));
        let (pod, node) = (NamespaceMode::Pod, NamespaceMode::Node);
        check(pod, &[good], &[good], "Some(IdRange { first: 131072, count: 65536 })");
        check(node, &[], &[], "None");
        check(node, &[good], &[good], "user namespace: mode NODE has no mappings");
        check(NamespaceMode::Target, &[], &[], "user namespace: mode TARGET is not supported");
        check(NamespaceMode::Container, &[], &[], "user namespace: mode CONTAINER is not supported");
        check(pod, &[], &[], "user namespace: one mapping of users is supported, not 0");
        check(pod, &[good, other], &[good], "user namespace: one mapping of users is supported, not 2");
        check(pod, &[good], &[good, other], "user namespace: one mapping of groups is supported, not 2");
        check(pod, &[good], &[other], "user namespace: users and groups have to be mapped alike");
        let first = mapping(1, 131_072, 65_536);
        check(pod, &[first], &[first], "user namespace: the first id in the container has to be 0, not 1");
        for (host_id, length) in [(0, 65_536), (131_072, 1000)] {
            let bad = mapping(0, host_id, length);
            let expected = format!(
                "user namespace: ids {host_id} on, {length} of them: must have 65536 ids or more, all of them above 0 and below 4294967295"
            );
            check(pod, &[bad], &[bad], &expected);
        }
        assert_eq!(of_pod(&PodSandboxConfig::default()), Ok(None));
    }

    #[test]
    fn containers_and_mounts_have_the_pods() {
        let (good, other) = (mapping(0, 131_072, 65_536), mapping(0, 196_608, 65_536));
        let ids = Some(IdRange { first: 131_072, count: 65_536 });
        let said = |one| options(NamespaceMode::Pod, &[one], &[one]);
        assert_eq!(check(Some(&said(good)), ids), Ok(()));
        assert_eq!(check(Some(&NamespaceOption::default()), ids), Ok(()));
        assert_eq!(check(None, ids), Ok(()));
        let differs = Err("user namespace: the container's mapping is not the pod's".to_owned());
        assert_eq!(check(Some(&said(other)), ids), differs);
        assert_eq!(check(Some(&said(good)), None), differs);
        assert_eq!(check(Some(&options(NamespaceMode::Node, &[], &[])), ids), differs);

        let mount = |mappings: &[IdMapping]| Mount {
            container_path: "/data".into(),
            uid_mappings: mappings.to_vec(),
            gid_mappings: mappings.to_vec(),
            ..Mount::default()
        };
        assert_eq!(keep_owners(&mount(&[]), None), Ok(false));
        assert_eq!(keep_owners(&mount(&[]), ids), Ok(true));
        assert_eq!(keep_owners(&mount(&[good]), ids), Ok(false));
        let wrong = |reason: &str| Err(format!("id mappings of the mount at /data: {reason}"));
        assert_eq!(keep_owners(&mount(&[other]), ids), wrong("they are not the pod's"));
        assert_eq!(keep_owners(&mount(&[good]), None), wrong("the pod has no user namespace of its own"));
        let several = wrong("one mapping of users is supported, not 2");
        assert_eq!(keep_owners(&mount(&[good, other]), ids), several);
    }
}

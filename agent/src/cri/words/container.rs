//! `[p]` What a client asks for as a container, as the runtime's request.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use orlop_cri_api::v1::{
    ContainerConfig, ContainerMetadata, Device as CriDevice, HugepageLimit, LinuxContainerResources,
    LinuxContainerSecurityContext, Mount as CriMount, MountPropagation, NamespaceMode, PodSandboxConfig,
    SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use orlop_runtime::{
    AppArmor, ContainerSpec, Device, ImageVolume, Mount, Propagation, Resources, Seccomp, UserRequest,
    ids::IdRange, image::Image,
};

use super::{kept, users};

/// What a request is built from.
pub(in crate::cri) struct Parts<'a> {
    pub(in crate::cri) pod: &'a PodSandboxConfig,
    pub(in crate::cri) container: &'a ContainerConfig,
    pub(in crate::cri) image: Arc<Image>,
    /// Those of its mounts that are images, in their order.
    pub(in crate::cri) mounted: &'a [Arc<Image>],
    /// The pod's hosts, hostname and resolv.conf.
    pub(in crate::cri) files: &'a Path,
    pub(in crate::cri) now: Timestamp,
}

/// Builds the request.
///
/// # Errors
/// Something is asked for that cannot be done.
pub(in crate::cri) fn spec(parts: Parts<'_>) -> Result<ContainerSpec, String> {
    let Parts { pod, container, image, mounted, files, now } = parts;
    let ContainerMetadata { name, attempt } =
        container.metadata.clone().ok_or("the container has no metadata")?;
    let cdi = cdi_devices(container);
    if !cdi.is_empty() {
        return Err(format!("CDI devices are not supported: {}", cdi.join(", ")));
    }
    let linux = container.linux.clone().unwrap_or_default();
    // What tools send that do not think of it is no wish to see everything.
    let thought_of = linux.security_context.is_some();
    let security = linux.security_context.unwrap_or_default();
    let ids = users::of_pod(pod)?;
    users::check(security.namespace_options.as_ref(), ids)?;
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let said = |paths: &Vec<String>| (thought_of && !security.privileged).then(|| paths.clone());
    Ok(ContainerSpec {
        name,
        attempt,
        image_ref: image_ref(container),
        image,
        command: container.command.clone(),
        args: container.args.clone(),
        env: container.envs.iter().map(|env| (env.key.clone(), env.value.clone())).collect(),
        working_dir: Some(container.working_dir.clone()).filter(|dir| !dir.is_empty()),
        user: user(&security)?,
        mounts: mounts(container, ids, files, security.readonly_rootfs)?,
        image_volumes: image_volumes(container, mounted)?,
        process_target: process_target(&security),
        privileged: security.privileged,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        no_new_privileges: security.no_new_privs,
        read_only_rootfs: security.readonly_rootfs,
        seccomp: seccomp(&security)?,
        apparmor: apparmor(&security)?,
        devices: devices(container)?,
        resources: resources(&linux.resources.unwrap_or_default()),
        tty: container.tty,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        log_path: log_path(pod, container),
        labels: kept::keep_container(container, now),
        masked_paths: said(&security.masked_paths),
        read_only_paths: said(&security.readonly_paths),
        ..ContainerSpec::default()
    })
}

/// By their field, or by annotations as it was before there was one.
fn cdi_devices(container: &ContainerConfig) -> Vec<&str> {
    let annotated = container.annotations.iter().filter(|(name, _)| name.starts_with("cdi.k8s.io/"));
    let named = container.cdi_devices.iter().map(|device| device.name.as_str());
    named.chain(annotated.map(|(_, devices)| devices.as_str())).collect()
}

/// What the user wrote, where the client tells it; it may have resolved it to an id.
pub(in crate::cri) fn image_ref(container: &ContainerConfig) -> String {
    let image = container.image.clone().unwrap_or_default();
    if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image }
}

fn user(security: &LinuxContainerSecurityContext) -> Result<UserRequest, String> {
    let id = |id: i64| u32::try_from(id).map_err(|_| format!("user or group id {id} is out of range"));
    let (uid, gid) = (security.run_as_user.as_ref(), security.run_as_group.as_ref());
    let name = Some(security.run_as_username.clone()).filter(|name| !name.is_empty());
    if gid.is_some() && uid.is_none() && name.is_none() {
        return Err("a group without a user (run_as_group without run_as_user or run_as_username)".to_owned());
    }
    Ok(UserRequest {
        uid: uid.map(|uid| id(uid.value)).transpose()?,
        name,
        gid: gid.map(|gid| id(gid.value)).transpose()?,
        additional_gids: security
            .supplemental_groups
            .iter()
            .map(|group| id(*group))
            .collect::<Result<_, _>>()?,
        strict: security.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict,
    })
}

/// Everything else about namespaces is the pod's.
fn process_target(security: &LinuxContainerSecurityContext) -> Option<String> {
    let options = security.namespace_options.as_ref()?;
    (options.pid() == NamespaceMode::Target).then(|| options.target_id.clone())
}

fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Seccomp, String> {
    match &security.seccomp {
        Some(profile) => profile_of(profile),
        #[expect(deprecated, reason = "older clients say nothing else")]
        None => match security.seccomp_profile_path.as_str() {
            "" | "unconfined" => Ok(Seccomp::Unconfined),
            "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
            other => match other.strip_prefix("localhost/") {
                Some(path) => Ok(Seccomp::Localhost(path.into())),
                None => Err(format!("unknown seccomp profile {other:?}")),
            },
        },
    }
}

fn apparmor(security: &LinuxContainerSecurityContext) -> Result<AppArmor, String> {
    if let Some(profile) = &security.apparmor {
        return Ok(match profile.profile_type() {
            ProfileType::RuntimeDefault => AppArmor::RuntimeDefault,
            ProfileType::Unconfined => AppArmor::Unconfined,
            ProfileType::Localhost => AppArmor::Localhost(profile.localhost_ref.clone()),
        });
    }
    #[expect(deprecated, reason = "older clients say nothing else")]
    let word = security.apparmor_profile.as_str();
    match word {
        "" => Ok(AppArmor::Usual),
        "runtime/default" => Ok(AppArmor::RuntimeDefault),
        "unconfined" => Ok(AppArmor::Unconfined),
        other => match other.strip_prefix("localhost/") {
            Some(name) => Ok(AppArmor::Localhost(name.to_owned())),
            None => Err(format!("unknown AppArmor profile {other:?}")),
        },
    }
}

fn devices(container: &ContainerConfig) -> Result<Vec<Device>, String> {
    let device = |CriDevice { container_path, host_path, permissions }: &CriDevice| {
        let permissions = permissions.clone();
        Ok(Device { host_path: absolute(host_path)?, container_path: absolute(container_path)?, permissions })
    };
    container.devices.iter().map(device).collect()
}

fn profile_of(profile: &SecurityProfile) -> Result<Seccomp, String> {
    match profile.profile_type() {
        ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        ProfileType::Unconfined => Ok(Seccomp::Unconfined),
        ProfileType::Localhost if profile.localhost_ref.starts_with('/') => {
            Ok(Seccomp::Localhost(PathBuf::from(&profile.localhost_ref)))
        }
        ProfileType::Localhost => {
            Err(format!("seccomp profile {:?} is not an absolute path", profile.localhost_ref))
        }
    }
}

/// The client's, and the files that every pod has unless the client mounts them itself.
fn mounts(
    container: &ContainerConfig,
    ids: Option<IdRange>,
    files: &Path,
    read_only: bool,
) -> Result<Vec<Mount>, String> {
    let of_host = container.mounts.iter().filter(|mount| mounted_image(mount).is_none());
    let mut mounts = of_host.map(|of_host| mount(of_host, ids)).collect::<Result<Vec<_>, _>>()?;
    for name in ["hosts", "hostname", "resolv.conf"] {
        let destination = Path::new("/etc").join(name);
        if !container.mounts.iter().any(|mount| Path::new(&mount.container_path) == destination) {
            let source = files.join(name);
            mounts.push(Mount { source, destination, read_only, ..Mount::default() });
        }
    }
    Ok(mounts)
}

/// The image that a mount names.
pub(in crate::cri) fn mounted_image(mount: &CriMount) -> Option<&str> {
    mount.image.as_ref().map(|image| image.image.as_str()).filter(|image| !image.is_empty())
}

/// Read-only whatever the client says: nobody could write there.
fn image_volumes(container: &ContainerConfig, images: &[Arc<Image>]) -> Result<Vec<ImageVolume>, String> {
    let mounts = container.mounts.iter().filter(|mount| mounted_image(mount).is_some());
    let volume = |(mount, image): (&CriMount, &Arc<Image>)| {
        let at = &mount.container_path;
        if !mount.host_path.is_empty() {
            return Err(format!("mount at {at}: both an image and a path of the host"));
        }
        let sub_path = mount.image_sub_path.clone();
        if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
            return Err(format!("mount at {at}: the image's path {sub_path:?} leads elsewhere"));
        }
        Ok(ImageVolume { image: Arc::clone(image), sub_path, destination: absolute(at)? })
    };
    mounts.zip(images).map(volume).collect()
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("path {path:?} is not absolute"))
    }
}

fn mount(mount: &CriMount, ids: Option<IdRange>) -> Result<Mount, String> {
    let private = mount.propagation() == MountPropagation::PropagationPrivate;
    if mount.recursive_read_only && !(mount.readonly && private) {
        let at = &mount.container_path;
        return Err(format!("recursive read-only mount at {at}: it has to be read-only and private"));
    }
    Ok(Mount {
        source: absolute(&mount.host_path)?,
        destination: absolute(&mount.container_path)?,
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation: match mount.propagation() {
            MountPropagation::PropagationPrivate => Propagation::Private,
            MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        keep_owners: users::keep_owners(mount, ids)?,
    })
}

/// Zero is "not said".
pub(in crate::cri) fn resources(limits: &LinuxContainerResources) -> Resources {
    let LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes,
        memory_swap_limit_in_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
    } = limits;
    let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let pages = |HugepageLimit { page_size, limit }: &HugepageLimit| {
        (page_size.clone(), i64::try_from(*limit).unwrap_or(i64::MAX))
    };
    Resources {
        cpu_shares: u64::try_from(*cpu_shares).ok().filter(|shares| *shares > 0),
        cpu_quota_us: Some(*cpu_quota).filter(|quota| *quota != 0),
        cpu_period_us: u64::try_from(*cpu_period).ok().filter(|period| *period > 0),
        memory_limit: Some(*memory_limit_in_bytes).filter(|limit| *limit != 0),
        memory_swap: Some(*memory_swap_limit_in_bytes).filter(|limit| *limit != 0),
        pids_limit: None,
        cpuset_cpus: said(cpuset_cpus),
        cpuset_mems: said(cpuset_mems),
        unified: unified.clone().into_iter().collect(),
        hugepages: hugepage_limits.iter().map(pages).collect(),
        oom_score_adj: i32::try_from(*oom_score_adj).ok(),
    }
}

/// Nothing that would be kept is written to where nobody would look for it.
fn log_path(pod: &PodSandboxConfig, container: &ContainerConfig) -> PathBuf {
    if pod.log_directory.is_empty() || container.log_path.is_empty() {
        return "/dev/null".into();
    }
    Path::new(&pod.log_directory).join(&container.log_path)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use orlop_cri_api::v1::{ImageSpec, Int64Value, LinuxContainerConfig};

    use super::*;

    fn with(security: LinuxContainerSecurityContext, resources: LinuxContainerResources) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".into(), attempt: 1 }),
            image: Some(ImageSpec { image: "sha256:1".into(), ..Default::default() }),
            linux: Some(LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(security),
            }),
            ..Default::default()
        }
    }

    fn built(container: &ContainerConfig) -> Result<ContainerSpec, String> {
        let pod = PodSandboxConfig { log_directory: "/var/log/pods/p".into(), ..Default::default() };
        let now = Timestamp::UNIX_EPOCH;
        spec(Parts { pod: &pod, container, image: Arc::default(), mounted: &[], files: Path::new("/f"), now })
    }

    fn security(context: LinuxContainerSecurityContext, expected: &Expect) {
        let text = match built(&with(context, LinuxContainerResources::default())) {
            Ok(ContainerSpec { user, seccomp, masked_paths, read_only_paths, privileged, .. }) => {
                format!(
                    "{user:?}\n{seccomp:?} masked {masked_paths:?} ro {read_only_paths:?} all {privileged}"
                )
            }
            Err(error) => error,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn users_and_filters() {
        let none = LinuxContainerSecurityContext::default;
        security(
            none(),
            &expect![[r#"
                UserRequest { uid: None, name: None, gid: None, additional_gids: [], strict: false }
                Unconfined masked Some([]) ro Some([]) all false"#]],
        );
        let profile = SecurityProfile { profile_type: 2, localhost_ref: "/p.json".into() };
        security(
            LinuxContainerSecurityContext {
                run_as_username: "web".into(),
                run_as_group: Some(Int64Value { value: 7 }),
                supplemental_groups: vec![8],
                supplemental_groups_policy: 1,
                seccomp: Some(profile),
                masked_paths: vec!["/proc/x".into()],
                ..none()
            },
            &expect![[r#"
                UserRequest { uid: None, name: Some("web"), gid: Some(7), additional_gids: [8], strict: true }
                Localhost("/p.json") masked Some(["/proc/x"]) ro Some([]) all false"#]],
        );
        security(
            LinuxContainerSecurityContext {
                privileged: true,
                masked_paths: vec!["/proc/x".into()],
                run_as_user: Some(Int64Value { value: 0 }),
                ..none()
            },
            &expect![[r#"
                UserRequest { uid: Some(0), name: None, gid: None, additional_gids: [], strict: false }
                Unconfined masked None ro None all true"#]],
        );
        security(
            LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 7 }), ..none() },
            &expect!["a group without a user (run_as_group without run_as_user or run_as_username)"],
        );
        security(
            LinuxContainerSecurityContext { run_as_user: Some(Int64Value { value: -1 }), ..none() },
            &expect!["user or group id -1 is out of range"],
        );
    }

    #[test]
    fn limits_that_are_not_said_are_none() {
        let none = LinuxContainerResources::default();
        assert_eq!(resources(&none), Resources { oom_score_adj: Some(0), ..Resources::default() });
        let some = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: -1,
            memory_limit_in_bytes: 1 << 20,
            oom_score_adj: -997,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            ..none
        };
        let expected = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(-1),
            memory_limit: Some(1 << 20),
            hugepages: [("2MB".to_owned(), 4 << 20)].into(),
            oom_score_adj: Some(-997),
            ..Resources::default()
        };
        assert_eq!(resources(&some), expected);
    }

    #[test]
    fn files_of_the_pod_stand_back_for_the_clients() {
        let mut container = with(Default::default(), Default::default());
        container.mounts = vec![CriMount {
            container_path: "/etc/hosts".into(),
            host_path: "/var/lib/kubelet/hosts".into(),
            propagation: MountPropagation::PropagationBidirectional.into(),
            ..Default::default()
        }];
        container.log_path = "c/0.log".into();
        let spec = built(&container).unwrap();
        let text: Vec<_> = spec
            .mounts
            .iter()
            .map(|m| format!("{} {} {:?}", m.source.display(), m.destination.display(), m.propagation))
            .collect();
        expect![[r#"
            /var/lib/kubelet/hosts /etc/hosts Bidirectional
            /f/hostname /etc/hostname Private
            /f/resolv.conf /etc/resolv.conf Private"#]]
        .assert_eq(&text.join("\n"));
        assert_eq!(spec.log_path, Path::new("/var/log/pods/p/c/0.log"));
        container.mounts[0].host_path = "relative".into();
        assert_eq!(built(&container).unwrap_err(), "path \"relative\" is not absolute");
    }
}

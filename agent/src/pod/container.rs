//! Pod + container + image → what the runtime is asked to start.
//!
//! Volumes arrive as paths on the node; sub paths are resolved by whoever carries the start out, because that needs
//! the file system. Not for: OCI.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, ImageVolumeSource, Pod, PodSpec, SeccompProfile, SecurityContext, Volume,
    VolumeDevice, VolumeMount,
};

use sha2::{Digest as _, Sha256};

use super::{
    allocation::{Allocation, Granted},
    expand::{expand, names},
    machine::{
        AppArmor, ContainerSpec, Device, Image, ImageVolume, PodRef, Propagation, SandboxSpec, Seccomp,
        UserRequest,
    },
    names as pod_names,
    observed::{Images, LABEL_IMAGE, LABEL_IMAGE_ID, LABEL_STOP_SIGNAL, VolumeImage, Volumes},
    resources,
    settings::Settings,
};

/// What the runtime is asked to make for the pod as a whole.
pub fn sandbox(settings: &Settings, pod: &Pod, pod_ref: PodRef) -> Result<SandboxSpec, String> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    Ok(SandboxSpec {
        hostname: pod_names::kernel_hostname(settings, pod)?,
        cgroup: resources::cgroup(settings, spec, &pod_ref.uid),
        resources: resources::of_pod(settings, spec),
        host_network: spec.host_network.unwrap_or_default(),
        host_ipc: spec.host_ipc.unwrap_or_default(),
        host_pid: spec.host_pid.unwrap_or_default(),
        share_pid: spec.share_process_namespace.unwrap_or_default(),
        user_namespace: spec.host_users == Some(false),
        ids: None,
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        labels: BTreeMap::from([Allocation::of(spec).to_label()]),
        pod: pod_ref,
    })
}

/// A volume mount whose sub path is not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Name of the volume.
    pub volume: String,
    /// Relative path inside it.
    pub sub_path: Option<String>,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// Read-only with all that is mounted below it.
    pub recursive_read_only: bool,
    /// Which way later mounts travel.
    pub propagation: Propagation,
}

/// What a start is built from.
pub struct Parts<'a> {
    /// The node.
    pub settings: &'a Settings,
    /// The pod.
    pub pod: &'a Pod,
    /// Its identity.
    pub pod_ref: &'a PodRef,
    /// The container.
    pub container: &'a Container,
    /// Restart count.
    pub attempt: u32,
    /// What its image resolved to, and those that it mounts.
    pub images: &'a Images,
    /// Its environment.
    pub env: Vec<(String, String)>,
}

/// The request without its mounts, and the volume mounts. An error is a `CreateContainerConfigError`.
pub fn spec(parts: Parts<'_>) -> Result<(ContainerSpec, Vec<MountPlan>), String> {
    let Parts { settings, pod, pod_ref, container, attempt, images, env } = parts;
    let image = &images.own;
    let empty = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&empty);
    let security = container.security_context.clone().unwrap_or_default();
    let user = user(pod_spec, &security);
    run_as_non_root(pod, container, &security, image)?;

    let known =
        |name: &str| env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let words = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| expand(word, known)).collect::<Vec<_>>()
    };
    let (mounts, image_volumes) = mounts(pod_spec, container, &images.volumes, known)?;
    let privileged = security.privileged.unwrap_or_default();
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let image_ref = container.image.clone().unwrap_or_default();
    let spec = ContainerSpec {
        name: container.name.clone(),
        attempt,
        labels: labels(&image_ref, image, container),
        image_ref,
        image: Arc::clone(image),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        user,
        mounts: Vec::new(),
        image_volumes,
        privileged,
        unmasked_proc: security.proc_mount.as_deref() == Some("Unmasked"),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        process_target: None,
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        read_only_rootfs: security.read_only_root_filesystem.unwrap_or_default(),
        seccomp: seccomp(settings, pod_spec, &security, privileged),
        apparmor: apparmor(pod_spec, &security),
        resources: resources::of_container(settings, pod_spec, container),
        tty: container.tty.unwrap_or_default(),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        log_path: log_path(&settings.log_dir, pod_ref, &container.name, attempt),
        env,
        ..ContainerSpec::default()
    };
    Ok((spec, mounts))
}

/// The volumes of a container that are devices.
pub fn block_devices(container: &Container, volumes: &Volumes) -> Result<Vec<Device>, String> {
    let device = |wanted: &VolumeDevice| {
        let found = volumes.devices.get(&wanted.name);
        let found = found.ok_or_else(|| format!("volume \"{}\" is not there", wanted.name))?;
        Ok(Device {
            host_path: found.path.clone(),
            container_path: wanted.device_path.clone().into(),
            permissions: if found.read_only { "mr" } else { "mrw" }.into(),
        })
    };
    container.volume_devices.iter().flatten().map(device).collect()
}

/// The id of one instance: known before it exists, so that no start can happen twice.
pub fn id(uid: &str, container: &str, attempt: u32) -> String {
    hex::encode(Sha256::digest(format!("{uid}/{container}/{attempt}")))
}

/// Directory of a pod's logs.
pub fn log_dir(logs: &Path, pod: &PodRef) -> PathBuf {
    logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// The CRI log file of one instance.
pub fn log_path(logs: &Path, pod: &PodRef, container: &str, attempt: u32) -> PathBuf {
    log_dir(logs, pod).join(container).join(format!("{attempt}.log"))
}

fn labels(image_ref: &str, image: &Image, container: &Container) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([Granted::of(container).to_label()]);
    labels.insert(LABEL_IMAGE.into(), shown_name(image_ref, image).into());
    labels.insert(LABEL_IMAGE_ID.into(), image.digests.first().unwrap_or(&image.id).clone());
    if let Some(signal) = &image.config.stop_signal {
        labels.insert(LABEL_STOP_SIGNAL.into(), signal.clone());
    }
    labels
}

/// Of several names for one image the one that was asked for.
fn shown_name<'a>(image_ref: &'a str, image: &'a Image) -> &'a str {
    let asked = |tag: &&String| {
        let rest = tag.strip_suffix(":latest").filter(|_| !image_ref.ends_with(":latest")).unwrap_or(tag);
        rest == image_ref || rest.strip_suffix(image_ref).is_some_and(|registry| registry.ends_with('/'))
    };
    image.tags.iter().find(asked).or(image.tags.first()).map_or(image_ref, String::as_str)
}

/// Container over pod; what neither says stays the runtime's business, which can look into the image.
fn user(spec: &PodSpec, security: &SecurityContext) -> UserRequest {
    let pod = spec.security_context.as_ref();
    let id = |id: i64| u32::try_from(id).ok();
    let groups =
        pod.into_iter().flat_map(|pod| pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group));
    UserRequest {
        uid: security.run_as_user.or(pod.and_then(|pod| pod.run_as_user)).and_then(id),
        gid: security.run_as_group.or(pod.and_then(|pod| pod.run_as_group)).and_then(id),
        additional_gids: groups.filter_map(id).collect(),
        strict: pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict"),
        ..UserRequest::default()
    }
}

/// `uid[:gid]` if given in numbers; nothing is root.
fn numeric_user(user: &str) -> (Option<u32>, Option<u32>) {
    if user.is_empty() {
        return (Some(0), Some(0));
    }
    let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
    (uid.parse().ok(), gid.and_then(|gid| gid.parse().ok()))
}

fn run_as_non_root(
    pod: &Pod,
    container: &Container,
    security: &SecurityContext,
    image: &Image,
) -> Result<(), String> {
    let pod_security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let required = security.run_as_non_root.or(pod_security.and_then(|s| s.run_as_non_root));
    if required != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", super::words::full_name(pod), container.name);
    let explicit = security.run_as_user.or(pod_security.and_then(|s| s.run_as_user));
    match (explicit, numeric_user(&image.config.user).0) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.config.user.split(':').next().unwrap_or_default()
        )),
    }
}

/// Least privilege unless the pod says otherwise: no profile named means the runtime's default one, unless the
/// operator wants it as upstream has it.
fn seccomp(settings: &Settings, spec: &PodSpec, security: &SecurityContext, privileged: bool) -> Seccomp {
    if privileged {
        return Seccomp::Unconfined;
    }
    let pod = spec.security_context.as_ref().and_then(|pod| pod.seccomp_profile.as_ref());
    let profile: Option<&SeccompProfile> = security.seccomp_profile.as_ref().or(pod);
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => Seccomp::Unconfined,
        Some(("Localhost", Some(path))) => Seccomp::Localhost(settings.seccomp_dir.join(path)),
        None if settings.policy.seccomp_unconfined => Seccomp::Unconfined,
        _ => Seccomp::RuntimeDefault,
    }
}

/// The volumes that a container mounts and that are images.
pub fn image_volumes<'a>(
    spec: &'a PodSpec,
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, &'a ImageVolumeSource)> {
    let mounted = move |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    let images = spec.volumes.iter().flatten().filter_map(|v| Some((v.name.as_str(), v.image.as_ref()?)));
    images.filter(move |(name, _)| mounted(name))
}

fn mounts(
    spec: &PodSpec,
    container: &Container,
    images: &[VolumeImage],
    known: impl Fn(&str) -> Option<String>,
) -> Result<(Vec<MountPlan>, Vec<ImageVolume>), String> {
    let (mut mounts, mut of_images) = (Vec::new(), Vec::new());
    for mount in container.volume_mounts.iter().flatten() {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let destination = absolute(&mount.mount_path);
        if volume.is_some_and(|volume| volume.image.is_some()) {
            let found = images.iter().find(|image| image.volume == mount.name);
            let found = found.ok_or_else(|| format!("volume \"{}\" is not there", mount.name))?;
            let sub_path = sub_path(mount, &known)?.unwrap_or_default();
            of_images.push(ImageVolume { image: Arc::clone(&found.image), sub_path, destination });
            continue;
        }
        mounts.push(MountPlan {
            volume: mount.name.clone(),
            sub_path: sub_path(mount, &known)?,
            destination,
            read_only: mount.read_only.unwrap_or_default() || volume.is_some_and(always_read_only),
            recursive_read_only: recursive_read_only(mount)?,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    // A mount below another one has to come after it.
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok((mounts, of_images))
}

/// Container over pod.
fn apparmor(spec: &PodSpec, security: &SecurityContext) -> AppArmor {
    let pod = spec.security_context.as_ref().and_then(|pod| pod.app_armor_profile.as_ref());
    let profile: Option<&AppArmorProfile> = security.app_armor_profile.as_ref().or(pod);
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_ref())) {
        None => AppArmor::Usual,
        Some(("Unconfined", _)) => AppArmor::Unconfined,
        Some(("Localhost", Some(name))) => AppArmor::Localhost(name.clone()),
        Some(_) => AppArmor::RuntimeDefault,
    }
}

/// What the API server has checked, and nobody for pods from files.
fn recursive_read_only(mount: &VolumeMount) -> Result<bool, String> {
    let name = &mount.name;
    let wanted = format!("volume \"{name}\" requested recursive read-only mode, but it is not");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => Ok(false),
        Some("IfPossible" | "Enabled") => {
            if mount.read_only != Some(true) {
                return Err(format!("{wanted} read-only"));
            }
            match mount.mount_propagation.as_deref() {
                None | Some("None") => Ok(true),
                Some(other) => Err(format!("{wanted} compatible with propagation \"{other}\"")),
            }
        }
        Some(other) => Err(format!("unknown recursive read-only mode \"{other}\"")),
    }
}

fn sub_path(mount: &VolumeMount, known: &impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let Some(expression) = filled(&mount.sub_path_expr) else { return Ok(filled(&mount.sub_path)) };
    if let Some(missing) =
        names(&expression).into_iter().find(|name| known(name).is_none_or(|v| v.is_empty()))
    {
        return Err(format!("missing value for {missing}"));
    }
    Ok(Some(expand(&expression, known)))
}

/// Content that the node writes and containers only read.
fn always_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(pod_spec: &str, image_user: &str, expect: Expect) {
        let mut pod: Pod = serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u}}").unwrap();
        pod.spec = Some(serde_norway::from_str(pod_spec).unwrap());
        let mut image = Image { id: "sha256:1".into(), ..Image::default() };
        image.config.user = image_user.into();
        let parts = Parts {
            settings: &Settings::for_tests(),
            pod_ref: &super::super::desired::pod_ref(&pod),
            container: &pod.spec.as_ref().unwrap().containers[0],
            pod: &pod,
            attempt: 3,
            images: &Images { own: Arc::new(image), ..Images::default() },
            env: vec![("A".into(), "1".into())],
        };
        let text = match spec(parts) {
            Ok((spec, mounts)) => {
                let id = |id: Option<u32>| id.map_or("image's".to_owned(), |id| id.to_string());
                let UserRequest { uid, gid, additional_gids, .. } = &spec.user;
                let user = format!("{}:{}:{additional_gids:?}", id(*uid), id(*gid));
                let mut text = format!(
                    "run {:?} {:?} as {user} log {} seccomp {:?}\n",
                    spec.command,
                    spec.args,
                    spec.log_path.display(),
                    spec.seccomp
                );
                for m in mounts {
                    let sub = m.sub_path.map(|sub| format!("/{sub}")).unwrap_or_default();
                    let mode = match (m.read_only, m.recursive_read_only) {
                        (_, true) => "rro",
                        (true, false) => "ro",
                        (false, false) => "rw",
                    };
                    text += &format!("mount {}{sub} at {} {mode}\n", m.volume, m.destination.display());
                }
                text
            }
            Err(error) => format!("error: {error}\n"),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn image_is_shown_by_the_name_that_was_asked_for() {
        let tags = ["r.example/x:1", "docker.io/library/nginx:latest", "docker.io/library/nginx:1.2"];
        let image = Image { tags: tags.map(Into::into).into(), ..Image::default() };
        assert_eq!(shown_name("nginx", &image), tags[1]);
        assert_eq!(shown_name("nginx:1.2", &image), tags[2]);
        assert_eq!(shown_name("sha256:0", &image), tags[0]);
    }

    #[test]
    fn words_are_expanded() {
        check(
            "{containers: [{name: c, command: [\"$(A)\", \"$(B)\"], args: [\"$$(A)\"]}]}",
            "",
            expect![[r#"
                run ["1", "$(B)"] ["$(A)"] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
            "#]],
        );
    }

    #[test]
    fn user_of_container_over_pod_over_image() {
        let spec = "{securityContext: {runAsUser: 7, runAsGroup: 8, fsGroup: 9, supplementalGroups: [10], \
                    seccompProfile: {type: Unconfined}}, containers: [{name: c}]}";
        check(
            spec,
            "1000:1001",
            expect![[r#"
                run [] [] as 7:8:[10, 9] log /logs/ns_p_u/c/3.log seccomp Unconfined
            "#]],
        );
        check(
            "{containers: [{name: c, securityContext: {privileged: true}}]}",
            "www",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp Unconfined
            "#]],
        );
    }

    #[test]
    fn root_is_refused_where_it_must_be() {
        let spec = "{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}";
        check(
            spec,
            "",
            expect![[r#"
                error: container has runAsNonRoot and image will run as root (pod: "p_ns(u)", container: c)
            "#]],
        );
        check(
            spec,
            "www",
            expect![[r#"
                error: container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "p_ns(u)", container: c)
            "#]],
        );
        check(
            spec,
            "7",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
            "#]],
        );
    }

    #[test]
    fn read_only_all_the_way_down_where_that_can_be() {
        let check = |mount: &str, expect| {
            let spec = format!(
                "{{volumes: [{{name: e, emptyDir: {{}}}}], containers: [{{name: c, volumeMounts: [{{name: e, \
                 mountPath: /a, {mount}}}]}}]}}"
            );
            check(&spec, "", expect);
        };
        check(
            "readOnly: true, recursiveReadOnly: Enabled",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
                mount e at /a rro
            "#]],
        );
        check(
            "readOnly: true, recursiveReadOnly: IfPossible, mountPropagation: None",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
                mount e at /a rro
            "#]],
        );
        check(
            "readOnly: true, recursiveReadOnly: Disabled",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
                mount e at /a ro
            "#]],
        );
        check(
            "recursiveReadOnly: Enabled",
            expect![[r#"
                error: volume "e" requested recursive read-only mode, but it is not read-only
            "#]],
        );
        check(
            "readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer",
            expect![[r#"
                error: volume "e" requested recursive read-only mode, but it is not compatible with propagation "HostToContainer"
            "#]],
        );
    }

    #[test]
    fn mounts_parents_first_and_written_volumes_read_only() {
        check(
            "{volumes: [{name: m, configMap: {name: x}}, {name: e, emptyDir: {}}], containers: [{name: c, volumeMounts: \
             [{name: m, mountPath: /a/b}, {name: e, mountPath: /a, subPathExpr: \"$(A)/x\"}]}]}",
            "",
            expect![[r#"
                run [] [] as image's:image's:[] log /logs/ns_p_u/c/3.log seccomp RuntimeDefault
                mount e/1/x at /a rw
                mount m at /a/b ro
            "#]],
        );
        check(
            "{volumes: [{name: e, emptyDir: {}}], containers: [{name: c, volumeMounts: \
             [{name: e, mountPath: /a, subPathExpr: \"$(NOPE)\"}]}]}",
            "",
            expect![[r#"
                error: missing value for NOPE
            "#]],
        );
    }
}

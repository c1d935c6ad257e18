//! `[p]` What runs on this machine, in the words of CRI.

use std::net::IpAddr;

use jiff::Timestamp;
use orlop_cri_api::v1::{
    Container as CriContainer, ContainerConfig, ContainerResources, ContainerState as CriState,
    ContainerStatus, ContainerUser, Image as CriImage, ImageSpec, Int64Value, LinuxContainerUser,
    LinuxPodSandboxStatus, Namespace, NamespaceMode, NamespaceOption, PodIp, PodSandbox, PodSandboxConfig,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use orlop_runtime::{Container, ContainerState, Exit, Sandbox, image::Image};

use super::{
    container::image_ref,
    kept::{self, created},
};

/// Nanoseconds since the epoch; 0 where there is no such time.
pub(in crate::cri) fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(0)
}

/// A sandbox whose shim is gone, or was ended, has nothing that runs and gets nothing new.
pub(in crate::cri) fn pod_state(sandbox: &Sandbox) -> PodSandboxState {
    if sandbox.shim_alive { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

pub(in crate::cri) fn pod(sandbox: &Sandbox) -> PodSandbox {
    let config = kept::pod(sandbox);
    PodSandbox {
        id: sandbox.pod.uid.clone(),
        metadata: config.metadata,
        state: pod_state(sandbox).into(),
        created_at: nanos(sandbox.created_at),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: String::new(),
    }
}

pub(in crate::cri) fn pod_status(sandbox: &Sandbox, addresses: &[IpAddr]) -> PodSandboxStatus {
    let PodSandbox { id, metadata, state, created_at, labels, annotations, runtime_handler } = pod(sandbox);
    let mut ips = addresses.iter().map(ToString::to_string);
    let ip = ips.next().unwrap_or_default();
    let additional_ips = ips.map(|ip| PodIp { ip }).collect();
    PodSandboxStatus {
        id,
        metadata,
        state,
        created_at,
        network: Some(PodSandboxNetworkStatus { ip, additional_ips }),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace { options: Some(namespaces(&kept::pod(sandbox), sandbox)) }),
        }),
        labels,
        annotations,
        runtime_handler,
    }
}

fn namespaces(config: &PodSandboxConfig, sandbox: &Sandbox) -> NamespaceOption {
    let said =
        config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
    if kept::owns(&sandbox.pod.uid) {
        return said.unwrap_or_default();
    }
    said.unwrap_or_else(|| {
        let host = sandbox.netns.is_none();
        let network = if host { NamespaceMode::Node } else { NamespaceMode::Pod };
        NamespaceOption {
            network: network.into(),
            pid: NamespaceMode::Container.into(),
            ..NamespaceOption::default()
        }
    })
}

pub(in crate::cri) fn container_state(container: &Container) -> CriState {
    match container.state {
        ContainerState::Created => CriState::ContainerCreated,
        ContainerState::Running { .. } => CriState::ContainerRunning,
        ContainerState::Exited(_) => CriState::ContainerExited,
    }
}

pub(in crate::cri) fn container(sandbox: &Sandbox, container: &Container) -> CriContainer {
    let config = kept::container(sandbox, container);
    CriContainer {
        id: container.id.clone(),
        pod_sandbox_id: sandbox.pod.uid.clone(),
        image: Some(image_spec(&config)),
        metadata: config.metadata,
        image_ref: container.image_id.clone(),
        state: container_state(container).into(),
        created_at: nanos(created(container)),
        labels: config.labels,
        annotations: config.annotations,
        image_id: container.image_id.clone(),
    }
}

fn image_spec(config: &ContainerConfig) -> ImageSpec {
    ImageSpec { user_specified_image: image_ref(config), ..config.image.clone().unwrap_or_default() }
}

/// `image` is what is known of the container's image now; it may be gone.
pub(in crate::cri) fn container_status(
    sandbox: &Sandbox,
    found: &Container,
    image: Option<&Image>,
) -> ContainerStatus {
    let config = kept::container(sandbox, found);
    let mut status = ContainerStatus {
        id: found.id.clone(),
        state: container_state(found).into(),
        created_at: nanos(created(found)),
        image: Some(image_spec(&config)),
        image_ref: image.and_then(|image| image.digests.first()).unwrap_or(&found.image_id).clone(),
        image_id: found.image_id.clone(),
        log_path: found.log_path.to_string_lossy().into_owned(),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        resources: config
            .linux
            .and_then(|linux| linux.resources)
            .map(|linux| ContainerResources { linux: Some(linux), ..ContainerResources::default() }),
        user: found.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.additional_gids.iter().copied().map(i64::from).collect(),
            }),
        }),
        ..ContainerStatus::default()
    };
    match &found.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at, .. } => status.started_at = nanos(*started_at),
        ContainerState::Exited(exit) => {
            // One that never ran has no time of its start.
            if !never_ran(exit) {
                status.started_at = nanos(exit.started_at);
            }
            status.finished_at = nanos(exit.finished_at);
            status.exit_code = exit.code;
            reason(exit).clone_into(&mut status.reason);
        }
    }
    status
}

fn never_ran(exit: &Exit) -> bool {
    exit.code == 128 && exit.signal.is_none() && exit.started_at == exit.finished_at
}

fn reason(exit: &Exit) -> &'static str {
    match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        exit if never_ran(exit) => "StartError",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    }
}

/// An image; `pinned` ones a client shall not remove of itself.
pub(in crate::cri) fn image(image: &Image, pinned: bool) -> CriImage {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let number = user.parse::<i64>().ok().map(|value| Int64Value { value });
    CriImage {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        username: if number.is_some() { String::new() } else { user.to_owned() },
        uid: number,
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use orlop_runtime::{User, image::ImageConfig};

    use super::{
        super::kept::tests::{one, sandbox},
        *,
    };

    fn check(state: ContainerState, expected: &Expect) {
        let mut container = one(BTreeMap::new());
        container.state = state;
        container.user = Some(User { uid: 5, gid: 6, additional_gids: vec![6] });
        let status = container_status(&sandbox(BTreeMap::new()), &container, None);
        let ContainerStatus { created_at, started_at, finished_at, exit_code, reason, image_ref, .. } =
            &status;
        expected.assert_eq(&format!(
            "{:?} created {created_at} started {started_at} finished {finished_at} code {exit_code} {reason:?} {image_ref}",
            status.state()
        ));
    }

    #[test]
    fn lives_of_containers() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let exit = |code, oom_killed, started| {
            let (started_at, finished_at) = (at(started), at(9));
            ContainerState::Exited(Exit { code, signal: None, oom_killed, started_at, finished_at })
        };
        check(
            ContainerState::Created,
            &expect![[r#"ContainerCreated created 0 started 0 finished 0 code 0 "" sha256:1"#]],
        );
        check(
            exit(0, false, 5),
            &expect![[
                r#"ContainerExited created 5000000000 started 5000000000 finished 9000000000 code 0 "Completed" sha256:1"#
            ]],
        );
        check(
            exit(137, true, 5),
            &expect![[
                r#"ContainerExited created 5000000000 started 5000000000 finished 9000000000 code 137 "OOMKilled" sha256:1"#
            ]],
        );
        check(
            exit(128, false, 9),
            &expect![[
                r#"ContainerExited created 9000000000 started 0 finished 9000000000 code 128 "StartError" sha256:1"#
            ]],
        );
        check(
            exit(1, false, 5),
            &expect![[
                r#"ContainerExited created 5000000000 started 5000000000 finished 9000000000 code 1 "Error" sha256:1"#
            ]],
        );
    }

    #[test]
    fn users_of_images_by_number_or_name() {
        for (user, expected) in [("1000:5", (Some(1000), "")), ("web:x", (None, "web")), ("", (None, ""))] {
            let config = ImageConfig { user: user.into(), ..ImageConfig::default() };
            let seen = image(&Image { config, ..Image::default() }, false);
            assert_eq!((seen.uid.map(|uid| uid.value), seen.username.as_str()), expected, "{user:?}");
        }
    }
}

//! Everything a container sees mounted: volumes, names, termination log.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{layout::Layout, sub_path};
use crate::{
    pod::{
        container::MountPlan,
        desired::pod_ref,
        machine::{Mount, Propagation},
        names,
        settings::Settings,
    },
    worker::ports::MountRequest,
};

/// The work of one request, free of what it was asked with.
pub(super) struct Job {
    layout: Layout,
    uid: String,
    container: String,
    plans: Vec<(MountPlan, Option<PathBuf>)>,
    /// Volumes that nobody may write.
    sealed: BTreeSet<String>,
    files: Vec<Names>,
    read_only: bool,
    termination: (PathBuf, PathBuf),
}

/// One of the small files every container has.
struct Names {
    path: PathBuf,
    destination: &'static str,
    content: String,
}

impl Job {
    pub(super) fn new(settings: &Settings, layout: &Layout, request: &MountRequest<'_>) -> Job {
        let MountRequest { pod, container, attempt, plans, volumes, pod_ips } = request;
        let uid = pod_ref(pod).uid;
        let own = |path: &str| {
            let mut mounts = container.volume_mounts.iter().flatten();
            mounts.any(|mount| Path::new("/").join(&mount.mount_path) == Path::new(path))
        };
        let hostname = names::kernel_hostname(settings, pod).unwrap_or_default() + "\n";
        let all = [
            ("etc-hosts", "/etc/hosts", names::hosts(settings, pod, pod_ips)),
            ("resolv.conf", "/etc/resolv.conf", names::resolv_conf(settings, pod).0),
            ("hostname", "/etc/hostname", hostname),
        ];
        let files = all.into_iter().filter(|(_, destination, _)| !own(destination));
        let directory = layout.pod(&uid);
        let message = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
        let security = container.security_context.as_ref();
        Job {
            plans: plans
                .iter()
                .map(|plan| (plan.clone(), volumes.paths.get(&plan.volume).cloned()))
                .collect(),
            files: files
                .map(|(name, destination, content)| Names {
                    path: directory.join(name),
                    destination,
                    content,
                })
                .collect(),
            read_only: security.and_then(|s| s.read_only_root_filesystem).unwrap_or_default(),
            termination: (
                layout.termination_log(&uid, &container.name, *attempt),
                // A path that is not absolute begins at the root too.
                Path::new("/").join(message.unwrap_or("/dev/termination-log")),
            ),
            sealed: volumes.read_only.clone(),
            container: container.name.clone(),
            layout: layout.clone(),
            uid,
        }
    }

    pub(super) fn run(self) -> Result<Vec<Mount>, String> {
        let text = |error: io::Error| format!("error making pod data directories: {error}");
        let mut mounts = Vec::new();
        fs::create_dir_all(self.layout.pod(&self.uid)).map_err(text)?;
        for file in &self.files {
            refresh(&file.path, &file.content).map_err(text)?;
            // As the kubelet has it: the hosts file is the pod's own and stays writable.
            let read_only = self.read_only && file.destination != "/etc/hosts";
            mounts.push(bind(file.path.clone(), file.destination.into(), read_only));
        }
        let (log, destination) = &self.termination;
        termination_log(log).map_err(text)?;
        mounts.push(bind(log.clone(), destination.clone(), false));
        for (index, (plan, volume)) in self.plans.iter().enumerate() {
            let volume = volume.as_ref().ok_or_else(|| format!("volume \"{}\" is not there", plan.volume))?;
            mounts.push(Mount {
                source: self.source(index, plan, volume)?,
                destination: plan.destination.clone(),
                read_only: plan.read_only || self.sealed.contains(&plan.volume),
                recursive_read_only: plan.recursive_read_only,
                propagation: plan.propagation,
                keep_owners: false,
            });
        }
        Ok(mounts)
    }

    fn source(&self, index: usize, plan: &MountPlan, volume: &Path) -> Result<PathBuf, String> {
        let Some(sub_path) = &plan.sub_path else { return Ok(volume.to_path_buf()) };
        let target = self.layout.sub_path(&self.uid, &plan.volume, &self.container, index);
        sub_path::prepare(volume, sub_path, &target).map_err(|error| {
            tracing::info!(uid = self.uid, volume = plan.volume, sub_path, %error, "sub path");
            format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\"",
                plan.volume, self.container
            )
        })?;
        Ok(target)
    }
}

fn bind(source: PathBuf, destination: PathBuf, read_only: bool) -> Mount {
    let (recursive_read_only, propagation) = (false, Propagation::Private);
    Mount { source, destination, read_only, recursive_read_only, propagation, keep_owners: false }
}

/// In place: the file may be mounted in other containers of the pod.
fn refresh(path: &Path, content: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// Writable for whoever the container runs as.
fn termination_log(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().append(true).create(true).open(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

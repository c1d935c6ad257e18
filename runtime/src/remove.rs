//! Taking containers and pods away: every step is tried, every failure reported, and asking again is fine.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use orlop_shim::{
    protocol::Request,
    records::{ExitRecord, PidRecord},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Signal, pidfd_send_signal},
};

use crate::{
    api::ContainerState,
    bundle,
    client::{Runtime, blocking, shims_cgroup},
    ends,
    errors::{RemoveError, SandboxError},
    records::{self, SandboxRecord},
    rootfs, sandbox,
    shim::Shim,
    view,
};

/// How long the shim may take to see the end of what was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What `waitpid` says of a process that KILL has ended.
const KILLED: i32 = 9;
/// How long a shim that was killed may take to be gone.
const SHIM_PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

impl Runtime {
    /// Removes a dead container: root file system, cgroup, files. Its log stays. Fine if it is gone.
    pub async fn remove_container(&self, uid: &str, id: &str) -> Result<(), RemoveError> {
        if matches!(self.0.layout.container_state(uid, id), ContainerState::Running { .. }) {
            return Err(RemoveError::Running(id.to_owned()));
        }
        if let Ok(shim) = self.shim(uid) {
            // Refused for one that is being created; a shim that is gone has nothing to forget.
            if shim.done(Request::Forget { id: id.to_owned() }).await.is_err() && self.shim(uid).is_ok() {
                return Err(RemoveError::Running(id.to_owned()));
            }
        }
        let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
        let left = blocking(move || runtime.clean_container(&uid, &id)).await;
        if left.is_empty() { Ok(()) } else { Err(RemoveError::LeftBehind(left)) }
    }

    /// Removes a pod with all that is left of it: processes, mounts, namespaces, cgroups, files. Fine if it is gone.
    pub async fn remove_sandbox(&self, uid: &str) -> Result<(), SandboxError> {
        if !bundle::is_file_name(uid) {
            return Err(SandboxError::Uid(uid.to_owned()));
        }
        let shim = self.forget_shim(uid);
        let (runtime, pod) = (self.clone(), uid.to_owned());
        blocking(move || runtime.kill_pod(&pod)).await;
        if let Some(shim) = shim {
            self.end_shim(uid, &shim).await;
        }
        let (runtime, pod) = (self.clone(), uid.to_owned());
        let left = blocking(move || runtime.clean_pod(&pod)).await;
        if left.is_empty() { Ok(()) } else { Err(SandboxError::LeftBehind(left)) }
    }

    /// Ends all of a pod, at once; its records, and the directories that its containers wrote to, stay until it is removed.
    /// Fine if it has ended.
    pub async fn stop_sandbox(&self, uid: &str) {
        if let Some(shim) = self.forget_shim(uid) {
            self.end_shim(uid, &shim).await;
        }
        self.bury(uid).await;
        let (runtime, pod) = (self.clone(), uid.to_owned());
        blocking(move || runtime.keep_stopped(&pod)).await;
    }

    fn keep_stopped(&self, uid: &str) {
        let layout = &self.0.layout;
        let kept = match layout.sandbox(uid) {
            Ok(Some(record)) if !record.stopped => {
                let record = SandboxRecord { stopped: true, ..record };
                records::write_json(&layout.pod(uid).join(bundle::SANDBOX), &record)
            }
            other => other.map(drop),
        };
        if let Err(error) = kept {
            tracing::warn!(uid, %error, "a pod that was stopped keeps its ids until it is removed");
        }
    }

    /// Kills what the shim keeps and waits until it is gone too.
    async fn end_shim(&self, uid: &str, shim: &Shim) {
        let end = async {
            // Refused while it has children: they were killed, it only has to see it.
            while let Err(crate::errors::ShimError::Refused { .. }) = shim.done(Request::Exit).await {
                let (runtime, pod) = (self.clone(), uid.to_owned());
                tokio::time::sleep(Duration::from_millis(5)).await;
                blocking(move || runtime.kill_pod(&pod)).await;
            }
        };
        drop(tokio::time::timeout(PATIENCE, end).await);
    }

    fn kill_pod(&self, uid: &str) {
        if let Ok(Some(record)) = self.0.layout.sandbox(uid) {
            self.0.hierarchies.kill(&record.spec.cgroup);
        }
    }

    /// Keeps an eye on a container's process, unless its end is known: the shim's word came first then.
    pub(crate) fn hold(&self, uid: &str, id: &str) {
        let dir = self.0.layout.container(uid, id);
        let record = fs::read_to_string(dir.join(bundle::PID)).ok();
        if let Some(process) = record.and_then(|text| PidRecord::from_text(&text)) {
            self.0.ends.hold(id, &process);
        }
        if dir.join(bundle::EXIT).exists() {
            self.0.ends.forget(id);
        }
    }

    /// The same for all of a pod.
    pub(crate) fn hold_running(&self, uid: &str) {
        records::directories(&self.0.layout.containers(uid)).iter().for_each(|id| self.hold(uid, id));
    }

    /// The shim is gone: kills what it kept and writes the ends it cannot write any more.
    pub(crate) async fn bury(&self, uid: &str) {
        let (runtime, uid) = (self.clone(), uid.to_owned());
        blocking(move || {
            // Starts that were not answered, and what a former process of ours had started.
            runtime.hold_running(&uid);
            runtime.kill_pod(&uid);
            runtime.write_lost_ends(&uid);
        })
        .await;
    }

    fn write_lost_ends(&self, uid: &str) {
        let _alone = self.0.ends.writing();
        let containers = self.0.layout.pod_containers(uid);
        let open =
            containers.iter().filter(|container| !matches!(container.state, ContainerState::Exited(_)));
        for (id, status) in self.0.ends.take(open.map(|container| container.id.as_str())) {
            // Where nobody saw the end, ours is assumed.
            let ExitRecord { code, signal, .. } =
                ExitRecord::from_wait(status.unwrap_or(KILLED), false, 0, 0);
            self.write_end(uid, id, code, signal);
        }
    }

    /// An end that no shim can tell of.
    pub(crate) fn write_end(&self, uid: &str, id: &str, code: i32, signal: i32) {
        let dir = self.0.layout.container(uid, id);
        let now = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        let pid = fs::read_to_string(dir.join(bundle::PID)).unwrap_or_default();
        let started = PidRecord::from_text(&pid).map_or(now, |record| record.started);
        let end = ExitRecord { code, signal, oom: false, started, finished: now };
        if let Err(error) = records::write(&dir.join(bundle::EXIT), end.to_text().as_bytes()) {
            tracing::error!(uid, id, %error, "write the end of a container");
        }
    }

    /// Everything of one container but its log. Every step, every failure.
    pub(crate) fn clean_container(&self, uid: &str, id: &str) -> Vec<String> {
        let layout = &self.0.layout;
        let dir = layout.container(uid, id);
        let mut left = Vec::new();
        self.0.ends.forget(id);
        if let Ok(Some(pod)) = layout.sandbox(uid) {
            let removed = self.0.hierarchies.remove(&format!("{}/{id}", pod.spec.cgroup));
            left.extend(removed.into_iter().map(|error| chain(&error)));
        }
        let mut step = |what: &str, path: &Path, result: io::Result<()>| {
            left.extend(result.err().map(|error| format!("{what} {}: {error}", path.display())));
        };
        let root = dir.join(bundle::ROOTFS);
        step("unmount", &root, rootfs::unmount_all(&root));
        // Only if its making was cut off.
        let layers = root.with_extension("layers");
        step("unmount", &layers, rootfs::unmount_all(&layers));
        let images = fs::read_dir(dir.join(bundle::IMAGES)).into_iter().flatten().flatten();
        let images: Vec<PathBuf> = images.map(|entry| entry.path()).collect();
        images.iter().for_each(|place| step("unmount", place, rootfs::unmount_all(place)));
        let writable = layout.writable(id);
        // Never through a mount that would not go: that would delete what is mounted.
        if ![&root, &layers].into_iter().chain(&images).any(|path| rootfs::is_mount_point(path)) {
            step("remove", &dir, remove_dir(&dir));
        }
        // The image is released before the last trace goes: a sweep then still finds what to release.
        left.extend(self.0.layers.release(id).err().map(|error| format!("release the image: {error}")));
        left.extend(
            remove_dir(&writable).err().map(|error| format!("remove {}: {error}", writable.display())),
        );
        left
    }

    /// What a process that was killed between two steps has left without a record.
    pub(crate) fn sweep(&self) {
        let layout = &self.0.layout;
        let pods = records::directories(&layout.pods());
        for uid in pods.iter().filter(|uid| matches!(layout.sandbox(uid), Ok(None))) {
            let left = self.clean_pod(uid);
            tracing::info!(uid, ?left, "removed a pod's directory without a record");
        }
        let ids: HashSet<String> =
            pods.iter().flat_map(|uid| records::directories(&layout.containers(uid))).collect();
        for id in records::directories(&layout.writables()).into_iter().filter(|id| !ids.contains(id)) {
            let removed = remove_dir(&layout.writable(&id));
            let released = self.0.layers.release(&id);
            tracing::info!(id, ?removed, ?released, "removed the files of a container that is gone");
        }
        if let Err(error) = view::unbind(&layout.pods()) {
            tracing::warn!(%error, "unmount the empty directory of pods");
        }
    }

    fn clean_pod(&self, uid: &str) -> Vec<String> {
        let layout = &self.0.layout;
        let dir = layout.pod(uid);
        let pod = layout.sandbox(uid).ok().flatten();
        let mut left = Vec::new();
        left.extend(
            kill_recorded(&dir.join(bundle::PID)).err().map(|error| format!("kill the shim: {error}")),
        );
        for id in records::directories(&layout.containers(uid)) {
            left.extend(self.clean_container(uid, &id));
        }
        left.extend(sandbox::remove_mounts(layout, uid));
        if let Some(record) = pod {
            let removed = self.0.hierarchies.remove(&record.spec.cgroup);
            left.extend(removed.into_iter().map(|error| chain(&error)));
            self.0.hierarchies.disown(&shims_cgroup(&record.spec.cgroup));
        }
        let _alone = self.pods_mount();
        // The record goes last: as long as something is left, a new attempt must know what.
        if left.is_empty() {
            left.extend(remove_dir(&dir).err().map(|error| format!("remove {}: {error}", dir.display())));
            left.extend(view::unbind(&layout.pods()).err().map(|error| format!("unmount the pods: {error}")));
        }
        left
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// KILL to the process a `pid` file tells of, if it is still that one, and its end: a shim's working directory is the
/// pod's, and as long as it is there the mount above is in use.
fn kill_recorded(file: &Path) -> io::Result<()> {
    let record = fs::read_to_string(file).ok().and_then(|text| PidRecord::from_text(&text));
    let Some(record) = record else { return Ok(()) };
    let Some(fd) = ends::open(&record)? else { return Ok(()) };
    match pidfd_send_signal(&fd, Signal::KILL) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        Ok(()) => {
            let mut end = [PollFd::new(&fd, PollFlags::IN)];
            Ok(retry_on_intr(|| poll(&mut end, Some(&SHIM_PATIENCE))).map(drop)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}

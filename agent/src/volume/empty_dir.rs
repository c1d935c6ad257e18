//! emptyDir: a directory, or a tmpfs of limited size.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use orlop_model::quantities::Quantity;
use rustix::{
    fs::{StatFs, statfs},
    mount::{MountFlags, mount},
};

use crate::pod::{resources, settings::Settings};

const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Bytes a volume in memory may hold: its own limit, the pod's memory limit, what the node has; the least of them.
pub(super) fn size(settings: &Settings, spec: &PodSpec, volume: &EmptyDirVolumeSource) -> i64 {
    let own = volume.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok());
    let own = own.and_then(|limit| i64::try_from(limit.value()).ok()).filter(|bytes| *bytes > 0);
    let pod = resources::of_pod(settings, spec).memory_limit;
    let node = Some(settings.allocatable.memory).filter(|bytes| *bytes > 0);
    [own, pod, node].into_iter().flatten().min().unwrap_or(i64::MAX)
}

/// Makes the directory; `size` puts a tmpfs on it.
pub(super) fn prepare(path: &Path, size: Option<i64>) -> Result<(), String> {
    let text = |error: io::Error| format!("make {}: {error}", path.display());
    let known = path.exists();
    fs::create_dir_all(path).map_err(text)?;
    match size {
        Some(_) if is_mount(path).map_err(text)? => Ok(()),
        Some(size) => mount_tmpfs(path, &format!("size={size}")).map_err(text),
        // What a container made of it stays.
        None if known => Ok(()),
        None => fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(text),
    }
}

/// Puts a tmpfs on a directory that is not on one.
pub(super) fn keep_in_memory(path: &Path) -> io::Result<()> {
    let StatFs { f_type, .. } = statfs(path)?;
    if u64::try_from(f_type).is_ok_and(|magic| magic == TMPFS_MAGIC) {
        return Ok(());
    }
    mount_tmpfs(path, "mode=755")
}

/// Never on a swap device where the kernel can promise that (6.4).
fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let attempt = |options: &str| {
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str())).map_err(io::Error::from)
    };
    match attempt(&format!("{options},noswap")) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            attempt(options)
        }
        result => result,
    }
}

/// Whether something is mounted on a directory.
pub(super) fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

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
fn size(settings: &Settings, spec: &PodSpec, volume: &EmptyDirVolumeSource) -> i64 {
    let own = volume.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok());
    let own = own.and_then(|limit| i64::try_from(limit.value()).ok()).filter(|bytes| *bytes > 0);
    let pod = resources::of_pod(settings, spec).memory_limit;
    let node = Some(settings.allocatable.memory).filter(|bytes| *bytes > 0);
    [own, pod, node].into_iter().flatten().min().unwrap_or(i64::MAX)
}

/// What a volume is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// The node's disk.
    Disk,
    /// Memory, at most so many bytes.
    Memory(i64),
    /// Huge pages of this size in bytes.
    HugePages(i64),
}

impl Medium {
    /// Of a volume; a size that is not named is the one that the pod uses.
    pub(super) fn of(
        settings: &Settings,
        spec: &PodSpec,
        volume: &EmptyDirVolumeSource,
    ) -> Result<Medium, String> {
        let pages = |size: &str| {
            let size = Quantity::parse(size).ok().and_then(|size| i64::try_from(size.value()).ok());
            size.filter(|size| *size > 0)
        };
        match volume.medium.as_deref() {
            Some("Memory") => Ok(Medium::Memory(size(settings, spec, volume))),
            Some(medium @ "HugePages") => match resources::hugepage_sizes(spec).as_slice() {
                [one] => huge_pages(settings, spec, medium, *one),
                [] => Err("medium HugePages: the pod asks for none".to_owned()),
                _ => Err("medium HugePages: the pod asks for several sizes".to_owned()),
            },
            Some(medium) if medium.starts_with("HugePages-") => {
                let size = medium.strip_prefix("HugePages-").and_then(pages);
                let size = size.ok_or_else(|| format!("medium {medium} is not known"))?;
                huge_pages(settings, spec, medium, size)
            }
            _ => Ok(Medium::Disk),
        }
    }
}

/// Pages of this size, if the pod asks for some and the machine has any.
fn huge_pages(settings: &Settings, spec: &PodSpec, medium: &str, size: i64) -> Result<Medium, String> {
    if !resources::hugepage_sizes(spec).contains(&size) {
        return Err(format!("medium {medium}: the pod asks for no huge pages of {} KiB", size >> 10));
    }
    if !settings.hugepages.contains(&size) {
        return Err(format!("medium {medium}: this node has no huge pages of {} KiB", size >> 10));
    }
    Ok(Medium::HugePages(size))
}

/// Makes the directory, with a file system of its own where the medium is not the disk.
pub(super) fn prepare(path: &Path, medium: &Medium) -> Result<(), String> {
    let text = |error: io::Error| format!("make {}: {error}", path.display());
    let known = path.exists();
    fs::create_dir_all(path).map_err(text)?;
    match medium {
        Medium::Memory(_) | Medium::HugePages(_) if is_mount(path).map_err(text)? => Ok(()),
        Medium::Memory(size) => mount_tmpfs(path, &format!("size={size}")).map_err(text),
        Medium::HugePages(size) => mount_huge_pages(path, *size).map_err(text),
        // What a container made of it stays.
        Medium::Disk if known => Ok(()),
        Medium::Disk => fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(text),
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

fn mount_huge_pages(path: &Path, size: i64) -> io::Result<()> {
    let options = std::ffi::CString::new(format!("pagesize={size},mode=777"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("hugetlbfs", path, "hugetlbfs", flags, Some(options.as_c_str())).map_err(io::Error::from)
}

/// Whether something is mounted on a directory.
pub(super) fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Medium, and what a container may have of huge pages, on a node with pages of 2 MiB.
    fn check(medium: &str, limits: &str) -> Result<Medium, String> {
        let settings = Settings { hugepages: vec![2 << 20], ..Settings::for_tests() };
        let spec = format!("{{containers: [{{name: c, resources: {{limits: {{{limits}}}}}}}]}}");
        let volume = EmptyDirVolumeSource { medium: Some(medium.to_owned()), size_limit: None };
        Medium::of(&settings, &serde_norway::from_str(&spec).unwrap(), &volume)
    }

    #[test]
    fn huge_pages_must_be_asked_for_and_be_there() {
        let (small, large) = ("hugepages-2Mi: 4Mi", "hugepages-1Gi: 1Gi");
        assert_eq!(check("HugePages", small), Ok(Medium::HugePages(2 << 20)));
        assert_eq!(check("HugePages-2Mi", small), Ok(Medium::HugePages(2 << 20)));
        let refused = |medium: &str, limits: &str| check(medium, limits).unwrap_err();
        assert_eq!(refused("HugePages", ""), "medium HugePages: the pod asks for none");
        assert_eq!(
            refused("HugePages", &format!("{small}, {large}")),
            "medium HugePages: the pod asks for several sizes"
        );
        assert_eq!(
            refused("HugePages", large),
            "medium HugePages: this node has no huge pages of 1048576 KiB"
        );
        assert_eq!(
            refused("HugePages-2Mi", large),
            "medium HugePages-2Mi: the pod asks for no huge pages of 2048 KiB"
        );
        assert_eq!(refused("HugePages-much", small), "medium HugePages-much is not known");
    }
}

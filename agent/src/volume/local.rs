//! Local persistent volumes: a directory of the node bound into the pod's, a file system on a device, or the device.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_remount};

use super::sub_path::{detach, is_mount_root};

/// What is mounted and how.
pub(super) struct Local {
    pub(super) path: PathBuf,
    /// Of the file system, where the path is a device.
    pub(super) fs_type: Option<String>,
    pub(super) options: Vec<String>,
    pub(super) read_only: bool,
}

/// Options that every mount can have; others are the file system's.
fn flags(options: &[String]) -> (MountFlags, Vec<&str>) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for option in options.iter().map(String::as_str) {
        flags |= match option {
            "ro" => MountFlags::RDONLY,
            "noexec" => MountFlags::NOEXEC,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "rw" | "exec" | "suid" | "dev" | "defaults" => MountFlags::empty(),
            other => {
                rest.push(other);
                MountFlags::empty()
            }
        };
    }
    (flags, rest)
}

/// Whether the path is there, in upstream's words.
pub(super) fn check(path: &Path) -> Result<fs::FileType, String> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("path {:?} does not exist", path.display().to_string()))
        }
        Err(error) => Err(format!("stat {}: {error}", path.display())),
    }
}

/// Mounts it on a directory of the pod; what is mounted there already stays.
pub(super) fn mount_on(local: &Local, target: &Path) -> Result<(), String> {
    let text = |error: io::Error| format!("mount {} on {}: {error}", local.path.display(), target.display());
    fs::create_dir_all(target).map_err(text)?;
    if is_mount_root(target).map_err(text)? {
        return Ok(());
    }
    let (mut flags, rest) = flags(&local.options);
    if local.read_only {
        flags |= MountFlags::RDONLY;
    }
    let mounted = if check(&local.path)?.is_block_device() {
        let fs_type = local.fs_type.as_deref().filter(|given| !given.is_empty()).unwrap_or("ext4");
        let data = CString::new(rest.join(",")).unwrap_or_default();
        mount(&local.path, target, fs_type, flags, Some(data.as_c_str()))
    } else {
        mount_bind_recursive(&local.path, target).and_then(|()| match flags.is_empty() {
            true => Ok(()),
            false => mount_remount(target, MountFlags::BIND | flags, ""),
        })
    };
    mounted.map_err(|error| {
        // Half done is not done.
        let _still_there = detach(target);
        text(error.into())
    })
}

/// The device itself.
pub(super) fn device(path: &Path) -> Result<(), String> {
    match check(path)?.is_block_device() {
        true => Ok(()),
        false => Err(format!("{} is not a block device", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mounts_and_of_file_systems() {
        let given = ["ro", "noexec", "discard", "rw", "errors=remount-ro"].map(str::to_owned);
        let (flags, rest) = flags(&given);
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOEXEC);
        assert_eq!(rest, ["discard", "errors=remount-ro"]);
    }

    #[test]
    fn a_path_that_is_not_there_says_so_in_upstreams_words() {
        assert_eq!(check(Path::new("/no/such")).unwrap_err(), "path \"/no/such\" does not exist");
        assert_eq!(device(Path::new("/dev")).unwrap_err(), "/dev is not a block device");
    }
}

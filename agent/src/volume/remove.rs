//! The end of a pod's files: unmount first, then remove, and never walk into something that is still mounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::sub_path::{detach, is_mount_root};

/// Unmounts what this module mounts below a pod's directory and removes the directory.
pub(super) fn pod(directory: &Path) -> Result<(), String> {
    sub_paths(directory)?;
    let volumes = ["empty-dir", "local-volume"].into_iter();
    let volumes = volumes.flat_map(|kind| children(&directory.join(format!("volumes/kubernetes.io~{kind}"))));
    for mount in volumes {
        detach(&mount).map_err(|error| text("unmount", &mount, &error))?;
    }
    tree(directory)
}

/// Unmounts parts of volumes that containers had.
pub(super) fn sub_paths(directory: &Path) -> Result<(), String> {
    let volumes = children(&directory.join("volume-subpaths"));
    let containers = volumes.iter().flat_map(|volume| children(volume));
    for mount in containers.flat_map(|container| children(&container)) {
        detach(&mount).map_err(|error| text("unmount", &mount, &error))?;
    }
    Ok(())
}

/// Removes a directory with all it holds.
pub(super) fn tree(directory: &Path) -> Result<(), String> {
    remove(directory)
}

fn remove(path: &Path) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(text("look at", path, &error)),
    };
    match is_mount_root(path) {
        Ok(false) => {}
        Ok(true) => return Err(format!("{} is still mounted", path.display())),
        Err(error) => return Err(text("look at", path, &error)),
    }
    if !kind.is_dir() {
        return fs::remove_file(path).map_err(|error| text("remove", path, &error));
    }
    let failures: Vec<_> = children(path).iter().filter_map(|child| remove(child).err()).collect();
    if let Some(first) = failures.into_iter().next() {
        return Err(first);
    }
    fs::remove_dir(path).map_err(|error| text("remove", path, &error))
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn text(what: &str, path: &Path, error: &io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}

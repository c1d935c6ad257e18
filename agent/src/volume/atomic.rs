//! Files of a volume, replaced all at once: readers see all old ones or all new ones.
//!
//! ```text
//! <volume>/..2026_07_24_10_00_00.123456789/   the files
//! <volume>/..data -> ..2026_07_24_10_00_00.123456789
//! <volume>/key    -> ..data/key               first path components only
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use super::fs_group;

/// One file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// Owner, if not root.
    pub(super) uid: Option<u32>,
}

/// By path relative to the volume.
pub(super) type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the volume show exactly these files. Nothing is written if it does already.
pub(super) fn write(volume: &Path, files: &Files, group: Option<i64>) -> Result<(), String> {
    for path in files.keys() {
        check(path)?;
    }
    replace(volume, files, group).map_err(|error| format!("write volume: {error}"))
}

/// Upstream's rules for paths below a volume.
fn check(path: &str) -> Result<(), String> {
    if path.is_empty() || path.len() > 4096 {
        return Err(format!("invalid path: must be 1 to 4096 bytes long: {path:?}"));
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    let parts: Vec<_> = path.split('/').collect();
    if parts.contains(&"..") {
        return Err(format!("invalid path: must not contain '..': {path}"));
    }
    if parts[0].starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    match parts.iter().find(|part| part.len() > 255) {
        Some(part) => Err(format!("invalid path: component longer than 255 bytes: {part}")),
        None => Ok(()),
    }
}

fn replace(volume: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    make_directory(volume, 0o777)?;
    fs_group::own_one(volume, group, true)?;
    let old = fs::read_link(volume.join(DATA)).ok();
    if let Some(old) = &old
        && same(&volume.join(old), files, group)?
    {
        return links(volume, files);
    }
    let name = format!("..{}", jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let fresh = volume.join(&name);
    make_directory(&fresh, 0o755)?;
    fs_group::own_one(&fresh, group, true)?;
    for (path, file) in files {
        write_file(&fresh, path, file, group)?;
    }
    let link = volume.join(NEW_DATA);
    remove_if_there(&link)?;
    symlink(&name, &link)?;
    fs::rename(&link, volume.join(DATA))?;
    links(volume, files)?;
    if let Some(old) = old.filter(|old| old.as_os_str() != name.as_str()) {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(())
}

fn write_file(fresh: &Path, path: &str, file: &File, group: Option<i64>) -> io::Result<()> {
    let target = fresh.join(path);
    let parents: Vec<_> = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
    for parent in parents.into_iter().rev() {
        let parent = fresh.join(parent);
        if !parent.exists() {
            make_directory(&parent, 0o755)?;
            fs_group::own_one(&parent, group, true)?;
        }
    }
    fs::write(&target, &file.bytes)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    if let Some(uid) = file.uid {
        std::os::unix::fs::chown(&target, Some(uid), None)?;
    }
    fs_group::own_one(&target, group, true)
}

/// Makes the user-visible names point into the data directory and removes those that have gone.
fn links(volume: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<_> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = volume.join(name);
        let target: PathBuf = [DATA, name].iter().collect();
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove_if_there(&link)?;
            symlink(target, link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let gone = name.to_str().is_some_and(|name| !name.starts_with("..") && !wanted.contains(name));
        if gone {
            remove_if_there(&volume.join(name))?;
        }
    }
    Ok(())
}

fn same(current: &Path, files: &Files, group: Option<i64>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    let mut open = vec![current.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(relative) = path.strip_prefix(current) {
                found.insert(relative.to_string_lossy().into_owned());
            }
        }
    }
    if !found.iter().eq(files.keys()) {
        return Ok(false);
    }
    for (path, file) in files {
        let target = current.join(path);
        let mode = fs::metadata(&target)?.permissions().mode() & 0o7777;
        if mode != fs_group::file_mode(file.mode, group, true) || fs::read(&target)? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let relative = path.components().all(|part| !matches!(part, Component::ParentDir));
    debug_assert!(relative, "paths are built by layout");
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> Files {
        let file = |text: &str, mode| File { bytes: text.as_bytes().to_vec(), mode, uid: None };
        list.iter().map(|(path, text, mode)| ((*path).to_owned(), file(text, *mode))).collect()
    }

    fn names(volume: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| if name.starts_with("..2") { "..TIME".into() } else { name })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn readers_see_old_or_new() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1", 0o644), ("deep/er/b", "2", 0o400)]), None).unwrap();
        assert_eq!(names(&volume), ["..TIME", "..data", "a", "deep"]);
        assert_eq!(fs::read_to_string(volume.join("deep/er/b")).unwrap(), "2");
        let first = fs::read_link(volume.join("..data")).unwrap();

        write(&volume, &files(&[("a", "1", 0o644), ("deep/er/b", "2", 0o400)]), None).unwrap();
        assert_eq!(fs::read_link(volume.join("..data")).unwrap(), first, "no change, nothing written");

        write(&volume, &files(&[("a", "new", 0o600)]), None).unwrap();
        assert_eq!(names(&volume), ["..TIME", "..data", "a"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "new");
        let mode = fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_write_that_was_cut_off_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1", 0o644)]), None).unwrap();
        symlink("..nowhere", volume.join(NEW_DATA)).unwrap();
        fs::remove_file(volume.join("a")).unwrap();
        write(&volume, &files(&[("a", "1", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        write(&volume, &files(&[("a", "2", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
    }

    #[test]
    fn names_that_would_leave_the_volume() {
        for path in ["../x", "/etc/passwd", "..x/y", "a/../b", ""] {
            check(path).unwrap_err();
        }
        for path in ["a", "a/b", "a..b", "a/..b"] {
            check(path).unwrap();
        }
    }
}

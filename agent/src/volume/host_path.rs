//! hostPath: a place on the node, checked by type.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks the type, or makes what may be made.
pub(super) fn prepare(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let found = fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool, what: &str| match &found {
        Ok(kind) if test(kind) => Ok(()),
        _ => Err(format!("hostPath type check failed: {} is not {what}", source.path)),
    };
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" if found.is_err() => make_directory(path),
        "FileOrCreate" if found.is_err() => make_file(path),
        "DirectoryOrCreate" | "Directory" => is(fs::FileType::is_dir, "a directory"),
        "FileOrCreate" | "File" => is(fs::FileType::is_file, "a file"),
        "Socket" => is(|kind| kind.is_socket(), "a socket file"),
        "CharDevice" => is(|kind| kind.is_char_device(), "a character device"),
        "BlockDevice" => is(|kind| kind.is_block_device(), "a block device"),
        // No check; container runtimes make a directory of what is not there.
        "" if found.is_err() => make_directory(path),
        "" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_directory(path: &Path) -> Result<(), String> {
    let made =
        fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    made.map_err(|error| text(path, &error))
}

fn make_file(path: &Path) -> Result<(), String> {
    let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
    made.map(drop).map_err(|error| text(path, &error))
}

fn text(path: &Path, error: &io::Error) -> String {
    format!("make {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_in_upstreams_words() {
        let dir = tempfile::tempdir().unwrap();
        let check = |path: &Path, kind: &str| {
            prepare(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) })
        };
        let failed = |what: &str| Err(format!("hostPath type check failed: /dev/null is not {what}"));
        let null = Path::new("/dev/null");
        assert_eq!(check(null, "CharDevice"), Ok(()));
        assert_eq!(check(null, "BlockDevice"), failed("a block device"));
        assert_eq!(check(null, "Socket"), failed("a socket file"));
        assert_eq!(check(null, "File"), failed("a file"));
        assert_eq!(check(null, "Directory"), failed("a directory"));
        let new = dir.path().join("a/b");
        assert!(check(&new, "FileOrCreate").is_err(), "the parent must exist");
        assert_eq!(check(&new, "DirectoryOrCreate"), Ok(()));
        assert_eq!(check(&new.join("f"), "FileOrCreate"), Ok(()));
        assert_eq!(check(&new.join("f"), "File"), Ok(()));
    }
}

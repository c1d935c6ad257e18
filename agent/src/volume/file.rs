//! A small file of a volume, read for the node's own use: whatever links a container made, it is inside the volume.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use orlop_runtime::resolve;
use rustix::fs::{OFlags, ResolveFlags};

/// As large as an env file may be.
const LARGEST: u64 = 1 << 20;

/// Its text; nothing where there is no such file.
pub(super) fn read(volume: &Path, path: &str) -> Result<Option<String>, String> {
    match text(volume, path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn text(volume: &Path, path: &str) -> io::Result<String> {
    let root = File::open(volume)?;
    // A fifo must not keep the node waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(resolve::open(&root, path, flags, ResolveFlags::IN_ROOT)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_in_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(volume.join("env"), "A=1").unwrap();
        symlink("/env", volume.join("absolute")).unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        assert_eq!(read(&volume, "env"), Ok(Some("A=1".into())));
        // A link of a container means its own root, which the volume is here.
        assert_eq!(read(&volume, "absolute"), Ok(Some("A=1".into())));
        assert_eq!(read(&volume, "out"), Ok(None));
        assert_eq!(read(&volume, "none"), Ok(None));
        assert_eq!(read(&volume, "."), Err("not a regular file".into()));
    }
}

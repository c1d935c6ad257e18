//! `[p]` Names in layers: what an entry's path may be, and which entries are whiteouts.
//!
//! A path that climbs with `..` is refused here; what symlinks make of a path is decided by the kernel
//! (`root.rs`). Not for: touching files.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Longest path that an entry may have; the kernel's own limit.
const LENGTH_MAX: usize = 4096;

/// Where in the image an entry goes: its directories and its name. The root itself has no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath {
    parts: Vec<OsString>,
}

/// Why a name from a layer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Would leave the image.
    #[error("the path climbs out with `..`")]
    Climbs,
    /// A NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// Longer than the kernel takes.
    #[error("the path is longer than {LENGTH_MAX} bytes")]
    TooLong,
    /// `.wh.`, `.wh..` or `.wh...`: would delete the directory itself or its parent.
    #[error("the whiteout names no file")]
    Whiteout,
}

/// What an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A file, directory or other thing of this layer.
    Thing(EntryPath),
    /// Hide this path of lower layers.
    Whiteout(EntryPath),
    /// Hide everything that lower layers have in this directory.
    Opaque(EntryPath),
    /// Bookkeeping of a long gone storage driver.
    Ignore,
}

impl EntryPath {
    /// A leading `/`, doubled `/` and `.` mean nothing; `..` is refused.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if bytes.len() >= LENGTH_MAX {
            return Err(PathError::TooLong);
        }
        let mut parts = Vec::new();
        for part in bytes.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(PathError::Climbs),
                part => parts.push(OsString::from_vec(part.to_vec())),
            }
        }
        Ok(Self { parts })
    }

    /// Directory and name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(PathBuf, &OsStr)> {
        let (name, dirs) = self.parts.split_last()?;
        Some((dirs.iter().collect(), name))
    }

    /// Relative to the root, which is the empty path.
    pub(crate) fn path(&self) -> PathBuf {
        self.parts.iter().collect()
    }

    fn with_name(&self, name: &[u8]) -> Self {
        let mut parts = self.parts.clone();
        parts.pop();
        parts.push(OsString::from_vec(name.to_vec()));
        Self { parts }
    }

    fn parent(&self) -> Self {
        Self { parts: self.parts[..self.parts.len().saturating_sub(1)].to_vec() }
    }
}

/// Reads an entry's name: OCI's whiteouts are names, not types.
pub(crate) fn meaning(bytes: &[u8]) -> Result<Meaning, PathError> {
    let path = EntryPath::parse(bytes)?;
    let Some(name) = path.parts.last().map(|name| name.as_bytes().to_vec()) else {
        return Ok(Meaning::Thing(path));
    };
    let inside_whiteout =
        path.parts[..path.parts.len() - 1].iter().any(|part| part.as_bytes().starts_with(b".wh."));
    match name.strip_prefix(b".wh.") {
        _ if inside_whiteout => Ok(Meaning::Ignore),
        None => Ok(Meaning::Thing(path)),
        Some(b".wh..opq") => Ok(Meaning::Opaque(path.parent())),
        Some(b"" | b"." | b"..") => Err(PathError::Whiteout),
        Some(rest) if rest.starts_with(b".wh.") => Ok(Meaning::Ignore),
        Some(hidden) => Ok(Meaning::Whiteout(path.with_name(hidden))),
    }
}

/// Whether an extended attribute of a layer may be set: what steers overlayfs or the kernel's trust may not.
pub(crate) fn xattr_allowed(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    user || name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

/// One step of following a symlink by hand: the target's components in order.
pub(crate) enum Step {
    Root,
    Up,
    Into(OsString),
}

/// Takes a symlink's target apart.
pub(crate) fn steps(target: &Path) -> Vec<Step> {
    use std::path::Component;
    target
        .components()
        .filter_map(|c| match c {
            Component::RootDir | Component::Prefix(_) => Some(Step::Root),
            Component::CurDir => None,
            Component::ParentDir => Some(Step::Up),
            Component::Normal(part) => Some(Step::Into(part.to_owned())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &str) {
        let found = match meaning(name.as_bytes()) {
            Ok(Meaning::Thing(p)) => format!("thing {}", p.path().display()),
            Ok(Meaning::Whiteout(p)) => format!("whiteout {}", p.path().display()),
            Ok(Meaning::Opaque(p)) => format!("opaque {}", p.path().display()),
            Ok(Meaning::Ignore) => "ignore".into(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_are_taken_relative_to_the_root() {
        check("a/b", "thing a/b");
        check("./a//b/", "thing a/b");
        check("/etc/passwd", "thing etc/passwd");
        check("./", "thing ");
        check("...", "thing ...");
    }

    #[test]
    fn climbing_is_refused_wherever_it_stands() {
        for name in ["..", "../x", "a/../../x", "/../x", "a/..", "a/.."] {
            check(name, "error: the path climbs out with `..`");
        }
        check("a\0b", "error: the path holds a NUL byte");
        check(&"a/".repeat(3000), "error: the path is longer than 4096 bytes");
    }

    #[test]
    fn whiteouts_are_names() {
        check("a/.wh.b", "whiteout a/b");
        check(".wh.b", "whiteout b");
        check("a/.wh..wh..opq", "opaque a");
        check(".wh..wh..opq", "opaque ");
        check(".wh..wh.plnk", "ignore");
        check(".wh..wh.plnk/1.2", "ignore");
        check(".wh.x/y", "ignore");
        for name in [".wh.", "a/.wh..", "a/.wh..."] {
            check(name, "error: the whiteout names no file");
        }
    }

    #[test]
    fn attributes_that_steer_the_kernel_are_dropped() {
        for (name, allowed) in [
            ("user.x", true),
            ("security.capability", true),
            ("trusted.overlay.opaque", false),
            ("trusted.x", false),
            ("user.overlay.opaque", false),
            ("security.selinux", false),
        ] {
            assert_eq!(xattr_allowed(name.as_bytes()), allowed, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_root(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            if let Ok(path) = EntryPath::parse(&bytes) {
                let plain = path.path().components().all(|c| matches!(c, std::path::Component::Normal(_)));
                proptest::prop_assert!(plain);
            }
        }
    }
}

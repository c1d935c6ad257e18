//! Drivers run in pods too: what they mount there must be seen here, so the directories that they mount in are shared
//! mounts, as the kubelet's are.

use std::{fs, io, path::Path};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

/// Makes a directory a shared mount, unless it is on one. One with mounts below is left as it is: they would be hidden.
pub(super) fn share(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    match found(&table, &dir) {
        Found::Shared => return Ok(()),
        Found::Private { itself: true } => {}
        Found::Private { itself: false } => mount_bind(&dir, &dir)?,
        Found::Busy => {
            tracing::info!(dir = %dir.display(), "pods have mounts there: shared with drivers in pods after the next boot");
            return Ok(());
        }
    }
    Ok(mount_change(&dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?)
}

/// What the mount table says of a directory.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// On a shared mount.
    Shared,
    /// On one that is not, which may be the directory itself.
    Private { itself: bool },
    /// The same, and something is mounted below.
    Busy,
}

fn found(table: &str, dir: &Path) -> Found {
    let mounts = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(4);
        let (place, _options) = (Path::new(words.next()?), words.next()?);
        Some((place, words.take_while(|word| *word != "-").any(|word| word.starts_with("shared:"))))
    });
    let mut on = None;
    let mut below = false;
    for (place, shared) in mounts {
        if dir.starts_with(place) {
            // The last of the deepest is on top.
            on = on
                .filter(|(known, _): &(&Path, bool)| place.components().count() < known.components().count());
            on = on.or(Some((place, shared)));
        } else {
            below |= place.starts_with(dir);
        }
    }
    match on {
        Some((_, true)) => Found::Shared,
        Some((place, false)) if place == dir => Found::Private { itself: true },
        _ if below => Found::Busy,
        _ => Found::Private { itself: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_a_directory_is_on_decides() {
        let check = |lines: &[&str], expected: Found| {
            let table: Vec<_> =
                lines.iter().map(|line| format!("1 1 0:1 / {line} - ext4 /dev/x rw")).collect();
            assert_eq!(found(&table.join("\n"), Path::new("/s/pods")), expected, "{lines:?}");
        };
        check(&["/ rw shared:1"], Found::Shared);
        check(&["/ rw"], Found::Private { itself: false });
        check(&["/ rw shared:1", "/s rw"], Found::Private { itself: false });
        check(&["/ rw", "/s/pods rw master:3"], Found::Private { itself: true });
        check(&["/s/pods rw shared:2", "/ rw", "/s/pods/u/v rw"], Found::Shared);
        check(&["/ rw", "/s/pods/u/v rw", "/s/podsx rw"], Found::Busy);
        check(&["/ rw", "/s rw shared:9", "/s rw"], Found::Private { itself: false });
    }
}

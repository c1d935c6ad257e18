//! Where the cgroup hierarchies of a machine are mounted: v2, v1, or both. Pure.

use std::path::{Path, PathBuf};

/// Mounted hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1: controllers (`memory`, `cpu,cpuacct`, `name=systemd`) and mount point.
    pub v1: Vec<(String, PathBuf)>,
    /// v2.
    pub unified: Option<PathBuf>,
    /// What can be limited in v2: the controllers that no v1 hierarchy has.
    pub unified_controllers: Vec<String>,
}

impl Hierarchies {
    /// From the text of `/proc/self/mountinfo`. Of several mounts of one hierarchy the first counts.
    pub fn parse(mountinfo: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mountinfo.lines() {
            let Some((mount, super_block)) = line.split_once(" - ") else { continue };
            let mut mount = mount.split(' ').skip(3);
            let (Some("/"), Some(point)) = (mount.next(), mount.next()) else { continue };
            let mut fields = super_block.split(' ');
            let (kind, options) = (fields.next(), fields.nth(1).unwrap_or_default());
            let point = PathBuf::from(point.replace("\\040", " "));
            match kind {
                Some("cgroup2") => {
                    found.unified.get_or_insert(point);
                }
                Some("cgroup") => {
                    let controllers = controllers(options);
                    if !found.v1.iter().any(|(known, _)| *known == controllers) {
                        found.v1.push((controllers, point));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where the files of a controller are: in its v1 hierarchy, or in v2.
    pub(crate) fn root_of(&self, controller: &str) -> Option<&Path> {
        let in_v2 = || self.unified.as_deref().filter(|_| self.limits_in_v2(controller));
        self.controller(controller).or_else(in_v2)
    }

    /// A controller that v1 does not have and v2 has.
    pub(crate) fn limits_in_v2(&self, controller: &str) -> bool {
        self.controller(controller).is_none() && self.unified_controllers.iter().any(|one| one == controller)
    }

    /// No v1 controllers: everything is in the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty() && self.unified.is_some()
    }

    /// Directories of one cgroup, with what each is for.
    pub fn directories(&self, path: &str) -> Vec<(String, PathBuf)> {
        let path = path.trim_start_matches('/');
        let unified = self.unified.iter().map(|point| ("unified".to_owned(), point.join(path)));
        let v1 = self.v1.iter().filter(|(name, _)| !name.starts_with("name="));
        v1.map(|(name, point)| (name.clone(), point.join(path))).chain(unified).collect()
    }

    /// The v1 mount point of a controller.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        let mounted = |(names, _): &&(String, PathBuf)| names.split(',').any(|one| one == name);
        self.v1.iter().find(mounted).map(|(_, point)| point.as_path())
    }
}

/// Mount options that are no controllers are `rw`, `xattr`, `clone_children` and the like.
fn controllers(options: &str) -> String {
    const OTHER: [&str; 6] = ["rw", "ro", "xattr", "clone_children", "noprefix", "none"];
    let names =
        options.split(',').filter(|name| !OTHER.contains(name) && !name.starts_with("release_agent="));
    names.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mountinfo: &str, expected: &str) {
        let found = Hierarchies::parse(mountinfo);
        let dirs = found.directories("a/b").into_iter();
        let text = dirs.map(|(name, dir)| format!("{name}={}", dir.display())).collect::<Vec<_>>().join(" ");
        assert_eq!(text, expected);
    }

    #[test]
    fn pure_hybrid_and_old_machines() {
        check(
            "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate",
            "unified=/sys/fs/cgroup/a/b",
        );
        check(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             35 31 0:32 / /mnt/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
            "cpu,cpuacct=/sys/fs/cgroup/cpu,cpuacct/a/b memory=/sys/fs/cgroup/memory/a/b \
             unified=/sys/fs/cgroup/unified/a/b",
        );
        check("rubbish\n1 2 3 / /x rw - ext4 /dev/sda rw", "");
    }

    #[test]
    fn joint_controllers_are_found_by_each_name() {
        let found = Hierarchies::parse("32 31 0:29 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct");
        assert_eq!(found.controller("cpuacct"), Some(Path::new("/c/cpu,cpuacct")));
        assert_eq!(found.controller("cpua"), None);
        assert!(!found.is_v2());
    }
}

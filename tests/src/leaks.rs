//! What a playground could leave on the machine, looked up with the kernel's own listings.

use std::{fs, path::Path};

/// Everything that still carries the playground's directory or id: namespaces, links, mounts, cgroups, processes.
#[must_use]
pub fn of_playground(dir: &Path, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let name = format!("orlop-{id}-");
    found.extend(
        names_in("/run/netns")
            .into_iter()
            .filter(|netns| netns.starts_with(&name))
            .map(|n| format!("netns {n}")),
    );
    found.extend(
        names_in("/sys/class/net")
            .into_iter()
            .filter(|link| *link == format!("orlop{id}"))
            .map(|n| format!("link {n}")),
    );
    found.extend(mounts_below(dir).into_iter().map(|mount| format!("mount {mount}")));
    found.extend(cgroups(&name));
    found.extend(processes_of(dir).into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    found
}

/// Mount points at or below `dir`.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mount table");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
}

/// Processes whose command line or executable lies in `dir`.
#[must_use]
pub fn processes_of(dir: &Path) -> Vec<(u32, String)> {
    let dir = dir.to_string_lossy();
    let pids = names_in("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            (line.contains(&*dir) || exe.to_string_lossy().contains(&*dir)).then_some((pid, line))
        })
        .collect()
}

fn cgroups(prefix: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mount table");
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| point.to_owned())
    });
    hierarchies
        .flat_map(|point| {
            names_in(&point)
                .into_iter()
                .filter(|name| name.starts_with(prefix))
                .map(move |name| format!("cgroup {point}/{name}"))
        })
        .collect()
}

fn names_in(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

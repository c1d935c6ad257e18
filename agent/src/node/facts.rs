//! What this machine is: read from the kernel and the usual files, never guessed.

use std::{fs, path::Path};

use super::report::Facts;

/// Reads the machine. A file that is not there leaves its field empty, as the kubelet does.
#[must_use]
pub fn read(state_dir: &Path) -> Facts {
    let uname = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: meminfo("MemTotal"),
        swap_bytes: meminfo("SwapTotal"),
        storage_bytes: rustix::fs::statvfs(state_dir).map_or(0, |stat| stat.f_blocks * stat.f_frsize),
        hugepages: hugepages(),
        apparmor: first_line("/sys/module/apparmor/parameters/enabled") == "Y",
        machine_id: first_line("/etc/machine-id"),
        system_uuid: first_line("/sys/class/dmi/id/product_uuid"),
        boot_id: first_line("/proc/sys/kernel/random/boot_id"),
        kernel_version: text(uname.release()),
        os_image: os_image(),
        architecture: go_architecture(&text(uname.machine())),
    }
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

/// A line of /proc/meminfo, in bytes.
pub(crate) fn meminfo(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next());
    kib.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Sizes of huge pages with what there is of each, in bytes; as upstream also those that there are none of.
fn hugepages() -> Vec<(u64, u64)> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        Some((kib * 1024, count.trim().parse::<u64>().ok()? * kib * 1024))
    };
    let mut found: Vec<_> = entries.filter_map(read).collect();
    found.sort_unstable();
    found
}

/// `PRETTY_NAME` of os-release(5).
fn os_image() -> String {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Kubernetes names architectures as Go does.
fn go_architecture(machine: &str) -> String {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

//! What this machine and process can give to containers.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    api::Device,
    devices::Rule,
    spec::{AskedDevice, DeviceNode, capabilities::Capabilities},
};

/// Capabilities of this process, and the lowest `oom_score_adj` it may set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) capabilities: Capabilities,
    /// All that there are, which count in a user namespace of one's own.
    pub(crate) known: Capabilities,
    pub(crate) oom_floor: i32,
}

pub(crate) fn limits() -> Limits {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let capabilities = Capabilities(bits);
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    let last = last.and_then(|text| text.trim().parse().ok()).unwrap_or(40);
    // Without the capability the kernel refuses anything below the value last set with it, at least our own.
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let oom_floor = if capabilities.has("SYS_RESOURCE") { -1000 } else { own.unwrap_or(0) };
    Limits { capabilities, known: Capabilities::all(last), oom_floor }
}

/// The kernel's list of AppArmor profiles; `None` where there is no AppArmor, or it is switched off.
pub(crate) fn apparmor() -> Option<String> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok()?;
    enabled.starts_with('Y').then(|| {
        // Where the list cannot be read no profile can be relied on.
        fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default()
    })
}

/// Device nodes of the host, for privileged containers. Terminals and what every container has anyway are left out.
pub(crate) fn devices() -> io::Result<Vec<DeviceNode>> {
    let mut found = Vec::new();
    scan(Path::new("/dev"), &mut found)?;
    Ok(found)
}

/// What a container asked for: a node, or all those in a directory.
pub(crate) fn asked(device: &Device) -> io::Result<Vec<AskedDevice>> {
    let Device { host_path, container_path, permissions } = device;
    // Links are followed: names of devices are often links to the node.
    let source = fs::canonicalize(host_path)?;
    let meta = fs::metadata(&source)?;
    let mut nodes = Vec::new();
    if meta.is_dir() {
        scan(&source, &mut nodes)?;
    } else {
        nodes.extend(node(&source, &meta));
    }
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    if nodes.is_empty() {
        return Err(refused("no device, and no directory with devices".to_owned()));
    }
    let asked = |mut node: DeviceNode| {
        let rule = Rule::of(&node, permissions);
        let rule =
            rule.ok_or_else(|| refused(format!("permissions {permissions:?} are not of r, w and m")))?;
        let host = PathBuf::from(&node.path);
        let inside = match host.strip_prefix(&source) {
            Ok(rest) if !rest.as_os_str().is_empty() => container_path.join(rest),
            _ => container_path.clone(),
        };
        let text = inside.into_os_string().into_string();
        node.path = text.map_err(|path| refused(format!("{} is no text", path.display())))?;
        Ok(AskedDevice { source: host, node, rule })
    };
    nodes.into_iter().map(asked).collect()
}

/// `None` for what is no device.
fn node(path: &Path, meta: &fs::Metadata) -> Option<DeviceNode> {
    let kind = match (meta.file_type().is_char_device(), meta.file_type().is_block_device()) {
        (true, _) => 'c',
        (_, true) => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path: path.to_str()?.to_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

fn scan(dir: &Path, found: &mut Vec<DeviceNode>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if kind.is_dir() {
            let skip = ["pts", "shm", "mqueue", "fd", ".lxc", ".udev"];
            if !skip.iter().any(|skip| name == *skip) {
                // A directory that went away meanwhile has nothing to give.
                drop(scan(&path, found));
            }
            continue;
        }
        if ["console", "ptmx", "tty"].iter().any(|skip| name == *skip) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        found.extend(node(&path, &meta));
    }
    Ok(())
}

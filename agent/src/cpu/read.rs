//! The machine's processors, from sysfs.

use std::{fs, io, path::Path};

use super::{
    set::CpuSet,
    topology::{Place, Topology},
};

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// The processors that are on. What sysfs does not say (in virtual machines) is one core, socket or node.
///
/// # Errors
/// sysfs does not say which are on.
pub fn topology() -> io::Result<Topology> {
    let list = |path: &Path| -> io::Result<CpuSet> {
        let text = fs::read_to_string(path)?;
        text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let online = list(&Path::new(CPUS).join("online"))?;
    let mut nodes = Vec::new();
    for entry in fs::read_dir(NODES).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix("node")).and_then(|n| n.parse::<u32>().ok());
        let cpus = list(&entry.path().join("cpulist"));
        nodes.extend(number.zip(cpus.ok()));
    }
    let place = |cpu: u32| {
        let dir = Path::new(CPUS).join(format!("cpu{cpu}/topology"));
        let siblings = list(&dir.join("core_cpus_list")).or_else(|_| list(&dir.join("thread_siblings_list")));
        let socket = fs::read_to_string(dir.join("physical_package_id"));
        Place {
            core: siblings.ok().and_then(|siblings| siblings.iter().next()).unwrap_or(cpu),
            socket: socket.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            node: nodes.iter().find(|(_, cpus)| cpus.contains(cpu)).map_or(0, |(number, _)| *number),
        }
    };
    Ok(Topology(online.iter().map(|cpu| (cpu, place(cpu))).collect()))
}

//! Programs and maps in the kernel: load, attach, pin, adopt, swap, uninstall.
//!
//! ```text
//! <bpffs>/v<schema>/FRONTENDS SLOTS PLACES BACKENDS …             maps
//!                   link_connect4 link_sendmsg4 …            links: program and cgroup
//! ```
//! Everything that must outlive this process is pinned, so a killed agent leaves the services working. The next one
//! finds the maps by name, loads its own programs over them and swaps these in under the pinned links.
//! Not for: what stands in the maps.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramFd, XdpMode};
use aya::{Ebpf, EbpfLoader};
use orlop_abi::SCHEMA;

use crate::maps::{
    ADDRESSES, BACKENDS, CALLERS, DEVICES, EVENTS, FIRST_POD, FRONTENDS, KernelMaps, MapError, PLACES,
    POLICY_MAPS, PORTS, RANGES, RECEIVERS, ROUTES, SLOTS, UNTRANSLATED, WATCHED, resize, tell_callers,
};
use crate::sizes::Sizes;
use crate::sys;

mod bpffs;
mod devices;
mod uninstall;

pub use devices::{Device, Devices, Side, TestRun, TestRunError};
pub use uninstall::{UninstallError, uninstall};

/// The kernel object, or the stub.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/orlop.bpf.o"));

/// What of the kernel object this build has in it, in words.
#[must_use]
pub fn built_in() -> String {
    match OBJECT.starts_with(b"\x7fELF") {
        true => format!("{} bytes, map schema {SCHEMA}", OBJECT.len()),
        false => "none (a stub)".to_owned(),
    }
}

/// The programs, by the names of their hooks.
pub const PROGRAMS: [&str; 9] = [
    // First, so that nothing is remembered of a socket whose end would go unseen.
    "sock_release",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// The maps of services, by the names they are pinned under.
pub const MAPS: [&str; 23] = [
    FRONTENDS,
    SLOTS,
    PLACES,
    BACKENDS,
    RECEIVERS,
    RANGES,
    ADDRESSES,
    DEVICES,
    PORTS,
    FIRST_POD,
    ROUTES,
    "AFFINITIES",
    "FLOWS",
    "PEERS",
    "CONNECTIONS",
    "FRAGMENTS",
    "COUNTERS",
    "DROPS",
    EVENTS,
    WATCHED,
    "SETTINGS",
    UNTRANSLATED,
    CALLERS,
];
/// The programs at network devices, each with the prefix of its links' pins: an interface index follows.
const DEVICE_PROGRAMS: [(&str, &str); 2] = [("packet_in", "link_in_"), ("packet_out", "link_out_")];
/// Those at ports of bridges, in the same places.
const PORT_PROGRAMS: [(&str, &str); 2] = [("port_in", "link_in_"), ("port_out", "link_out_")];
/// The program before the stack, where the driver runs it, and where the kernel does in its place.
const EARLY: &str = "early";
const EARLY_LINKS: [(&str, XdpMode); 2] =
    [("link_xdp_", XdpMode::Driver), ("link_xdp_generic_", XdpMode::Skb)];
const LINK: &str = "link_";
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why the dataplane could not be brought into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without the kernel programs.
    #[error(
        "this build has no kernel programs in it (a stub): build with `cargo xtask build`, or set ORLOP_EBPF_OBJECT \
         to the object of `cargo xtask ebpf`"
    )]
    Stub,
    /// Too old a kernel.
    #[error("the service dataplane needs Linux 5.18 or newer, this is {release}")]
    Kernel {
        /// The running kernel.
        release: String,
    },
    /// The pin directory.
    #[error("prepare {path} for pins")]
    Pins {
        /// The directory.
        path: PathBuf,
        #[source]
        /// Cause.
        source: io::Error,
    },
    /// The cgroup.
    #[error("open cgroup {path}")]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        #[source]
        /// Cause.
        source: io::Error,
    },
    /// Object or maps.
    #[error("load the kernel programs")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A program the object lacks, or the kernel does not accept.
    #[error("load program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        #[source]
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The link.
    #[error("attach {program} at {cgroup}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Directory of the cgroup.
        cgroup: PathBuf,
        #[source]
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pinned maps.
    #[error(transparent)]
    Maps(#[from] MapError),
}

/// Where the pins of this version live.
#[must_use]
pub fn pins(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{SCHEMA}"))
}

/// The oldest kernel with all that the programs use: the error of a refused call can be chosen since then.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// The oldest kernel on which programs can be at devices.
const TCX: (u32, u32) = (6, 6);

/// What is in the kernel: the maps, and programs that wait for devices.
#[derive(Debug)]
pub struct Loaded {
    /// The maps.
    pub maps: KernelMaps,
    /// The programs at devices.
    pub devices: Devices,
}

/// Whose sockets are translated. Directories of the cgroup2 hierarchy.
#[derive(Clone, Debug)]
pub struct Callers {
    /// The node's own, with its pods: all processes below it.
    pub cgroup: PathBuf,
    /// The root of the hierarchy, if processes in the node's network namespace are served wherever they are, as kube-proxy's rules serve
    /// them. Others that are not below `cgroup` belong to somebody else.
    pub machine: Option<PathBuf>,
}

impl Callers {
    /// Only those.
    #[must_use]
    pub fn below(cgroup: &Path) -> Self {
        Self { cgroup: cgroup.to_owned(), machine: None }
    }

    /// Where programs are attached.
    fn top(&self) -> &Path {
        self.machine.as_deref().unwrap_or(&self.cgroup)
    }

    /// What they are to ask about a caller: the id of a cgroup, or 0.
    fn asked(&self) -> Result<u64, LoadError> {
        self.machine.as_ref().map_or(Ok(0), |_| Cgroup::open(&self.cgroup).map(|cgroup| cgroup.id))
    }
}

/// Brings programs and maps into the kernel, or takes over what is there, and hands out the maps.
///
/// # Errors
/// Names the step. What was there before goes on working.
pub fn open(bpffs: &Path, cgroup: &Path) -> Result<KernelMaps, LoadError> {
    load_all(bpffs, cgroup).map(|loaded| loaded.maps)
}

/// As [`open`], with the programs at devices.
///
/// # Errors
/// Names the step. What was there before goes on working.
pub fn load_all(bpffs: &Path, cgroup: &Path) -> Result<Loaded, LoadError> {
    load_sized(bpffs, &Callers::below(cgroup), &Sizes::default())
}

/// As [`load_all`], for these callers and with maps of these sizes: what stands in maps of others is carried over.
///
/// # Errors
/// Names the step. What was there before goes on working.
pub fn load_sized(bpffs: &Path, callers: &Callers, sizes: &Sizes) -> Result<Loaded, LoadError> {
    if !has_object() {
        return Err(LoadError::Stub);
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if version(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        return Err(LoadError::Kernel { release });
    }
    let pins = pins(bpffs);
    let at_pins = |source| LoadError::Pins { path: pins.clone(), source };
    bpffs::ensure(bpffs).map_err(at_pins)?;
    fs::create_dir_all(&pins).map_err(at_pins)?;
    let (target, asked) = (Cgroup::open(callers.top())?, callers.asked()?);

    let mut loader = EbpfLoader::new();
    for map in MAPS.into_iter().chain(POLICY_MAPS) {
        loader.map_pin_path(map, pins.join(map));
    }
    for (map, size) in sizes.of_maps() {
        loader.map_max_entries(map, size);
    }
    let carried = resize::pick_up(&pins, sizes)?;
    let mut object = loader.load(OBJECT).map_err(|error| LoadError::Load(error.into()))?;
    carried.put_down(&pins)?;
    let maps = KernelMaps::open(&pins)?;
    tell_callers(&pins, asked)?;
    for program in PROGRAMS {
        let (loaded, fd) = load(&mut object, program)?;
        attach(loaded, fd.as_fd(), &pins.join(format!("{LINK}{program}")), &Target::Cgroup(&target))
            .map_err(|source| LoadError::Attach { program, cgroup: callers.top().to_owned(), source })?;
    }
    uninstall::other_versions(bpffs, &pins);
    uninstall::other_links(&pins);
    // Verifiers of such kernels also count the stack in another way, and refuse them.
    let have_tcx = version(&release).is_none_or(|version| version >= TCX);
    for (program, _) in DEVICE_PROGRAMS.into_iter().chain(PORT_PROGRAMS).filter(|_| have_tcx) {
        load(&mut object, program)?;
    }
    Ok(Loaded { maps, devices: Devices::new(object, pins, have_tcx) })
}

/// Whether this build has the kernel programs in it.
#[must_use]
pub fn has_object() -> bool {
    OBJECT.starts_with(b"\x7fELF")
}

/// Major and minor of a kernel release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Where a program is attached.
enum Target<'a> {
    Cgroup(&'a Cgroup),
    Device(&'a Device),
    Early(&'a Device, XdpMode),
}

impl Target<'_> {
    /// Whether a link is (still) here.
    fn has(&self, link: &sys::LinkInfo) -> bool {
        match self {
            Self::Cgroup(cgroup) => link.cgroup() == cgroup.id,
            Self::Device(device) | Self::Early(device, _) => link.device() == device.index,
        }
    }
}

/// The cgroup to attach at. Its id is the inode number of its directory.
struct Cgroup {
    dir: File,
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, LoadError> {
        let fail = |source| LoadError::Cgroup { path: path.to_owned(), source };
        let dir = File::open(path).map_err(fail)?;
        if !bpffs::is_of(&dir, CGROUP2_MAGIC).map_err(fail)? {
            return Err(fail(io::Error::other("it is not in a cgroup v2 hierarchy")));
        }
        let id = dir.metadata().map_err(fail)?.ino();
        Ok(Self { dir, id })
    }
}

/// The program and its descriptor; it is loaded if it was not yet.
fn load<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<(&'a mut Program, ProgramFd), LoadError> {
    let missing = || LoadError::Program { program: name, source: "it is not in the object".into() };
    let program = object.program_mut(name).ok_or_else(missing)?;
    let loaded = match program {
        Program::CgroupSockAddr(hook) => hook.load().and_then(|()| Ok(hook.fd()?.try_clone()?)),
        Program::CgroupSock(hook) => hook.load().and_then(|()| Ok(hook.fd()?.try_clone()?)),
        Program::SchedClassifier(hook) => hook.load().and_then(|()| Ok(hook.fd()?.try_clone()?)),
        Program::Xdp(hook) if hook.fd().is_ok() => hook.fd().and_then(|fd| Ok(fd.try_clone()?)),
        Program::Xdp(hook) => hook.load().and_then(|()| Ok(hook.fd()?.try_clone()?)),
        _ => return Err(missing()),
    };
    match loaded {
        Ok(fd) => Ok((program, fd)),
        Err(source) => Err(LoadError::Program { program: name, source: source.into() }),
    }
}

/// Swaps the program in under the pinned link; where there is none, or it belongs to something that is gone, makes one.
fn attach(
    program: &mut Program,
    fd: BorrowedFd<'_>,
    pin: &Path,
    target: &Target<'_>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Ok(link) = sys::obj_get(pin) {
        if target.has(&sys::link_info(link.as_fd())?) {
            return Ok(sys::link_update(link.as_fd(), fd)?);
        }
        uninstall::link(pin)?;
    }
    let link: FdLink = match (program, target) {
        (Program::CgroupSockAddr(hook), Target::Cgroup(Cgroup { dir, .. })) => {
            let id = hook.attach(dir, CgroupAttachMode::Single)?;
            hook.take_link(id)?.try_into()?
        }
        (Program::CgroupSock(hook), Target::Cgroup(Cgroup { dir, .. })) => {
            let id = hook.attach(dir, CgroupAttachMode::Single)?;
            hook.take_link(id)?.try_into()?
        }
        (Program::SchedClassifier(hook), Target::Device(device)) => devices::attach(hook, pin, device)?,
        (Program::Xdp(hook), Target::Early(device, mode)) => {
            let id = hook.attach_to_if_index(device.index, *mode)?;
            hook.take_link(id)?.try_into()?
        }
        _ => return Err("it is of a kind that does not go there".into()),
    };
    // A crash before the pin leaves nothing behind: the link goes with its descriptor.
    link.pin(pin)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn kernel_releases_compare_as_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.18-rc3"), Some((5, 18)));
        assert!(version("5.9.1") < Some((5, 18)));
        assert_eq!(version("unknown"), None);
    }
}

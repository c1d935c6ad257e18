//! The packet programs at network devices: one link per device and direction (TCX, Linux 6.6), pinned like the others.
//!
//! Level-triggered: told which devices there are, it makes what is missing and forgets what is gone. Where the kernel has
//! no TCX, sockets are served all the same, and the caller is told once.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifier, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, Program, TestRun as _, TestRunOptions};

use orlop_abi as abi;

use super::{DEVICE_PROGRAMS, EARLY, EARLY_LINKS, PORT_PROGRAMS, Target, uninstall};
use crate::maps;
use crate::reconcile::chain;

/// A network device of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Interface index: never given twice while the machine runs.
    pub index: u32,
    /// Name.
    pub name: String,
    /// It leads to a pod: what comes in has the pod's address as its source, or is a forgery.
    pub pod: bool,
    /// Its packets must pass through the stack: a pod's that stand in a queue or are led elsewhere as they come in (somebody limits their
    /// rate), on other devices those that somebody looks at as they come in; all where the kernel has IPsec policies.
    pub stack: bool,
    /// Known connections are to be sent on before the stack.
    pub early: bool,
    /// The bridge that it is a port of: packets between pods behind that pass no other device of the node.
    pub port_of: Option<u32>,
}

/// Programs that are loaded, and the devices they are at.
pub struct Devices {
    object: Ebpf,
    pins: PathBuf,
    /// Whether the kernel takes programs at devices; then they are loaded.
    have_tcx: bool,
    /// By index.
    known: BTreeMap<u32, Known>,
    adopted: bool,
    /// Pods' packets are not to pass by netfilter yet, which may translate some of them.
    held: bool,
    /// The lowest index of a pod's device; 0: there is none.
    first_pod: u32,
}

/// A device that was heard of.
#[derive(Debug, Default)]
struct Known {
    /// What the programs were told about it; `None`: nothing yet.
    told: Option<u32>,
    /// The bridge that it is a port of, as they were told.
    port_of: Option<u32>,
    /// Why it has no programs: it is not asked again.
    refused: Option<String>,
    /// Its programs were brought there, or refused.
    tried: bool,
    /// Its driver runs the program before the stack.
    native: bool,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one before the stack.
    Early,
    /// The one for packets that come in.
    In,
    /// The one for what the node itself sends.
    Out,
}

/// What a program made of a frame.
#[derive(Clone, Debug)]
pub struct TestRun {
    /// `TC_ACT_…`: -1 goes on, 2 drops, 7 goes to another device.
    pub action: i32,
    /// The frame after the last run.
    pub frame: Vec<u8>,
    /// Mean of the runs.
    pub duration: Duration,
}

/// Why it could not be run.
pub type TestRunError = Box<dyn std::error::Error + Send + Sync>;

/// An answer may be longer than the question.
const ROOM: usize = 128;
/// Number of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// What the kernel is told about a frame: the device that it came in by, in `struct xdp_md` or `struct __sk_buff`.
fn context(side: Side, device: u32, length: usize) -> Result<Vec<u8>, TestRunError> {
    let (size, fields) = match side {
        // `data_end` is the frame's length, `ingress_ifindex` the device.
        Side::Early => (24, [(4, u32::try_from(length)?), (12, device)]),
        // `ifindex`, twice: there is nothing else to say.
        Side::In | Side::Out => (192, [(40, device), (40, device)]),
    };
    let mut context = vec![0; size];
    for (at, value) in fields {
        context[at..at + size_of::<u32>()].copy_from_slice(&value.to_ne_bytes());
    }
    Ok(context)
}

impl Devices {
    pub(super) fn new(object: Ebpf, pins: PathBuf, have_tcx: bool) -> Self {
        Self { object, pins, have_tcx, known: BTreeMap::new(), adopted: false, held: false, first_pod: 0 }
    }

    /// Makes these the devices that have our programs. Their names are of the calling thread's network namespace.
    pub fn set(&mut self, devices: &[Device]) {
        let first = devices.iter().filter(|device| device.pod).map(|device| device.index).min();
        self.first_pod = first.unwrap_or(0);
        self.tell_first_pod();
        for device in devices {
            // First what the programs have to know, then the programs.
            self.tell(device);
            if self.tell_port(device) || self.known.get(&device.index).is_none_or(|known| !known.tried) {
                self.place(device);
                self.tell(device);
            }
        }
        let before = self.known.len();
        self.known.retain(|index, _| devices.iter().any(|device| device.index == *index));
        // What an earlier agent left is looked for once.
        if self.known.len() < before || !self.adopted {
            self.adopted = true;
            self.forget_gone();
        }
    }

    /// Whether packets between pods are to go through the node's stack, all of them.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        self.tell_first_pod();
    }

    fn tell_first_pod(&self) {
        let first = if self.held { 0 } else { self.first_pod };
        if let Err(error) = maps::tell_first_pod(&self.pins, first) {
            tracing::warn!(error = chain(&error), "pods' packets go through the node's stack");
        }
    }

    /// Why devices have no programs, in words.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.known.values().filter_map(|known| known.refused.clone()).collect()
    }

    /// Tells the programs what stands behind a device, unless they know.
    fn tell(&mut self, device: &Device) {
        let known = self.known.entry(device.index).or_default();
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(device.pod, abi::DEVICE_POD)
            | flag(device.stack, abi::DEVICE_STACK)
            | flag(known.native, abi::DEVICE_EARLY);
        if known.told != Some(flags) {
            let told = maps::tell_device(&self.pins, device.index, Some(flags));
            let told =
                told.inspect_err(|error| tracing::warn!(error = chain(error), "device {}", device.name));
            known.told = told.is_ok().then_some(flags);
        }
    }

    /// Tells the programs which bridge a device is a port of. `true` if that has changed: then others are to be there.
    fn tell_port(&mut self, device: &Device) -> bool {
        let known = self.known.entry(device.index).or_default();
        if known.port_of == device.port_of {
            return false;
        }
        match maps::tell_port(&self.pins, device.index, device.port_of) {
            Ok(()) => known.port_of = device.port_of,
            Err(error) => tracing::warn!(error = chain(&error), "device {}", device.name),
        }
        true
    }

    /// Brings the programs to a device.
    fn place(&mut self, device: &Device) {
        if !self.have_tcx {
            let known = self.known.entry(device.index).or_default();
            known.refused = Some(format!("{}: this kernel has no TCX (Linux 6.6 has)", device.name));
            known.tried = true;
            return;
        }
        let programs = if device.port_of.is_some() { PORT_PROGRAMS } else { DEVICE_PROGRAMS };
        let attached = programs.iter().try_for_each(|(program, prefix)| {
            let attached = self.attach(program, prefix, device);
            attached.map_err(|error| format!("attach {program} at {}: {}", device.name, chain(&*error)))
        });
        let native = self.place_early(device);
        let known = self.known.entry(device.index).or_default();
        (known.refused, known.native, known.tried) = (attached.err(), native, true);
    }

    /// Brings the program before the stack to a device that is to have it, and takes it from one that is not. `true` if the
    /// driver runs it.
    fn place_early(&mut self, device: &Device) -> bool {
        let pins = EARLY_LINKS.map(|(prefix, _)| self.pins.join(format!("{prefix}{}", device.index)));
        if !device.early {
            for pin in pins.iter().filter(|pin| pin.exists()) {
                if let Err(error) = uninstall::link(pin) {
                    tracing::warn!(%error, "remove the link {}", pin.display());
                }
            }
            return false;
        }
        // What an earlier agent found out stays.
        let order = if pins[1].exists() { [1, 0] } else { [0, 1] };
        for which in order {
            let (_, mode) = EARLY_LINKS[which];
            let attached =
                super::load(&mut self.object, EARLY).map_err(Into::into).and_then(|(program, fd)| {
                    super::attach(program, fd.as_fd(), &pins[which], &Target::Early(device, mode))
                });
            match attached {
                Ok(()) => {
                    tracing::info!(
                        device = device.name,
                        ?mode,
                        "known connections are sent on before the stack"
                    );
                    return which == 0;
                }
                Err(error) => tracing::warn!(device = device.name, ?mode, error = chain(&*error), "XDP"),
            }
        }
        false
    }

    /// Runs a program on a frame, `repeat` times on the same bytes (`BPF_PROG_TEST_RUN`): for tests, and for measuring. It sees
    /// the loopback device of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn test_run(&self, side: Side, frame: &[u8], repeat: u32) -> Result<TestRun, TestRunError> {
        self.test_run_at(side, LOOPBACK, frame, repeat)
    }

    /// The same at another device.
    ///
    /// # Errors
    /// As above.
    pub fn test_run_at(
        &self,
        side: Side,
        device: u32,
        frame: &[u8],
        repeat: u32,
    ) -> Result<TestRun, TestRunError> {
        let program = match side {
            Side::Early => EARLY,
            Side::In => DEVICE_PROGRAMS[0].0,
            Side::Out => DEVICE_PROGRAMS[1].0,
        };
        let mut out = vec![0; frame.len() + ROOM];
        let context = context(side, device, frame.len())?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..Default::default()
        };
        let result = match self.object.program(program) {
            Some(Program::SchedClassifier(hook)) => hook.test_run(options)?,
            Some(Program::Xdp(hook)) => hook.test_run(options)?,
            _ => return Err("it is not in the object".into()),
        };
        let (action, length) = (result.return_value.cast_signed(), result.data_size_out);
        out.truncate(length.try_into()?);
        Ok(TestRun { action, frame: out, duration: result.duration })
    }

    /// How many instructions the verifier walked through, by program.
    #[must_use]
    pub fn verified(&self) -> BTreeMap<String, u32> {
        let all = self.object.programs();
        let counts = all.filter_map(|(name, program)| {
            Some((name.to_owned(), program.info().ok()?.verified_instruction_count()?))
        });
        counts.collect()
    }

    fn attach(
        &mut self,
        program: &'static str,
        prefix: &str,
        device: &Device,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let pin = self.pins.join(format!("{prefix}{}", device.index));
        let loaded = self.object.program_mut(program).ok_or("it is not in the object")?;
        let Program::SchedClassifier(hook) = &*loaded else { return Err("it is of another kind".into()) };
        let fd = hook.fd()?.try_clone()?;
        super::attach(loaded, fd.as_fd(), &pin, &Target::Device(device))
    }

    /// Unpins the links of devices that are no more. (The kernel took them out of force with the device.)
    fn forget_gone(&self) {
        let stale = maps::told_devices(&self.pins).map(|told| {
            told.into_iter().filter(|index| !self.known.contains_key(index)).try_for_each(|index| {
                maps::tell_device(&self.pins, index, None)?;
                maps::tell_port(&self.pins, index, None)
            })
        });
        if let Err(error) = stale.and_then(|result| result) {
            tracing::warn!(error = chain(&error), "forget devices that are gone");
        }
        for pin in uninstall::files(&self.pins) {
            let index = index(&pin);
            if index.is_some_and(|index| !self.known.contains_key(&index))
                && let Err(error) = uninstall::link(&pin)
                && error.kind() != io::ErrorKind::NotFound
                && fs::exists(&pin).unwrap_or(true)
            {
                tracing::warn!(%error, "remove the link {}", pin.display());
            }
        }
    }
}

/// The interface index in the name of a pin.
pub(super) fn index(pin: &Path) -> Option<u32> {
    let name = pin.file_name()?.to_str()?;
    let prefixes = DEVICE_PROGRAMS.iter().map(|(_, prefix)| *prefix);
    let prefixes = prefixes.chain(EARLY_LINKS.iter().map(|(prefix, _)| *prefix));
    prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix)?.parse().ok())
}

/// A new link, first in line: before programs that would look at what we have not yet translated.
pub(super) fn attach(
    hook: &mut SchedClassifier,
    pin: &Path,
    device: &Device,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let name = pin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let inward = name.starts_with(DEVICE_PROGRAMS[0].1);
    let direction = if inward { TcAttachType::Ingress } else { TcAttachType::Egress };
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = hook.attach_with_options(&device.name, direction, options)?;
    Ok(hook.take_link(id)?.try_into()?)
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("known", &self.known).finish_non_exhaustive()
    }
}

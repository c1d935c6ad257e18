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

use super::{DEVICE_PROGRAMS, Target, uninstall};
use crate::reconcile::chain;

/// A network device of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Interface index: never given twice while the machine runs.
    pub index: u32,
    /// Name.
    pub name: String,
}

/// Programs that are loaded, and the devices they are at.
pub struct Devices {
    object: Ebpf,
    pins: PathBuf,
    /// By index, with the reason if it refused: it is not asked again.
    known: BTreeMap<u32, Option<String>>,
    adopted: bool,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
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

impl Devices {
    pub(super) fn new(object: Ebpf, pins: PathBuf) -> Self {
        Self { object, pins, known: BTreeMap::new(), adopted: false }
    }

    /// Makes these the devices that have our programs. Their names are of the calling thread's network namespace.
    pub fn set(&mut self, devices: &[Device]) {
        for device in devices {
            if self.known.contains_key(&device.index) {
                continue;
            }
            let attached = DEVICE_PROGRAMS.iter().try_for_each(|(program, prefix)| {
                let attached = self.attach(program, prefix, device);
                attached.map_err(|error| format!("attach {program} at {}: {}", device.name, chain(&*error)))
            });
            self.known.insert(device.index, attached.err());
        }
        let before = self.known.len();
        self.known.retain(|index, _| devices.iter().any(|device| device.index == *index));
        // What an earlier agent left is looked for once.
        if self.known.len() < before || !self.adopted {
            self.adopted = true;
            self.forget_gone();
        }
    }

    /// Why devices have no programs, in words.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.known.values().flatten().cloned().collect()
    }

    /// Runs a program on a frame, `repeat` times on the same bytes (`BPF_PROG_TEST_RUN`): for tests, and for measuring. It sees
    /// the loopback device of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel does not run it.
    pub fn test_run(&self, side: Side, frame: &[u8], repeat: u32) -> Result<TestRun, TestRunError> {
        let (program, _) = DEVICE_PROGRAMS[usize::from(side == Side::Out)];
        let Some(Program::SchedClassifier(hook)) = self.object.program(program) else {
            return Err("it is not in the object".into());
        };
        let mut out = vec![0; frame.len() + ROOM];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..Default::default() };
        let result = hook.test_run(options)?;
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
    DEVICE_PROGRAMS.iter().find_map(|(_, prefix)| name.strip_prefix(prefix)?.parse().ok())
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

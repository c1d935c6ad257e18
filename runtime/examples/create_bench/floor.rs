//! What the kernel takes for the same container with nothing decided, read or kept: the floor under everybody's time.
//!
//! One static program: cgroups made, limited and entered; namespaces joined and made; a fork; mounts, masks and the change
//! of root; the last steps and exec. Not for: checks of any kind, which is most of what a runtime is.

use std::{
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use orlop_runtime::spec::plan::{Flag, Mount, Plan, What};
use orlop_shim::{
    process,
    records::ProcessSpec,
    sys::{self, Fork},
};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind,
        mount_change, mount_remount, move_mount, unmount,
    },
};

use crate::{Result, launcher};

const NEWPID: i32 = 0x2000_0000;
const NEWNS: i32 = 0x0002_0000;
const NEWCGROUP: i32 = 0x0200_0000;
/// Type, major and minor number are the kernel's for ever.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Runs a bundle of ours and gives the milliseconds to its first byte.
pub(crate) fn first_byte(bundle: &Path) -> Result<f64> {
    let program = std::env::current_exe()?;
    launcher::first_byte(&program.to_string_lossy(), &["floor", &bundle.to_string_lossy()])
}

/// The program's own side. Does not return when all goes well.
pub(crate) fn serve(bundle: &Path) -> Result<()> {
    let plan: Plan = serde_json::from_slice(&fs::read(bundle.join("plan.json"))?)?;
    let spec = ProcessSpec::from_bytes(&fs::read(bundle.join("process"))?).map_err(|e| e.to_string())?;
    let filter = if spec.seccomp.is_empty() { Vec::new() } else { fs::read(&spec.seccomp)? };
    let mut unified = None;
    for line in fs::read_to_string(bundle.join("cgroups"))?.lines() {
        let Some((name, dir)) = line.split_once(' ') else { continue };
        fs::create_dir_all(dir)?;
        let cpuset = Path::new(dir).join("cpuset.cpus");
        if name.split(',').any(|controller| controller == "cpuset") && fs::read(&cpuset)?.len() < 2 {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(Path::new(dir).join(file), fs::read(Path::new(dir).join("..").join(file))?)?;
            }
        }
        // To move into v2 is to wait for a grace period of the kernel: the child is born there.
        match name {
            "unified" => unified = Some(File::open(dir)?),
            _ => fs::write(Path::new(dir).join("tasks"), "0")?,
        }
    }
    plan.limits.iter().try_for_each(|(path, value)| fs::write(path, value))?;
    for path in &plan.namespaces {
        sys::join_namespaces(&File::open(path)?.into(), 0)?;
    }
    sys::unshare(NEWPID | NEWNS | NEWCGROUP)?;
    let forked = match unified {
        Some(dir) => sys::fork_into(dir.as_fd())?,
        None => sys::fork()?,
    };
    if let Fork::Parent(pid) = forked {
        // The output ends with the child; so does this process.
        let child = rustix::process::Pid::from_raw(i32::try_from(pid)?);
        rustix::process::waitpid(child, rustix::process::WaitOptions::empty())?;
        return Ok(());
    }
    furnish(&plan)?;
    let failed = |failure: process::Failure| failure.text;
    process::assume_user(&spec).map_err(failed)?;
    let program = process::find_program(&spec).map_err(failed)?;
    Err(process::run(&spec, &program, &filter).text.into())
}

fn furnish(plan: &Plan) -> Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let root = &plan.rootfs;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    mount_bind(root, root)?;
    let dev = Mount { at: "/dev".into(), what: What::New("tmpfs".into(), vec![]), flags: vec![Flag::NoSuid] };
    make(&dev, &inside("/dev"))?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, inside("/dev").join(name), FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    for mount in &plan.mounts {
        let at = inside(&mount.at);
        fs::create_dir_all(&at)?;
        match &mount.what {
            What::Bind(source, _) => mount_bind(source, &at)?,
            _ => make(mount, &at)?,
        }
    }
    for path in plan.masked.iter().map(|path| inside(path)).filter(|path| path.exists()) {
        if path.is_dir() {
            let empty = What::New("tmpfs".into(), vec![]);
            make(&Mount { at: String::new(), what: empty, flags: vec![Flag::ReadOnly] }, &path)?;
        } else {
            mount_bind("/dev/null", &path)?;
        }
    }
    for path in plan.read_only.iter().map(|path| inside(path)).filter(|path| path.exists()) {
        mount_bind(&path, &path)?;
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// A new instance; the cgroups are a file system too.
fn make(mount: &Mount, at: &Path) -> Result<()> {
    let What::New(kind, parameters) = &mount.what else {
        return Ok(mount_bind("/sys/fs/cgroup", at)?);
    };
    let context: OwnedFd = fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in parameters {
        match value.as_str() {
            "" => fsconfig_set_flag(&context, name.as_str())?,
            value => fsconfig_set_string(&context, name.as_str(), value)?,
        }
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(move_mount(mounted.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

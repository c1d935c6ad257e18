//! Mounting with the machine's own tools.

use std::{fs, path::Path, process::Command};

use tonic::Status;

fn run(program: &str, args: &[&str]) -> Result<String, Status> {
    let out = Command::new(program).args(args).output();
    let out = out.map_err(|error| Status::internal(format!("{program}: {error}")))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(Status::internal(format!("{program} {args:?}: {said}")));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|place| Path::new(place) == path)
}

/// Binds one to the other, once.
pub(crate) fn bind(from: &Path, to: &Path, read_only: bool) -> Result<(), Status> {
    if is_mounted(to) {
        return Ok(());
    }
    let io = |error: std::io::Error| Status::internal(format!("{}: {error}", to.display()));
    if from.is_dir() {
        fs::create_dir_all(to).map_err(io)?;
    } else {
        fs::write(to, "").map_err(io)?;
    }
    run("mount", &["--bind", &text(from), &text(to)])?;
    if read_only {
        run("mount", &["-o", "remount,bind,ro", &text(to)])?;
    }
    Ok(())
}

/// Takes a mount away, and what it was on.
pub(crate) fn unbind(from: &Path) -> Result<(), Status> {
    while is_mounted(from) {
        run("umount", &[&text(from)])?;
    }
    let removed = match fs::symlink_metadata(from) {
        Ok(found) if found.is_dir() => fs::remove_dir(from),
        Ok(_) => fs::remove_file(from),
        Err(_) => Ok(()),
    };
    removed.map_err(|error| Status::internal(format!("{}: {error}", from.display())))
}

/// The loop device over a file.
pub(crate) fn device(file: &Path) -> Result<String, Status> {
    let known = run("losetup", &["-j", &text(file)])?;
    match known.split(':').next().filter(|name| !name.is_empty()) {
        Some(device) => Ok(device.to_owned()),
        None => run("losetup", &["-f", "--show", &text(file)]),
    }
}

/// Lets go of the loop device over a file, if there is one.
pub(crate) fn no_device(file: &Path) -> Result<(), Status> {
    let known = run("losetup", &["-j", &text(file)])?;
    match known.split(':').next().filter(|name| !name.is_empty()) {
        Some(device) => run("losetup", &["-d", device]).map(drop),
        None => Ok(()),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

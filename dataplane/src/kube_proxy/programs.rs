//! The programs that know the rules (`iptables-save`, `nft`, …): finds and runs them, the host's for one in a container.
//!
//! ```text
//! Programs::output ─▶ program                                            (found here)
//!                  └▶ ourselves again, `on-host` ─chroot─▶ its program   (found only below /proc/1/root)
//! ```
//! An image need not have them. Where a container shares the host's process ids, process 1 has the host's root; a program from
//! there has the host's libraries, modules and lock files, and our network namespace. The change of the root is made by a
//! process of its own, since between fork and exec nothing else is sound in one with threads.
//! Not for: a shell, or programs that are no part of a system.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, stat};

use super::place::{Place, SYSTEM, is_system, place};

/// The word that has our own program run one of the host's.
pub const ON_HOST: &str = "on-host";
/// Whose root is the host's, where process ids are.
const HOST: &str = "/proc/1/root";

/// The root of the host.
#[derive(Debug)]
enum Host {
    /// Is ours.
    Same,
    /// Another.
    Other(OwnedFd),
    /// May be one, but cannot be looked into.
    Denied(io::Error),
}

/// What there is to be run.
#[derive(Debug)]
pub(super) struct Programs {
    path: Vec<PathBuf>,
    host: Host,
}

impl Programs {
    /// Looks where they could be.
    pub(super) fn look() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { path: std::env::split_paths(&path).collect(), host: host().unwrap_or_else(Host::Denied) }
    }

    pub(super) fn is_there(&self, program: &str) -> bool {
        self.find(program).is_some()
    }

    /// Where they were looked for, to go on in a sentence.
    pub(super) fn places(&self) -> String {
        match &self.host {
            Host::Same => "here, and process 1 has no other files".to_owned(),
            Host::Other(_) => "here or on the host".to_owned(),
            Host::Denied(error) => {
                format!(
                    "here, and the files of process 1 cannot be looked at ({error}; a container needs SYS_PTRACE)"
                )
            }
        }
    }

    fn find(&self, program: &str) -> Option<Place> {
        place(program, &self.path, Path::is_file, |file| match &self.host {
            Host::Other(root) => is_file_below(root, file),
            Host::Same | Host::Denied(_) => false,
        })
    }

    /// Runs a program and gives what it prints; the error is what it says of itself.
    pub(super) fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let place =
            self.find(program).ok_or_else(|| format!("{program}: is not to be found {}", self.places()))?;
        let mut command = match place {
            Place::Here(file) => Command::new(file),
            Place::OnHost(file) => {
                let mut again = Command::new("/proc/self/exe");
                again.arg(ON_HOST).arg(file);
                again
            }
        };
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = || -> io::Result<_> {
            let mut child = command.spawn()?;
            let stdin = child.stdin.take();
            // One that ended before it read all says why itself.
            let _told = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
            child.wait_with_output()
        };
        let output = run().map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return String::from_utf8(output.stdout)
                .map_err(|_| format!("{program}: what it prints is no text"));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program}: {}: {}", output.status, said.trim()))
    }
}

fn host() -> io::Result<Host> {
    let root = openat(CWD, HOST, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (theirs, ours) = (fstat(&root)?, stat("/")?);
    let same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino);
    Ok(if same { Host::Same } else { Host::Other(root) })
}

/// Links are followed as there: many lead through `/etc/alternatives`.
fn is_file_below(root: &OwnedFd, file: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(root, file, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let kind = found.and_then(fstat).map(|found| FileType::from_raw_mode(found.st_mode));
    kind.is_ok_and(|kind| kind == FileType::RegularFile)
}

/// The program in its other role: becomes a program of the host, which the first of `words` names. Returns only if it could not.
pub fn on_host(words: impl Iterator<Item = OsString>) -> ExitCode {
    let Err(error) = become_hosts(words);
    let _nobody_listens = writeln!(io::stderr(), "orlop: {error}");
    ExitCode::FAILURE
}

fn become_hosts(mut words: impl Iterator<Item = OsString>) -> Result<Infallible, String> {
    let file = words.next().map(PathBuf::from).filter(|file| is_system(file));
    let file = file.ok_or("on-host is for system programs of the host")?;
    rustix::process::chroot(HOST)
        .map_err(|error| format!("change the root to {HOST}: {error} (a container needs SYS_CHROOT)"))?;
    rustix::process::chdir("/").map_err(|error| format!("change to the host's root directory: {error}"))?;
    // What the container was told is not for the host's programs. Descriptors close by themselves.
    let mut command = Command::new(&file);
    let error = command.args(words).env_clear().env("PATH", SYSTEM.join(":")).env("LC_ALL", "C").exec();
    Err(format!("run {} of the host: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_another_root_are_followed_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |file: &str| dir.path().join(file);
        std::fs::create_dir_all(at("usr/sbin")).unwrap();
        std::fs::create_dir_all(at("etc/alternatives")).unwrap();
        std::fs::write(at("usr/sbin/only-there"), "").unwrap();
        symlink("/etc/alternatives/one", at("usr/sbin/one")).unwrap();
        symlink("/usr/sbin/only-there", at("etc/alternatives/one")).unwrap();
        symlink("/usr/bin/env", at("usr/sbin/env")).unwrap();
        symlink("usr/sbin", at("sbin")).unwrap();
        let root = openat(CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let found = |file: &str| is_file_below(&root, Path::new(file));
        assert!(found("/usr/sbin/one") && found("/sbin/one"));
        assert!(!found("/usr/sbin/env"), "that leads to a file of ours");
        assert!(!found("/usr/sbin") && !found("/usr/sbin/none"));
    }

    #[test]
    fn nothing_else_is_run() {
        for words in [&[][..], &["/tmp/nft"], &["nft"], &["/usr/sbin/../../tmp/x"]] {
            let error = become_hosts(words.iter().map(OsString::from));
            assert!(error.is_err_and(|error| error.contains("system programs")), "{words:?}");
        }
    }
}

//! `orlop-shim <pod directory> <pod uid> <creator> [share-pid]`: ends with 0 when the shim serves, in the background.
//! `orlop-shim hold`: keeps new namespaces until its input ends ([`orlop_shim::hold`]).
//! Called `orlop-init`, it is the first process of a pod ([`orlop_shim::init`]).

use std::{
    fs::{self, File},
    io::{Error, Read, Result, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    process::ExitCode,
};

use orlop_shim::{
    hold,
    init::{self, Init},
    records::{PidRecord, start_ticks},
    serve::{self, Config},
    sys::{self, Fork},
};

fn main() -> ExitCode {
    let begun = if std::env::args().next().as_deref() == Some(init::NAME) { init::run() } else { start() };
    match begun {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "orlop-shim: {error}"));
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "usage: orlop-shim <pod directory> <pod uid> <creator> [share-pid]";
/// Containers of the pod see each other's processes.
const SHARE_PID: &str = "share-pid";

/// The child serves; the parent tells whether it could start to.
fn start() -> Result<()> {
    let mut args: Vec<String> = std::env::args().collect();
    // An agent may be started with descriptors that it does not know of, and hands them on.
    drop(sys::close_others());
    if matches!(&args[..], [_, word] if word == "hold") {
        return hold::run();
    }
    let share_pid = args.get(4).is_some_and(|word| word == SHARE_PID);
    args.truncate(if share_pid { 4 } else { args.len() });
    let [_, dir, uid, creator] = <[String; 4]>::try_from(args).map_err(|_| Error::other(USAGE))?;
    std::env::set_current_dir(&dir)?;
    let (told, tell) = sys::pipe()?;
    if let Fork::Child = sys::fork()? {
        let mut tell = File::from(tell);
        match prepare(share_pid) {
            Ok(Prepared { lock, listener, signals, init }) => {
                drop((told, tell));
                // Kept to the end: there is never a second shim in this directory.
                let _lock = lock;
                let ended = serve::run(Config { uid, creator, init }, listener, signals);
                sys::exit_now(i32::from(ended.is_err()));
            }
            Err(error) => {
                drop(tell.write_all(error.to_string().as_bytes()));
                sys::exit_now(1);
            }
        }
    }
    drop(tell);
    let mut text = String::new();
    File::from(told).read_to_string(&mut text)?;
    if text.is_empty() { Ok(()) } else { Err(Error::other(text)) }
}

struct Prepared {
    lock: File,
    listener: UnixListener,
    signals: OwnedFd,
    init: Option<Init>,
}

/// An agent that died while it started us must not lead to two of us: the second one finds the lock taken.
///
/// The socket has a short name in the working directory: its whole path may be longer than an address can be.
fn prepare(share_pid: bool) -> Result<Prepared> {
    sys::become_keeper()?;
    let lock = File::options().create(true).truncate(false).write(true).open("lock")?;
    if !sys::try_lock(lock.as_fd())? {
        return Err(Error::other("another shim serves this pod"));
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..3).try_for_each(|fd| sys::dup_to(null.as_fd(), fd))?;
    let signals = sys::signals()?;
    sys::umask(0o077);
    let init = share_pid.then(init::start).transpose()?;
    drop(fs::remove_file("s"));
    let listener = UnixListener::bind("s")?;
    sys::umask(0o022);
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = start_ticks(&stat).ok_or_else(|| Error::other("no start time in /proc/self/stat"))?;
    let record = PidRecord { pid: std::process::id(), ticks, started: sys::now_ns() };
    fs::write("pid.tmp", record.to_text())?;
    fs::rename("pid.tmp", "pid")?;
    Ok(Prepared { lock, listener, signals, init })
}

//! `orlop-shim <pod directory> <pod uid> <creator>`: ends with 0 when the shim serves, in the background.

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
    records::{PidRecord, start_ticks},
    serve::{self, Config},
    sys::{self, Fork},
};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "orlop-shim: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The child serves; the parent tells whether it could start to.
fn start() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, uid, creator] = <[String; 4]>::try_from(args)
        .map_err(|_| Error::other("usage: orlop-shim <pod directory> <pod uid> <creator>"))?;
    std::env::set_current_dir(&dir)?;
    let (told, tell) = sys::pipe()?;
    if let Fork::Child = sys::fork()? {
        let mut tell = File::from(tell);
        match prepare() {
            Ok((lock, listener, signals)) => {
                drop((told, tell));
                // Kept to the end: there is never a second shim in this directory.
                let _lock = lock;
                let ended = serve::run(Config { uid, creator }, listener, signals);
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

/// An agent that died while it started us must not lead to two of us: the second one finds the lock taken.
///
/// The socket has a short name in the working directory: its whole path may be longer than an address can be.
fn prepare() -> Result<(File, UnixListener, OwnedFd)> {
    sys::become_keeper()?;
    let lock = File::options().create(true).truncate(false).write(true).open("lock")?;
    if !sys::try_lock(lock.as_fd())? {
        return Err(Error::other("another shim serves this pod"));
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..3).try_for_each(|fd| sys::dup_to(null.as_fd(), fd))?;
    let signals = sys::child_signals()?;
    sys::umask(0o077);
    drop(fs::remove_file("s"));
    let listener = UnixListener::bind("s")?;
    sys::umask(0o022);
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = start_ticks(&stat).ok_or_else(|| Error::other("no start time in /proc/self/stat"))?;
    let record = PidRecord { pid: std::process::id(), ticks, started: sys::now_ns() };
    fs::write("pid.tmp", record.to_text())?;
    fs::rename("pid.tmp", "pid")?;
    Ok((lock, listener, signals))
}

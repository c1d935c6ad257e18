//! SIGTERM and SIGINT as something to wait for, which also works for process 1 of a container, where a signal
//! without a handler would be lost. The only unsafe code of the program.

use std::{mem::MaybeUninit, ptr};

/// The signals, blocked for this thread and all that it starts.
#[derive(Clone, Copy)]
pub(crate) struct Termination(libc::sigset_t);

/// Call before any thread is started.
pub(crate) fn block() -> Termination {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is a place for a signal set; sigemptyset makes it one.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: `set` was made by sigemptyset and the signal numbers exist.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: sigemptyset wrote all of it.
    let set = unsafe { set.assume_init() };
    // SAFETY: `set` is a signal set, and no old mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    Termination(set)
}

impl Termination {
    /// Returns when one of the signals has come.
    pub(crate) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: the set is initialized and `signal` is a place for a number.
        unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
    }

    /// Ends the program with 128 + SIGTERM when one of the signals comes.
    pub(crate) fn exit_on_arrival(self) {
        std::thread::spawn(move || {
            self.wait();
            std::process::exit(128 + libc::SIGTERM);
        });
    }
}

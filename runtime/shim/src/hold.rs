//! Holds a pod's new namespaces until somebody else has pinned them.
//!
//! ```text
//!  agent ── spawn ──▶ new user namespace ── "ok" ──▶ writes its maps
//!                     net, ipc, uts, owned by it ◀── "go" ──
//!                     └─────────────── "ok" ──▶ pins /proc/<pid>/ns/…, closes our input: the end
//! ```
//! A thread of a program that has others can neither make nor join a user namespace: this process has one thread. The
//! others come after the maps, because what they make belongs to the root of the user namespace.

use std::io::{Read, Result, Write, stdin, stdout};

use crate::sys;

/// Ends with the input, or with the words of what failed in place of an "ok".
pub fn run() -> Result<()> {
    let step = |flags: i32| -> Result<()> {
        let word = sys::unshare(flags).map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        stdout().write_all(format!("{word}\n").as_bytes())?;
        stdout().flush()
    };
    step(libc::CLONE_NEWUSER)?;
    let mut go = [0; 3];
    stdin().read_exact(&mut go)?;
    step(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)?;
    stdin().read_to_end(&mut Vec::new()).map(drop)
}

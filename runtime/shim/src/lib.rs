//! What keeps a pod's containers: one small process per pod, and the words to talk to it.
//!
//! ```text
//!  client ── frames over a unix socket ──▶ serve (one poll loop, one thread)
//!                                            ├── create: fork + exec of the creator, status pipe
//!                                            ├── exec: setns, fork, setns, exec
//!                                            ├── stdout/stderr pipes ──▶ cri ──▶ log files
//!                                            └── waitpid(-1) ──▶ state ──▶ exit records, events
//! ```
//!
//! Not for: images, mounts, networks, policy. It never allocates much: this memory is paid once per pod.

pub mod cri;
pub mod hold;
pub mod init;
pub mod process;
pub mod protocol;
pub mod records;
pub mod report;
pub mod state;
pub mod sys;
pub mod wire;

mod cgroup;
mod client;
mod create;
mod exec;
mod home;
mod logs;
mod oom;
pub mod serve;

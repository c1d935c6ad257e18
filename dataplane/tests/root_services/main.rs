//! Services in a real kernel, with real sockets: each test in namespaces, a cgroup and a bpffs of its own.
//!
//! Run by `cargo xtask test root`, which builds the kernel programs first. Oracles: what the client's socket says, and
//! `bpftool`. Not for: what the tables should say (unit tests), or pods (tier e2e).

#![expect(
    clippy::unwrap_used,
    clippy::let_underscore_must_use,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "helpers of tests: a failure is a failed test"
)]

mod across;
mod agent;
mod beginnings;
mod churn;
mod connect;
mod direct;
mod early;
#[path = "../../src/tests/fixture.rs"]
mod fixture;
mod frame;
mod frame_read;
mod gone;
mod install;
mod large;
mod lines;
mod listen;
mod machine;
mod mapped;
mod net;
mod packets;
mod policies;
mod restart;
mod room;
#[path = "../../src/tests/rows.rs"]
mod rows;
mod rows_memory;
mod rows_run;
mod script;
mod take_over;
mod town;
mod udp;
mod untranslated;

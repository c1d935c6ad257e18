//! Harness of the e2e tier: a playground per test, real clients against it, and a check that nothing stays behind.
//!
//! Panics instead of returning errors: a test that cannot go on has failed, and the message is for the person who reads
//! the log. Not for: tests of one part; those live beside the part.
#![expect(
    clippy::print_stderr,
    reason = "what a failed test leaves behind is for the person who reads the log"
)]

pub mod leaks;
pub mod listen;
pub mod machine;
pub mod playground;
pub mod power;
pub mod registry;
pub mod roles;
pub mod wait;

pub use playground::{Output, Playground};
pub use wait::{eventually, until};

//! What a pod asks for, what there is of it, what to do next and what to tell about it: decisions only.
//!
//! Everything here is a pure function of its arguments; time arrives as an argument. Not for: doing anything.
//!
//! ```text
//! API object ─▶ Desired ─┐                      ┌─▶ Plan { actions, wake_at }
//!                        ├─▶ plan(…, now) ──────┘
//! events ─────▶ Observed ┴─▶ status(…, now) ─────▶ PodStatus
//! ```

pub mod admission;
mod adopt;
pub mod allocation;
pub mod backoff;
mod clock;
pub mod container;
pub mod desired;
pub mod downward;
pub mod ending;
pub mod env;
pub mod env_file;
pub mod ephemeral;
pub mod events;
pub mod expand;
pub mod machine;
pub mod names;
pub mod needed;
pub mod network;
pub mod node_state;
pub mod observed;
pub mod plan;
pub mod preempt;
pub mod pull_secrets;
pub mod refs;
pub mod resize;
pub mod resources;
pub mod settings;
pub mod status;
pub mod trace;
pub mod words;

#[cfg(test)]
mod tests;

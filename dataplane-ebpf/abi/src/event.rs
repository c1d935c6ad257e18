//! What the programs tell of new connections to services, and of packets that policies keep out, while somebody listens.

use crate::{Drop, Ip};

/// One decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// Nanoseconds since the machine started.
    pub at: u64,
    /// Source address; all zero where a program names an address before it has one of its own.
    pub source: Ip,
    /// The address that was asked for.
    pub asked: Ip,
    /// What it became; all zero if nothing.
    pub backend: Ip,
    /// The process that called; 0: a packet.
    pub pid: u32,
    /// Service id; 0: none.
    pub service: u32,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub asked_port: u16,
    /// Network byte order.
    pub backend_port: u16,
    /// Protocol number.
    pub proto: u8,
    /// [`FlowEvent::FORWARDED`], or what [`FlowEvent::dropped`] gives.
    pub verdict: u8,
    /// Name of the process that called.
    pub command: [u8; 16],
}

impl FlowEvent {
    /// It goes to the backend.
    pub const FORWARDED: u8 = 0;

    /// The verdict of a packet that was dropped for a reason, or of a call that was refused for it.
    #[must_use]
    pub const fn dropped(reason: Drop) -> u8 {
        reason as u8 + 1
    }

    /// The reason of a verdict, as metrics name it; none if the packet goes on.
    #[must_use]
    pub fn reason(verdict: u8) -> Option<&'static str> {
        Drop::NAMES.get(usize::from(verdict.checked_sub(1)?)).copied()
    }
}

const _: () = assert!(size_of::<FlowEvent>() == 88 && align_of::<FlowEvent>() == 8);

// SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowEvent {}

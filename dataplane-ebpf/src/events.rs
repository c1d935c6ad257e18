//! What is told of decisions, while somebody listens: a ring that is never waited for. Nobody listening costs one array lookup per
//! connection.

use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use orlop_abi::{ConnectionKey, Ip};

use crate::{
    choose::now,
    maps::{EVENTS, WATCHED},
};

/// What a connection became.
#[derive(Clone, Copy)]
pub struct Outcome {
    pub backend: Ip,
    pub backend_port: u16,
    pub service: u32,
    pub verdict: u8,
}

impl Outcome {
    #[inline(always)]
    pub const fn nothing(service: u32, verdict: u8) -> Self {
        Self { backend: [0; 4], backend_port: 0, service, verdict }
    }
}

/// Whether anybody wants to know. Who listens says for how long, so that one that was killed is soon forgotten.
#[inline(always)]
fn watched() -> bool {
    // SAFETY: a word; user space writes it whole.
    WATCHED.get(0).is_some_and(|until| *until != 0 && *until >= now())
}

/// Tells of a packet.
#[inline(always)]
pub fn packet(key: &ConnectionKey, outcome: &Outcome) {
    if watched() {
        tell(key, outcome, false);
    }
}

/// Tells of a call of the current process; the source of `key` is not known.
#[inline(always)]
pub fn call(key: &ConnectionKey, outcome: &Outcome) {
    if watched() {
        tell(key, outcome, true);
    }
}

#[inline(never)]
fn tell(key: &ConnectionKey, outcome: &Outcome, call: bool) {
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is this program's own until it is submitted; the helpers take no addresses but that of `command`, which is
    // as long as they are told.
    unsafe {
        (*event).at = bpf_ktime_get_ns();
        (*event).source = key.source;
        (*event).asked = key.destination;
        (*event).backend = outcome.backend;
        (*event).service = outcome.service;
        (*event).source_port = key.source_port;
        (*event).asked_port = key.destination_port;
        (*event).backend_port = outcome.backend_port;
        (*event).proto = key.proto as u8;
        (*event).verdict = outcome.verdict;
        (*event).pid = 0;
        (*event).command = [0; 16];
        if call {
            (*event).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            let command = &raw mut (*event).command;
            let _ = bpf_get_current_comm(command.cast(), size_of::<[u8; 16]>() as u32);
        }
    }
    entry.submit(0);
}

//! From a service address to one of its backends.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_set_retval};
use orlop_abi::{Backend, FRONTEND_NONE_LOCAL, Frontend, FrontendKey, SCOPE_ADDRESS, SlotKey};

use crate::{
    REFUSE,
    address::Address,
    maps::{BACKENDS, FRONTENDS, SLOTS},
};

const ECONNREFUSED: i32 = 111;

/// A slot is rewritten while it is read at most for a moment: look a second time before giving up.
const ATTEMPTS: u32 = 2;

#[inline(always)]
pub fn frontend(dialled: Address, proto: u8) -> Option<Frontend> {
    let key = FrontendKey { addr: dialled.addr, port: dialled.port, proto, scope: SCOPE_ADDRESS };
    // SAFETY: the value is copied; a concurrent update replaces the whole element.
    unsafe { FRONTENDS.get(&key) }.copied()
}

/// A backend by chance, each with the same. Session affinity will ask here first.
#[inline(always)]
pub fn backend(frontend: &Frontend) -> Option<(u32, Backend)> {
    let count = u32::from(frontend.count);
    if count == 0 {
        return None;
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: the helper takes no arguments.
        let slot = unsafe { bpf_get_prandom_u32() } % count;
        let key = SlotKey { service: frontend.service, set: u16::from(frontend.set), slot: slot as u16 };
        // SAFETY: as in `frontend`.
        let Some(id) = (unsafe { SLOTS.get(&key) }).copied() else { continue };
        if let Some(backend) = by_id(id, frontend.service) {
            return Some((id, backend));
        }
    }
    None
}

/// The backend of this id, if it (still) belongs to the service.
#[inline(always)]
pub fn by_id(id: u32, service: u32) -> Option<Backend> {
    // SAFETY: as in `frontend`.
    unsafe { BACKENDS.get(&id) }.copied().filter(|backend| backend.service == service)
}

/// The answer when there is no backend: refused at once, or, where the policy says drop, the error of a dropped packet.
#[inline(always)]
pub fn refuse(frontend: &Frontend) -> i32 {
    if frontend.flags & FRONTEND_NONE_LOCAL == 0 {
        // SAFETY: allowed in hooks that can fail (connect, sendmsg), which are the only callers.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

//! What the calls that name an address share: who dials, which service, which backend, and how to say no.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_set_retval, generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie}},
    programs::SockAddrContext,
};
use orlop_abi::{Backend, ConnectionKey, Drop, FRONTEND_RANGES, FlowEvent, Frontend, Ip, Settings};

use super::{REFUSE, address::Address};
use crate::{
    choose::{self, Refusal, is_v4},
    count,
    events::{self, Outcome},
    maps::{CALLERS, UNTRANSLATED, settings},
};

const ECONNREFUSED: i32 = 111;

/// A caller of a service.
pub struct Caller {
    /// Cookie of its network namespace.
    netns: u64,
    /// It is in the node's own network namespace.
    host: bool,
    /// It counts as inside the cluster.
    inside: bool,
    /// Its sockets are left alone: a mesh or a virtual machine wants to see what it asked for, and its packets are translated; or
    /// it is none of this node's.
    untranslated: bool,
}

impl Caller {
    #[inline(always)]
    pub fn of(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context is this program's own.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        let (mut host, mut inside, mut untranslated) = (false, true, false);
        if let Some(settings) = settings() {
            host = settings.host_netns == netns;
            inside = host || settings.flags & Settings::PODS_KNOWN != 0;
            untranslated = !host && (is_untranslated(settings, netns) || is_stranger());
        }
        Self { netns, host, inside, untranslated }
    }

    /// What stands behind the dialled address. A load balancer's source ranges are about addresses, which a pod's socket
    /// does not have before it is connected: its packets are judged on their way out.
    #[inline(always)]
    pub fn frontend(&self, dialled: &Address, proto: u8) -> Option<Frontend> {
        if self.untranslated {
            return None;
        }
        let loopback =
            self.host && settings().is_some_and(|settings| settings.flags & Settings::LOOPBACK_NODE_PORTS != 0);
        let frontend = choose::frontend(&dialled.ip, dialled.port, proto, loopback)?;
        (self.host || frontend.flags & FRONTEND_RANGES == 0).then_some(frontend)
    }

    /// The backend of a new connection.
    #[inline(always)]
    pub fn backend(&self, frontend: &Frontend, dialled: &Ip) -> Result<(u32, Backend), Refusal> {
        if frontend.flags & FRONTEND_RANGES != 0
            && let Some(settings) = settings()
        {
            let own = if is_v4(dialled) { settings.masquerade_v4 } else { settings.masquerade_v6 };
            choose::admit(frontend, &own)?;
        }
        // The source address is chosen after this call, by the route to the backend.
        let client = [u32::MAX, u32::MAX, self.netns as u32, (self.netns >> 32) as u32];
        let chosen = choose::backend(frontend, self.inside, &client, None)?;
        count::connection(frontend.service);
        Ok(chosen)
    }
}

/// Where nobody asked for it, this costs a look at two bits.
#[inline(always)]
fn is_untranslated(settings: &Settings, netns: u64) -> bool {
    // SAFETY: only whether it is there counts.
    settings.flags & Settings::HOST_SOCKETS_ONLY != 0
        || settings.flags & Settings::SOME_UNTRANSLATED != 0 && unsafe { UNTRANSLATED.get(&netns) }.is_some()
}

/// How deep below the root of all cgroups the node's may be.
const DEEPEST: i32 = 16;

/// Whether the caller, in another network namespace than the node's, is no pod of the node's, either: programs at the root of the
/// hierarchy also see what other runtimes run, whole clusters among it, in which the same addresses mean something else.
#[inline(always)]
fn is_stranger() -> bool {
    // SAFETY: user space writes it whole, before it attaches programs there.
    let cgroup = CALLERS.get(0).map_or(0, |cgroup| *cgroup);
    cgroup != 0 && !is_below(cgroup)
}

#[inline(always)]
fn is_below(cgroup: u64) -> bool {
    for level in 1..DEEPEST {
        // SAFETY: no addresses.
        match unsafe { bpf_get_current_ancestor_cgroup_id(level) } {
            0 => return false,
            id if id == cgroup => return true,
            _ => {}
        }
    }
    false
}

/// Tells of a call that got a backend.
#[inline(always)]
pub fn tell(dialled: &Address, proto: u8, frontend: &Frontend, backend: &Address) {
    let outcome = Outcome {
        backend: backend.ip,
        backend_port: backend.port,
        service: frontend.service,
        verdict: FlowEvent::FORWARDED,
    };
    events::call(&asked(dialled, proto), &outcome);
}

#[inline(always)]
fn asked(dialled: &Address, proto: u8) -> ConnectionKey {
    ConnectionKey {
        source: [0; 4],
        destination: dialled.ip,
        source_port: 0,
        destination_port: dialled.port,
        proto: u32::from(proto),
    }
}

/// The answer when there is no backend: refused at once, or, where the policy says drop, the error of a dropped packet.
#[inline(always)]
pub fn refuse(dialled: &Address, proto: u8, frontend: &Frontend, why: Refusal) -> i32 {
    if why == Refusal::NoEndpoint {
        // SAFETY: allowed in hooks that can fail (connect, sendmsg), which are the only callers.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    let reason = match why {
        Refusal::NoEndpoint => Drop::NoEndpoint,
        Refusal::NoLocalEndpoint => Drop::NoLocalEndpoint,
        Refusal::SourceRange => Drop::SourceRange,
    };
    events::call(&asked(dialled, proto), &Outcome::nothing(frontend.service, FlowEvent::dropped(reason)));
    count::rejected(frontend.service);
    REFUSE
}

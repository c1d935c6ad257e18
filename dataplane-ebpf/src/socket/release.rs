//! `close()`: what was remembered of a connected socket goes with it.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext,
};

use super::GO_ON;
use crate::maps::PEERS;

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is this program's own.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let _ = PEERS.remove(&cookie);
    GO_ON
}

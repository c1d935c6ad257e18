//! The kernel programs of the service dataplane: one file per call of a program, one per idea.
//!
//! For: translating a service address to one of its backends: where a program names it ([`socket`]), and for packets
//! that passed no socket of this node, or none we see ([`packet`]); before the stack ([`early`]); keeping from pods what
//! policies keep from them ([`policy`]).
//! Not for: decisions. Who may be a backend, and which flags a service has, is decided in user space.
//!
//! What a program must not do: walk a list, trust a length, or touch a connection that exists.
#![no_std]
#![no_main]
#![feature(bpf_target_feature)]

mod choose;
mod count;
mod early;
mod events;
mod maps;
mod packet;
mod policy;
mod socket;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

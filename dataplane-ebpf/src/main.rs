//! The kernel programs of the service dataplane: one file per call of a program, one per idea.
//!
//! For: translating a service address to one of its backends where a program names it (`connect`, `sendto`), and
//! back where it asks (`recvfrom`, `getpeername`). There is no cost per packet of a connection.
//! Not for: packets that pass no local socket (node ports from outside come later, at the interface), or decisions:
//! who may be a backend is decided in user space.
//!
//! What a program must not do: walk a list, trust a length, or touch a connection that exists.
#![no_std]
#![no_main]

mod address;
mod choose;
mod connect;
mod getpeername;
mod maps;
mod recvmsg;
mod release;
mod sendmsg;

/// The program may go on with the (translated) address.
const GO_ON: i32 = 1;
/// The call fails, with the error set before, else `EPERM`.
const REFUSE: i32 = 0;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

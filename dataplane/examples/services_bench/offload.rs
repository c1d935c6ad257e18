//! `UDP_SEGMENT`: one call sends many datagrams. The only unsafe code of this program.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// What this socket sends is cut into datagrams of so many bytes.
#[expect(unsafe_code, reason = "a socket option that no crate of ours offers")]
pub(crate) fn segment(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    let value = libc::c_int::from(bytes);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

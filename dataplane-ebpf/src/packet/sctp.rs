//! SCTP's checksum is a CRC over the whole packet, ports and all (RFC 9260, appendix A). A CRC is linear: the change of
//! the ports, carried over the bytes behind them, is the change of the checksum. So no payload is read.

use aya_ebpf::programs::TcContext;

use super::{
    ETHERNET,
    parse::{ACK, FIN, Headers, RST, SYN},
    rewrite::{Refused, store},
};

/// Reflected polynomial of CRC-32C.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// A packet has at most 2^16 bytes.
const POWERS: usize = 16;
const CHECKSUM: usize = 8;

/// Entry `n` of table `p` of row `k`: what nibble `p` of the register, holding `n`, becomes after `2^k` zero bytes. A register
/// is the sum of its nibbles: eight looks a row, and no branch for the verifier to follow.
static ZEROS: [[[u32; 16]; 8]; POWERS] = zeros();

const fn zeros() -> [[[u32; 16]; 8]; POWERS] {
    let mut all = [[[0; 16]; 8]; POWERS];
    let mut power = 0;
    while power < POWERS {
        let mut cell = 0;
        while cell < 8 * 16 {
            let (place, value) = (cell / 16, cell % 16);
            let register = (value as u32) << (4 * place);
            all[power][place][value] = match power {
                0 => byte(register),
                _ => times(&all[power - 1], times(&all[power - 1], register)),
            };
            cell += 1;
        }
        power += 1;
    }
    all
}

/// The register after one zero byte.
const fn byte(mut register: u32) -> u32 {
    let mut step = 0;
    while step < 8 {
        register = (register >> 1) ^ if register & 1 == 1 { POLYNOMIAL } else { 0 };
        step += 1;
    }
    register
}

#[inline(always)]
const fn times(row: &[[u32; 16]; 8], register: u32) -> u32 {
    let (mut sum, mut place) = (0, 0);
    while place < 8 {
        sum ^= row[place][(register >> (4 * place) & 15) as usize];
        place += 1;
    }
    sum
}

/// Carries a register over so many zero bytes. A function of its own: there is one in each program.
#[inline(never)]
fn carry(mut register: u32, bytes: u32) -> u32 {
    for power in 0..POWERS {
        let carried = times(&ZEROS[power], register);
        // All ones if this power is in the number.
        let mask = 0_u32.wrapping_sub(bytes >> power & 1);
        register = carried & mask | register & !mask;
    }
    register
}

/// What a packet means for its association, in TCP's words: its first chunk says so (RFC 9260, 6.10: those that begin or end an
/// association stand alone, or first).
#[inline(always)]
pub const fn flags(chunk: u8) -> u8 {
    match chunk {
        // INIT, INIT ACK.
        1 => SYN,
        2 => SYN | ACK,
        // ABORT.
        6 => RST,
        // SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
        7 | 8 | 14 => FIN,
        _ => ACK,
    }
}

/// Puts the checksum right for other ports. One that a device is still to fill in is zero, and stays so.
#[inline(always)]
pub fn checksum(ctx: &TcContext, headers: &Headers, old: (u16, u16), new: (u16, u16)) -> Result<(), Refused> {
    let at = headers.transport + CHECKSUM;
    let before: u32 = ctx.load(at).map_err(|_| Refused)?;
    if before == 0 {
        return Ok(());
    }
    let change = u32::from(old.0 ^ new.0) | u32::from(old.1 ^ new.1) << 16;
    // The four bytes of the ports enter the register, which is a step of as many zeros; then come the bytes behind them.
    let bytes = (headers.length as usize + ETHERNET).wrapping_sub(headers.transport);
    let register = carry(change.to_le(), bytes as u32 & 0xffff);
    store(ctx, at, &(u32::from_le(before) ^ register).to_le())
}

//! SCTP's checksum is a CRC over the whole packet, ports and all (RFC 9260, appendix A). A CRC is linear: the change of
//! the ports, carried over the bytes behind them, is the change of the checksum. So no payload is read.

use aya_ebpf::programs::TcContext;

use super::{
    ETHERNET,
    parse::Headers,
    rewrite::{Refused, store},
};

/// Reflected polynomial of CRC-32C.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// A packet has at most 2^16 bytes.
const POWERS: usize = 16;
const CHECKSUM: usize = 8;

/// Column `i` of matrix `k`: what bit `i` of the register becomes after `2^k` zero bytes.
static ZEROS: [[u32; 32]; POWERS] = zeros();

const fn zeros() -> [[u32; 32]; POWERS] {
    let mut all = [[0; 32]; POWERS];
    let mut bit = 0;
    while bit < 32 {
        let mut register = 1_u32 << bit;
        let mut step = 0;
        while step < 8 {
            register = (register >> 1) ^ if register & 1 == 1 { POLYNOMIAL } else { 0 };
            step += 1;
        }
        all[0][bit] = register;
        bit += 1;
    }
    let mut power = 1;
    while power < POWERS {
        let mut bit = 0;
        while bit < 32 {
            all[power][bit] = times(&all[power - 1], all[power - 1][bit]);
            bit += 1;
        }
        power += 1;
    }
    all
}

const fn times(matrix: &[u32; 32], vector: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        sum ^= matrix[bit] & 0_u32.wrapping_sub(vector >> bit & 1);
        bit += 1;
    }
    sum
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
    // The four bytes of the ports enter the register, then as many zeros as bytes follow.
    let behind = (headers.length as usize + ETHERNET).wrapping_sub(headers.transport + 4) & 0xffff;
    let mut register = change.to_le();
    // Entering four bytes is a step of four zero bytes.
    let behind = (behind + 4) & 0xffff;
    for power in 0..POWERS {
        if behind >> power & 1 == 1 {
            register = times(&ZEROS[power], register);
        }
    }
    store(ctx, at, &(u32::from_le(before) ^ register).to_le())
}

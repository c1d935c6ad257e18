//! Many elements of a hash map in one call (`BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_UPDATE_BATCH`, Linux 5.6).
//!
//! Only of hash maps with one value per key: the kernel counts its place in them in a `u32`.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Attr, BPF_OBJ_GET_INFO_BY_FD, GetInfo, bpf, bpf_answering, number};
use crate::maps::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// `BPF_MAP_TYPE_HASH`, `BPF_MAP_TYPE_LRU_HASH`.
const HASH_MAPS: [u32; 2] = [1, 9];
/// Elements per call: a few hundred kilobytes, and more than any bucket has.
const PIECE: usize = 4096;

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
// SAFETY: the places point to memory of the size that the map's keys and values have, times `count` (`check`); the
// batches, where there are any, to a `u32`, which is what a hash map takes.
unsafe impl Attr for Batch {}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

/// Whether the kernel's idea of the map is the caller's.
fn check<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut info = RawMapInfo::default();
    let len = u32::try_from(size_of::<RawMapInfo>()).map_err(io::Error::other)?;
    let attr =
        GetInfo { bpf_fd: number(map)?, info_len: len, info: (&raw mut info).expose_provenance() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    let is = |size: u32, of: usize| usize::try_from(size).is_ok_and(|size| size == of);
    match HASH_MAPS.contains(&info.kind)
        && is(info.key_size, size_of::<K>())
        && is(info.value_size, size_of::<V>())
    {
        true => Ok(()),
        false => Err(io::Error::other("the map is of another kind, or its keys or values of another size")),
    }
}

/// All elements. What is added or removed meanwhile may be in it or not.
pub(crate) fn elements<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    check::<K, V>(map)?;
    let mut all = Vec::new();
    let (mut keys, mut values): (Vec<K>, Vec<V>) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    let (mut place, mut next) = (0_u32, 0_u32);
    let mut begun = false;
    loop {
        let room = keys.capacity().min(values.capacity());
        let mut attr = Batch {
            in_batch: if begun { (&raw const place).expose_provenance() as u64 } else { 0 },
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(room).map_err(io::Error::other)?,
            map_fd: number(map)?,
            elem_flags: 0,
            flags: 0,
        };
        let looked = bpf_answering(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let ended = match looked {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // One bucket alone is larger.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                keys.reserve(room * 2);
                values.reserve(room * 2);
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = usize::try_from(attr.count).map_err(io::Error::other)?.min(room);
        // SAFETY: there is room for `room` of them, and the kernel has written the first `count`.
        unsafe { keys.set_len(count) };
        // SAFETY: as above.
        unsafe { values.set_len(count) };
        all.extend(keys.drain(..).zip(values.drain(..)));
        if ended {
            return Ok(all);
        }
        place = next;
        begun = true;
    }
}

/// Writes elements in order, up to the first that is refused: how many were written, and why it ended early.
pub(crate) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, elements: &[(K, V)]) -> (usize, io::Result<()>) {
    if let Err(error) = check::<K, V>(map) {
        return (0, Err(error));
    }
    let mut written = 0;
    for piece in elements.chunks(PIECE) {
        let (done, result) = update_piece(map, piece);
        written += done;
        if result.is_err() {
            return (written, result);
        }
    }
    (written, Ok(()))
}

/// As above, of a map that was checked.
fn update_piece<K: Pod, V: Pod>(map: BorrowedFd<'_>, piece: &[(K, V)]) -> (usize, io::Result<()>) {
    let (keys, values): (Vec<K>, Vec<V>) = piece.iter().copied().unzip();
    let sizes = (u32::try_from(piece.len()), number(map));
    let (Ok(count), Ok(map_fd)) = sizes else { return (0, Err(io::Error::other("too many elements"))) };
    let mut attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count,
        map_fd,
        elem_flags: 0,
        flags: 0,
    };
    match bpf_answering(BPF_MAP_UPDATE_BATCH, &mut attr) {
        Ok(_) => (piece.len(), Ok(())),
        // Refused before it began, it leaves the count as it was.
        Err(error) if attr.count >= count => (0, Err(error)),
        Err(error) => (usize::try_from(attr.count).unwrap_or(0), Err(error)),
    }
}

//! Which ids of the host belong to which pod that has a user namespace of its own. Pure.
//!
//! Nothing is counted or kept here: who asks says what is taken, from the records of the pods that are there.

use serde::{Deserialize, Serialize};

/// Ids of each pod, as Kubernetes has it (KEP-127).
pub const IDS_PER_POD: u32 = 1 << 16;

/// Ids of the host, of users and groups alike, one after the other. The first one is root inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A range that is none for a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have {IDS_PER_POD} ids or more, all of them above 0 and below {}", u32::MAX)]
pub struct BadRange;

/// A range that pods cannot be given parts of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must begin at a multiple of {IDS_PER_POD} above 0 and be as long as a multiple of it, below {}",
    u32::MAX
)]
pub struct BadPool;

impl IdRange {
    /// The ids for that many pods when nobody says otherwise: those after the host's own.
    pub fn for_pods(pods: u32) -> IdRange {
        let fitting = u32::MAX / IDS_PER_POD - 1;
        IdRange { first: IDS_PER_POD, count: pods.min(fitting) * IDS_PER_POD }
    }

    /// A range to give pods parts of: apart from the host's ids, and aligned.
    ///
    /// # Errors
    /// It is not.
    pub fn pool(first: u32, count: u32) -> Result<IdRange, BadPool> {
        let aligned = |number: u32| number > 0 && number.is_multiple_of(IDS_PER_POD);
        let fits = first.checked_add(count).is_some();
        if aligned(first) && aligned(count) && fits { Ok(IdRange { first, count }) } else { Err(BadPool) }
    }

    /// A range that somebody else has chosen for a pod: with all ids that images use, and without root of the host.
    ///
    /// # Errors
    /// It is not.
    pub fn chosen(first: u32, count: u32) -> Result<IdRange, BadRange> {
        let fits = first > 0 && count >= IDS_PER_POD && first.checked_add(count).is_some();
        if fits { Ok(IdRange { first, count }) } else { Err(BadRange) }
    }

    /// How many pods get a part of it.
    pub fn pods(self) -> u32 {
        self.count / IDS_PER_POD
    }

    /// The first part of this pool that shares no id with what is taken.
    pub fn free(self, taken: &[IdRange]) -> Option<IdRange> {
        let parts =
            (0..self.pods()).map(|n| IdRange { first: self.first + n * IDS_PER_POD, count: IDS_PER_POD });
        parts.into_iter().find(|part| taken.iter().all(|other| !part.overlaps(*other)))
    }

    /// Whether both have an id.
    pub fn overlaps(self, other: IdRange) -> bool {
        let end = |range: IdRange| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }

    /// The last id.
    pub fn last(self) -> u32 {
        self.first.saturating_add(self.count).saturating_sub(1)
    }

    /// As the kernel wants it in `uid_map` and `gid_map`.
    pub fn map(self) -> String {
        format!("0 {} {}\n", self.first, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u32 = IDS_PER_POD;

    /// Ranges in units of a pod.
    fn range(first: u32, count: u32) -> IdRange {
        IdRange { first: first * UNIT, count: count * UNIT }
    }

    fn check(pool: IdRange, taken: &[IdRange], expected: Option<u32>) {
        let found = pool.free(taken).map(|range| (range.first, range.count));
        assert_eq!(found, expected.map(|first| (first, UNIT)), "{pool:?} without {taken:?}");
    }

    #[test]
    fn the_first_free_part_is_taken() {
        let pool = IdRange::for_pods(3);
        check(pool, &[], Some(65_536));
        check(pool, &[range(1, 1)], Some(131_072));
        check(pool, &[range(1, 1), range(3, 1)], Some(131_072));
        check(pool, &[range(2, 1), range(1, 1)], Some(196_608));
        check(pool, &[range(2, 1), range(1, 1), range(3, 1)], None);
        check(pool, &[range(1, 3)], None);
    }

    #[test]
    fn pods_of_an_earlier_pool_keep_theirs() {
        let pool = IdRange::pool(2 * UNIT, 2 * UNIT).unwrap();
        check(pool, &[range(1, 1)], Some(2 * UNIT));
        // Of another length, and not aligned.
        check(pool, &[IdRange { first: 2 * UNIT + 5, count: 10 }], Some(3 * UNIT));
        check(pool, &[IdRange { first: 3 * UNIT - 1, count: 2 }], None);
        check(pool, &[IdRange { first: 2 * UNIT - 1, count: 1 }], Some(2 * UNIT));
    }

    #[test]
    fn never_two_pods_with_one_id() {
        let pool = IdRange::for_pods(110);
        let mut taken: Vec<IdRange> = Vec::new();
        while let Some(next) = pool.free(&taken) {
            assert!(next.first >= UNIT && next.first.is_multiple_of(UNIT));
            assert!(taken.iter().all(|other| !other.overlaps(next)));
            taken.push(next);
        }
        assert_eq!(taken.len(), 110);
    }

    #[test]
    fn ranges_of_others_spare_root_and_are_long_enough() {
        for (first, count, good) in [
            (1000, 100_000, true),
            (65_536, 65_536, true),
            (0, 65_536, false),
            (65_536, 65_535, false),
            (u32::MAX - 65_536, 65_536, true),
            (u32::MAX - 65_535, 65_536, false),
        ] {
            assert_eq!(IdRange::chosen(first, count).is_ok(), good, "{first} {count}");
        }
    }

    #[test]
    fn pools_are_aligned_and_spare_the_host() {
        for (first, count, good) in [
            (65_536, 65_536, true),
            (65_536 * 2, 65_536 * 110, true),
            (0, 65_536, false),
            (1, 65_536, false),
            (65_536, 0, false),
            (65_536, 65_535, false),
            (65_536, u32::MAX - 65_535, false),
            (65_536, 65_536 * 65_534, true),
        ] {
            assert_eq!(IdRange::pool(first, count).is_ok(), good, "{first} {count}");
        }
        assert_eq!(IdRange::for_pods(u32::MAX).pods(), 65_534);
        assert_eq!(range(1, 1).map(), "0 65536 65536\n");
    }
}

//! Limits of what a pod sends and gets, as token buckets. Pure.

use crate::netlink::Bucket;

/// How much a pod may send and get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the pod, bits per second; `None` is as much as there is.
    pub ingress: Option<u64>,
    /// From the pod, bits per second; `None` is as much as there is.
    pub egress: Option<u64>,
}

/// The bucket holds this part of a second, and as long a queue may be in front of it twice over.
const BURSTS_PER_SECOND: u64 = 50;
/// The least that a bucket holds and a queue has room for, in packets: below, TCP starves.
const LEAST_BURST: u64 = 4;
const LEAST_QUEUE: u64 = 32;
/// Ethernet's header.
const HEADER: u64 = 14;

/// The bucket for a rate in bits per second.
pub(crate) fn bucket(bits: u64, mtu: u32) -> Bucket {
    let rate = bits.div_ceil(8);
    let packet = u64::from(mtu) + HEADER;
    let burst = (rate / BURSTS_PER_SECOND).max(LEAST_BURST * packet);
    let queue = (2 * (rate / BURSTS_PER_SECOND)).max(LEAST_QUEUE * packet);
    let fits = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    Bucket { rate, burst: fits(burst), limit: fits(burst.saturating_add(queue)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_some_packets_or_a_fiftieth_of_a_second() {
        assert_eq!(bucket(1_000, 1486), Bucket { rate: 125, burst: 6_000, limit: 54_000 });
        assert_eq!(
            bucket(1_000_000_000, 1486),
            Bucket { rate: 125_000_000, burst: 2_500_000, limit: 7_500_000 }
        );
        assert_eq!(bucket(1_000_000_000_000_000, 1486).burst, u32::MAX);
    }
}

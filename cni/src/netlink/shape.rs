//! Limits of bandwidth: token bucket filters, and a link that what a pod sends is led through to have one.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};
use rtnetlink::{
    LinkIfb,
    packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE},
};
use rustix::io::Errno;

use super::{Error, RouteSocket};

const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// Lengths of packets are what they are, so that the kernel needs no table of them.
const LINK_LAYER_ETHERNET: u8 = 1;
const ALL_PROTOCOLS: u16 = 3;

/// A token bucket, bytes and bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// What flows in.
    pub rate: u64,
    /// What it holds.
    pub burst: u32,
    /// What may wait.
    pub limit: u32,
}

impl RouteSocket {
    /// What leaves a link is held to this, whatever was there before.
    pub(crate) fn limit(&mut self, index: u32, bucket: &Bucket) -> Result<(), Error> {
        let mut message = TcMessage::with_index(signed(index)?);
        message.header.parent = TcHandle::ROOT;
        let options = options(bucket).into_iter().map(TcOption::Other).collect();
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Makes a link that gives back what it is given. One that is there is fine.
    pub(crate) fn create_shaper(&mut self, name: &str) -> Result<(), Error> {
        match self.wait(self.handle.link().add(LinkIfb::new(name).up().build()).execute()) {
            Err(error) if error.is(&[Errno::EXIST]) => Ok(()),
            other => other,
        }
    }

    /// What comes in on a link takes the way through the shaper; a way of before is forgotten.
    pub(crate) fn lead_through(&mut self, index: u32, shaper: u32) -> Result<(), Error> {
        let link = signed(index)?;
        let mut old = TcMessage::with_index(link);
        old.header.parent = TcHandle::INGRESS;
        match self.request(RouteNetlinkMessage::DelQueueDiscipline(old), 0) {
            Err(error) if !error.is(&[Errno::NOENT, Errno::INVAL]) => return Err(error),
            _ => {}
        }
        let ingress = self.handle.qdisc().add(link).ingress();
        self.wait(ingress.execute())?;
        let filter = self.handle.traffic_filter(link).add().ingress().protocol(ALL_PROTOCOLS.to_be());
        let filter = filter.redirect(shaper)?;
        self.wait(filter.execute())
    }
}

fn signed(index: u32) -> Result<i32, Error> {
    i32::try_from(index).map_err(|_| Error::Malformed(format!("interface index {index}")))
}

/// `struct tc_tbf_qopt` and what does not fit into it.
fn options(bucket: &Bucket) -> Vec<DefaultNla> {
    let Bucket { rate, burst, limit } = bucket;
    let short = u32::try_from(*rate).unwrap_or(u32::MAX);
    let peak = [0; 12];
    let parameters = [
        &[0, LINK_LAYER_ETHERNET, 0, 0, 0, 0, 0, 0][..],
        &short.to_ne_bytes(),
        &peak,
        &limit.to_ne_bytes(),
        // The bucket in ticks, and the largest packet: both follow from `BURST`.
        &[0; 8],
    ];
    vec![
        DefaultNla::new(PARAMETERS, parameters.concat()),
        DefaultNla::new(RATE64, rate.to_ne_bytes().to_vec()),
        DefaultNla::new(BURST, burst.to_ne_bytes().to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::Nla;

    #[test]
    fn options_have_the_kernels_sizes() {
        let bucket = Bucket { rate: 10_000_000_000, burst: 1, limit: 2 };
        let sizes: Vec<_> =
            options(&bucket).iter().map(|option| (option.kind(), option.value_len())).collect();
        assert_eq!(sizes, [(PARAMETERS, 36), (RATE64, 8), (BURST, 4)]);
    }
}

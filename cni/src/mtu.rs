//! The MTU of pods' links: what the way out of the node has room for, and the same on links that are there already.

use std::sync::atomic::Ordering;

use orlop_model::net::{Family, IpNet};

use crate::{
    error::MtuError,
    names::{LinkName, OVERLAY, POD_INTERFACE},
    netlink::{Error, RouteSocket, Way},
    netns::Netns,
    network::{Inner, NetworkConfig},
    route::{Overlay, overlay::overhead},
};

/// Where nothing leads out.
const DEFAULT: u32 = 1500;

/// The least that these addresses can do with.
pub(crate) fn least(pod_cidrs: &[IpNet]) -> u32 {
    if pod_cidrs.iter().any(|range| range.family() == Family::V6) { 1280 } else { 576 }
}

/// What pods' links should have now.
pub(crate) fn wanted(config: &NetworkConfig, socket: &mut RouteSocket) -> Result<u32, Error> {
    if let Some(mtu) = config.mtu {
        return Ok(mtu);
    }
    let overlaid = config.overlay == Overlay::Vxlan || socket.link(OVERLAY)?.is_some();
    let overhead = if overlaid { overhead(&config.node_ips) } else { 0 };
    Ok(outward(socket)?.saturating_sub(overhead).max(least(&config.pod_cidrs)))
}

/// The MTU of the device with the default route, IPv4's before IPv6's.
pub(crate) fn outward(socket: &mut RouteSocket) -> Result<u32, Error> {
    for family in [Family::V4, Family::V6] {
        if let Some(Way::Over(link)) = socket.way(family.outside())? {
            return Ok(socket.link_by_index(link.index)?.map_or(DEFAULT, |link| link.mtu));
        }
    }
    Ok(DEFAULT)
}

/// Gives all pods' links the MTU that is wanted now. Goes on after a failure and reports all.
pub(crate) fn refresh(inner: &Inner) -> Result<u32, Vec<MtuError>> {
    let looked = inner.socket().and_then(|mut socket| {
        let mtu = wanted(&inner.config, &mut socket)?;
        inner.put_back(socket);
        Ok(mtu)
    });
    let mtu = looked.map_err(|source| vec![MtuError::Discover(source)])?;
    let before = inner.mtu.swap(mtu, Ordering::SeqCst);
    if before != mtu {
        tracing::info!(before, mtu, "MTU of pods");
    }
    let pods: Vec<_> = inner.ledger().allocator().assignments().map(|(_, owner)| owner.clone()).collect();
    let failed = pods.into_iter().filter_map(|owner| {
        let netns = owner.netns.and_then(|path| Netns::open(&path).ok());
        // A pod whose namespace is gone is about to be detached.
        let source = adjust(inner, &owner.uid, netns.as_ref()?, mtu).err()?;
        Some(MtuError::Pod { pod: owner.pod, source })
    });
    let failures: Vec<_> = failed.collect();
    if failures.is_empty() { Ok(mtu) } else { Err(failures) }
}

/// Neither side may send what the other one does not take: less begins in the pod, more on the node.
fn adjust(inner: &Inner, uid: &str, netns: &Netns, mtu: u32) -> Result<(), Error> {
    let _turn = inner.turn(uid);
    let mut host = inner.socket()?;
    let Some(host_link) = host.link(LinkName::for_pod(uid).as_str())? else { return Ok(()) };
    if host_link.mtu != mtu {
        // A namespace that cannot be entered is one that ends.
        let Ok(pod) = netns.run(RouteSocket::open) else { return Ok(()) };
        let mut pod = pod?;
        let pod_link = pod.link(POD_INTERFACE)?.filter(|link| link.peer == Some(host_link.index));
        if host_link.mtu < mtu {
            host.set_mtu(host_link.index, mtu)?;
        }
        if let Some(link) = pod_link {
            pod.set_mtu(link.index, mtu)?;
        }
        if host_link.mtu > mtu {
            host.set_mtu(host_link.index, mtu)?;
        }
    }
    inner.put_back(host);
    Ok(())
}

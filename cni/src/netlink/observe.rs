//! Reads the state of one pod's links, as the plan wants it.

use std::net::IpAddr;

use orlop_model::net::IpNet;

use super::{Error, Link, Route, RouteSocket};
use crate::{
    names::{self, HOST_MAC},
    plan::{HostSide, LinkState, PodLink, PodSide},
    reap::DOOMED,
};

/// What there is of a pod's links. A fresh pod costs three short questions.
pub(crate) fn observe(
    want: &PodLink,
    host: &mut RouteSocket,
    pod: &mut RouteSocket,
) -> Result<LinkState, Error> {
    Ok(LinkState {
        host: host.link(want.host.as_str())?.map(|link| host_side(want, link, host)).transpose()?,
        pod: pod.link(&want.interface)?.map(|link| pod_side(want, link, pod)).transpose()?,
        loopback_up: pod.link("lo")?.is_some_and(|lo| lo.up),
    })
}

fn host_side(want: &PodLink, link: Link, host: &mut RouteSocket) -> Result<HostSide, Error> {
    let routes = host.routes()?;
    let routed = |address: &IpAddr| routes.contains(&Route::to_pod(*address, link.index));
    Ok(HostSide {
        index: link.index,
        up: link.up,
        uid: link.alias.as_deref().and_then(names::uid_of_alias).map(str::to_owned),
        mtu: link.mtu,
        doomed: link.group == DOOMED,
        routes: want.addresses.iter().copied().filter(routed).collect(),
        neighbours: host.neighbours(link.index, want.mac())?,
    })
}

fn pod_side(want: &PodLink, link: Link, pod: &mut RouteSocket) -> Result<PodSide, Error> {
    let routes = pod.routes()?;
    let routed =
        |(to, gateway): &(IpNet, IpAddr)| routes.contains(&Route::on_link(*to, *gateway, link.index));
    Ok(PodSide {
        peer: link.peer.filter(|_| link.veth),
        up: link.up,
        mtu: link.mtu,
        mac: link.mac,
        addresses: pod.addresses(link.index)?,
        routes: want.routes().into_iter().filter(routed).collect(),
        neighbours: pod.neighbours(link.index, HOST_MAC)?,
    })
}

//! Reads the state of one pod's links, as the plan wants it.

use super::{Error, Link, Route, RouteSocket};
use crate::{
    names::{self, GATEWAY, HOST_MAC},
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
    let route = Route::to_pod(want.address, link.index);
    Ok(HostSide {
        index: link.index,
        up: link.up,
        uid: link.alias.as_deref().and_then(names::uid_of_alias).map(str::to_owned),
        mtu: link.mtu,
        doomed: link.group == DOOMED,
        route: host.routes()?.contains(&route),
        neighbour: host.has_neighbour(link.index, want.address, want.mac())?,
    })
}

fn pod_side(want: &PodLink, link: Link, pod: &mut RouteSocket) -> Result<PodSide, Error> {
    let route = match want.only {
        None => Route::default_via(GATEWAY, link.index),
        Some(to) => Route::on_link(to, GATEWAY, link.index),
    };
    Ok(PodSide {
        peer: link.peer.filter(|_| link.veth),
        up: link.up,
        mtu: link.mtu,
        mac: link.mac,
        addresses: pod.addresses(link.index)?,
        route: pod.routes()?.contains(&route),
        neighbour: pod.has_neighbour(link.index, GATEWAY, HOST_MAC)?,
    })
}

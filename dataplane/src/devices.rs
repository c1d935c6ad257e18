//! The node's network devices and addresses, watched: where packets come in, and what counts as this node. And its routes: only
//! that they change.
//!
//! Level-triggered: any event leads to a fresh listing, at most one per 20 ms. The only netlink beside the pod network's.
//! Not for: pods' devices inside their namespaces, or changing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcMessage};
use orlop_model::names::POD_LINK_ALIAS;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;

use crate::kube_proxy::ipvs;
use crate::loader::Device;
use crate::netlink::{NETLINK_ROUTE, Netlink, xfrm};

/// Pods come in bursts; one listing serves them all.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to wait before a watch that broke is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Devices at which packets enter the node's IP stack.
    pub devices: Vec<Device>,
    /// Addresses, without loopback's.
    pub addresses: BTreeSet<IpAddr>,
}

/// Which devices get other programs than all, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// They get none.
    pub skipped: BTreeSet<String>,
    /// They get one before the stack (XDP), too.
    pub early: BTreeSet<String>,
}

/// Follows the network namespace of the calling thread until nobody listens.
pub async fn follow(named: Named, seen: watch::Sender<Option<Seen>>) {
    while !seen.is_closed() {
        if let Err(error) = watch(&named, &seen).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "watch network devices");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Routes and neighbours come in bursts, too.
const ROUTES_PAUSE: Duration = Duration::from_millis(5);

/// Calls whenever a packet may have another way than before: a route, a neighbour or a device has changed, or may have.
pub async fn follow_routes(mut changed: impl FnMut()) {
    let groups =
        [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route, MulticastGroup::Neigh, MulticastGroup::Link];
    loop {
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _handle, mut events)) => {
                let connection = tokio::spawn(connection);
                changed();
                while events.next().await.is_some() {
                    changed();
                    tokio::time::sleep(ROUTES_PAUSE).await;
                    while let Some(Some(_)) = futures::FutureExt::now_or_never(events.next()) {}
                    changed();
                }
                connection.abort();
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "watch routes"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What there is now, for whoever cannot wait until it is told.
///
/// # Errors
/// When netlink does not answer.
pub(crate) fn look(named: &Named) -> Result<Seen, WatchError> {
    list(named).map_err(WatchError::List)
}

/// Why the devices could not be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("list devices and addresses")]
    List(#[source] io::Error),
}

async fn watch(named: &Named, seen: &watch::Sender<Option<Seen>>) -> Result<(), WatchError> {
    let groups =
        [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Tc];
    let (connection, _handle, mut events) =
        rtnetlink::new_multicast_connection(&groups).map_err(WatchError::Open)?;
    let connection = tokio::spawn(connection);
    let policies = xfrm::Changes::follow();
    let result = loop {
        match list(named) {
            Ok(fresh) => {
                seen.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&fresh);
                    *known = Some(fresh);
                    changed
                });
            }
            Err(error) => break Err(WatchError::List(error)),
        }
        tokio::select! {
            event = events.next() => if event.is_none() { break Ok(()) },
            () = policies.next() => {}
            () = seen.closed() => break Ok(()),
        }
        tokio::time::sleep(PAUSE).await;
        // All that came meanwhile is in the next listing.
        while let Some(Some(_)) = futures::FutureExt::now_or_never(events.next()) {}
    };
    connection.abort();
    result
}

/// What is worth knowing of one device; the kernel tells a hundred times as much of each.
struct Link {
    loopback: bool,
    of_services: bool,
    device: Option<Device>,
}

/// Answered by the kernel at once.
fn list(named: &Named) -> io::Result<Seen> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let encrypted = xfrm::has_policies()?;
    let mut queued = Queued::default();
    netlink.list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), |answer| {
        if let RouteNetlinkMessage::NewQueueDiscipline(queue) = answer {
            queued.add(&queue);
        }
    })?;
    let mut links = BTreeMap::new();
    netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            let loopback = link.header.flags.contains(LinkFlags::Loopback);
            let (of_services, device) = (is_of_services(&link), device(&link, &queued, named));
            links.insert(link.header.index, Link { loopback, of_services, device });
        }
    })?;
    let mut of_device: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    netlink.list(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |answer| {
        if let RouteNetlinkMessage::NewAddress(found) = answer {
            of_device.entry(found.header.index).or_default().extend(address(&found));
        }
    })?;
    let counts = |index: &u32, ip: &IpAddr| match links.get(index) {
        // Addresses that live on `lo` (a balancer's, an anycast address) are the node's, too; 127.0.0.1 is everybody's.
        Some(link) if link.loopback => !ip.is_loopback(),
        Some(link) => !link.of_services,
        None => true,
    };
    let all = of_device.iter().flat_map(|(index, ips)| ips.iter().map(move |ip| (index, ip)));
    let addresses = all.filter(|(index, ip)| counts(index, ip) && usable(ip)).map(|(_, ip)| *ip).collect();
    let devices = links.into_values().filter_map(|link| link.device);
    let devices = devices.filter(|device| !named.skipped.contains(&device.name));
    let devices = devices.map(|device| Device { stack: device.stack || encrypted, ..device }).collect();
    Ok(Seen { devices, addresses })
}

/// An Ethernet device that stands by itself, or is the port of a bridge. (What belongs to a bond hands its packets to that.)
fn device(link: &LinkMessage, queued: &Queued, named: &Named) -> Option<Device> {
    let port_of = port_of(link).ok()?;
    if link.header.link_layer_type != LinkLayerType::Ether || is_of_services(link) {
        return None;
    }
    let pod = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => alias.starts_with(POD_LINK_ALIAS),
        _ => false,
    });
    let index = link.header.index;
    let name = name(link)?.to_owned();
    let early = named.early.contains(&name) && port_of.is_none();
    let stack = if pod { &queued.any } else { &queued.coming }.contains(&index);
    Some(Device { index, name, pod: pod && port_of.is_none(), stack, early, port_of })
}

/// It belongs to another device, which is no bridge.
struct Enslaved;

/// The bridge that a device is a port of, if it belongs to any device.
fn port_of(link: &LinkMessage) -> Result<Option<u32>, Enslaved> {
    let master = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let Some(master) = master else { return Ok(None) };
    let of_bridge = |info: &LinkInfo| matches!(info, LinkInfo::PortKind(InfoPortKind::Bridge));
    let bridged = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(of_bridge),
        _ => false,
    });
    if bridged { Ok(Some(master)) } else { Err(Enslaved) }
}

/// Devices with a queue.
#[derive(Default)]
struct Queued {
    /// For what goes out, or what comes in.
    any: BTreeSet<u32>,
    /// For what comes in: whatever stands there looks at it after our programs.
    coming: BTreeSet<u32>,
}

impl Queued {
    fn add(&mut self, queue: &TcMessage) {
        let Ok(device) = u32::try_from(queue.header.index) else { return };
        let kind = queue.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        });
        // The one that is none.
        if kind != Some("noqueue") {
            self.any.insert(device);
        }
        if matches!(kind, Some("ingress" | "clsact")) {
            self.coming.insert(device);
        }
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Where kube-proxy in IPVS mode puts the addresses of services: they are not the node's.
fn is_of_services(link: &LinkMessage) -> bool {
    name(link) == Some(ipvs::DEVICE)
}

/// Its own end of the address: for a point-to-point device that is not the same as the network's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// Link-local addresses name nothing outside their link, and the pods' gateway is one of them.
fn usable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

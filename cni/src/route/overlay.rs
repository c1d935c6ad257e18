//! The VXLAN device and what it knows of other nodes. Entries are ours alone: the kernel learns none.

use std::net::IpAddr;

use rustix::io::Errno;

use super::plan::{Tunnel, endpoint, node_address};
use crate::{
    names::{Mac, OVERLAY},
    netlink::{Error, FdbEntry, Link, RouteSocket, VxlanLink},
    network::NetworkConfig,
    sysctl::{self, SysctlError},
};

/// The number of our network among those of others on the same machines: "or" in ASCII.
const VNI: u32 = 0x6f72;
/// IANA's port of VXLAN.
const PORT: u16 = 4789;

/// What tunnelled packets have more: the outer header, UDP, VXLAN and the inner Ethernet header.
pub(crate) fn overhead(own: &[IpAddr]) -> u32 {
    if endpoint(own).is_some_and(|own| own.is_ipv6()) { 70 } else { 50 }
}

/// The overlay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The node does not know an address of its own.
    #[error("the node has no address that tunnels could end at")]
    NoAddress,
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] Error),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// Makes the device hold these tunnels and no others; returns its index. Without tunnels none is made, and one that is
/// there is left to whoever has led its routes elsewhere.
pub(crate) fn prepare(
    config: &NetworkConfig,
    mtu: u32,
    tunnels: &[Tunnel],
    socket: &mut RouteSocket,
) -> Result<Option<u32>, OverlayError> {
    let present = socket.link(OVERLAY)?;
    if tunnels.is_empty() {
        return Ok(present.map(|link| link.index));
    }
    let link = device(config, mtu, present, socket)?;
    let wanted = tunnels.iter().map(|Tunnel { mac, remote, .. }| FdbEntry { mac: *mac, remote: *remote });
    let wanted: Vec<_> = wanted.collect();
    let actual = socket.forwarding(link)?;
    for entry in wanted.iter().filter(|entry| !actual.contains(entry)) {
        socket.set_forwarding(link, entry)?;
    }
    // An entry with another remote for the same hardware address was replaced.
    for entry in actual.iter().filter(|entry| !wanted.iter().any(|wanted| wanted.mac == entry.mac)) {
        socket.delete_forwarding(link, entry)?;
    }
    let wanted: Vec<(IpAddr, Mac)> =
        tunnels.iter().flat_map(|tunnel| tunnel.hops.iter().map(|hop| (*hop, tunnel.mac))).collect();
    let actual = socket.permanent_neighbours(link)?;
    for (address, mac) in wanted.iter().filter(|entry| !actual.contains(entry)) {
        socket.set_neighbour(link, *address, *mac)?;
    }
    for (address, _) in
        actual.iter().filter(|(address, _)| !wanted.iter().any(|(wanted, _)| wanted == address))
    {
        socket.delete_neighbour(link, *address)?;
    }
    Ok(Some(link))
}

/// The device, made anew if it is another node's (of an earlier address).
fn device(
    config: &NetworkConfig,
    mtu: u32,
    present: Option<Link>,
    socket: &mut RouteSocket,
) -> Result<u32, OverlayError> {
    let local = endpoint(&config.node_ips).ok_or(OverlayError::NoAddress)?;
    let mac = Mac::for_node(local);
    let identity = format!("vxlan {VNI} {local} {PORT}");
    let link = VxlanLink { name: OVERLAY, vni: VNI, local, port: PORT, mac, mtu };
    let index = match present {
        Some(link) if link.alias.as_deref() == Some(identity.as_str()) => {
            if link.mtu != mtu {
                socket.set_mtu(link.index, mtu)?;
            }
            link.index
        }
        other => {
            other.map_or(Ok(()), |link| socket.delete_link(link.index))?;
            socket.create_vxlan(&link)?;
            let made =
                socket.link(OVERLAY)?.ok_or_else(|| Error::Malformed("the new link is gone".to_owned()))?;
            made.index
        }
    };
    tune()?;
    // What this node itself sends to pods of others has this address: they answer through the tunnel too.
    for address in config.pod_cidrs.iter().filter_map(node_address) {
        match socket.add_address(index, address) {
            Err(error) if !error.is(&[Errno::EXIST]) => return Err(error.into()),
            _ => {}
        }
    }
    socket.set_link(index, true, Some(&identity))?;
    Ok(index)
}

fn tune() -> Result<(), SysctlError> {
    sysctl::set(&format!("ipv4/conf/{OVERLAY}/rp_filter"), "2")?;
    for (setting, value) in
        [("addr_gen_mode", "1"), ("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")]
    {
        sysctl::set_if_present(&format!("ipv6/conf/{OVERLAY}/{setting}"), value)?;
    }
    Ok(())
}

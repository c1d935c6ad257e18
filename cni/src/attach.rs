//! Attaching and detaching one pod, on a blocking thread. Everything is checked before anything is touched.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

use orlop_model::net::Family;
use rustix::io::Errno;

use crate::{
    bandwidth::{Bandwidth, bucket},
    error::{AttachError, CheckError, DetachError, chain},
    execute::{Failed, Links, execute},
    ipam::Owner,
    names::{self, LinkName, Mac},
    netlink::{
        self, Route, RouteSocket, VethPair, Way,
        nft::{self, Permit},
    },
    netns::Netns,
    network::{Attached, Attachment, Inner},
    plan::{LinkOp, PodLink, plan},
    reap::{DOOMED, Reaper},
    sysctl::{self, SysctlError},
};

/// For older kernels: how often to ask for the carrier, and the pause in between.
const CARRIER_ATTEMPTS: u32 = 1000;
const CARRIER_PAUSE: Duration = Duration::from_millis(1);

/// How often to ask whether an IPv6 address is in use. With idle processors it is at the first time.
const ADDRESS_ATTEMPTS: u32 = 10_000;
const ADDRESS_PAUSE: Duration = Duration::from_micros(100);

/// Why a step had no effect.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The link was removed meanwhile.
    #[error("interface {0} is gone")]
    Gone(String),
    /// The kernel has the address, and does not take packets to it.
    #[error("address {0} is not in use")]
    NotLocal(IpAddr),
    /// The kernel does not let the link send.
    #[error("interface {0} has no carrier")]
    NoCarrier(String),
}

pub(crate) fn attach(inner: &Inner, attachment: &Attachment) -> Result<Attached, AttachError> {
    let Attachment { uid, namespace, name, netns, .. } = attachment;
    let owner = Owner { uid: uid.clone(), pod: format!("{namespace}/{name}"), netns: writable(netns) };
    let ours = names::is_of(inner.config.name.as_deref(), uid);
    if !names::valid_uid(uid) || !ours || owner.pod.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(AttachError::Name(owner.pod));
    }
    let netns = Netns::open(netns)?;
    let _turn = inner.turn(uid);
    let v6 = inner.config.pod_cidrs.iter().any(|range| range.family() == Family::V6);
    let mut pod = enter(&netns, v6)?;
    let mut host = inner.socket().map_err(|e| AttachError::Socket("node", e))?;

    let (assigned, log) = {
        let mut ledger = inner.ledger();
        (ledger.assign(&owner, &attachment.addresses)?, ledger.log())
    };
    let want = wanted(inner, attachment, assigned.addresses);
    let synced = match assigned.new {
        true => log.sync_data().map_err(|source| inner.ledger().fault("sync", source).into()),
        false => Ok(()),
    };
    let linked = synced.and_then(|()| {
        nft::permit(&permits(uid, &want.addresses)).map_err(AttachError::Permit)?;
        let _one_at_a_time = inner.wiring();
        link(&want, &mut host, &mut pod, &netns)
    });
    match linked {
        Ok(()) => {
            inner.put_back(host);
            let mac = want.mac();
            let PodLink { addresses, interface, mtu, only, .. } = want;
            Ok(Attached { addresses, interface, mac, mtu, only })
        }
        Err(error) => {
            let may_be_in_use = matches!(&error, AttachError::Step { left, .. } if !left.is_empty());
            if assigned.new
                && !may_be_in_use
                && nft::forbid(&permits(uid, &want.addresses)).is_ok()
                && let Err(release) = inner.ledger().release(uid)
            {
                tracing::warn!(
                    uid,
                    error = chain(&release),
                    "address of a pod that was not attached stays taken"
                );
            }
            Err(error)
        }
    }
}

/// What a pod's link may send under.
pub(crate) fn permits(uid: &str, addresses: &[IpAddr]) -> Vec<Permit> {
    addresses.iter().map(|address| (LinkName::for_pod(uid), *address)).collect()
}

/// The links that the pod should have.
fn wanted(inner: &Inner, attachment: &Attachment, addresses: Vec<IpAddr>) -> PodLink {
    let only = if attachment.default_route { Vec::new() } else { inner.config.cluster_cidrs.clone() };
    PodLink {
        interface: attachment.interface.clone(),
        mac: attachment.mac,
        only,
        bandwidth: attachment.bandwidth,
        ..PodLink::new(&attachment.uid, addresses, inner.mtu.load(Ordering::SeqCst))
    }
}

/// Attaching again would change nothing, but perhaps the pod's routes.
pub(crate) fn check(
    inner: &Inner,
    attachment: &Attachment,
    expected: &[IpAddr],
    routed: bool,
) -> Result<(), CheckError> {
    let netns = Netns::open(&attachment.netns).map_err(AttachError::Netns)?;
    let _turn = inner.turn(&attachment.uid);
    let known = inner.ledger().allocator().addresses(&attachment.uid).unwrap_or_default().to_vec();
    if known != expected {
        return Err(CheckError::Address { expected: expected.to_vec(), known });
    }
    let want = wanted(inner, attachment, known);
    let mut pod = enter(&netns, want.v6())?;
    let mut host = inner.socket().map_err(|e| AttachError::Socket("node", e))?;
    let mut state = netlink::observe(&want, &mut host, &mut pod).map_err(AttachError::Observe)?;
    inner.put_back(host);
    // To limit is to limit again.
    let want = PodLink { bandwidth: Bandwidth::default(), ..want };
    // A later plugin of a chain may have tuned these, and the way out may have another MTU by now.
    if let Some(host) = &mut state.host {
        host.mtu = want.mtu;
    }
    if let Some(pod) = &mut state.pod {
        pod.mtu = want.mtu;
        if !routed {
            pod.routes = want.routes();
        }
    }
    let missing: Vec<_> =
        plan(&want, &state).map_err(AttachError::Plan)?.iter().map(|op| want.words(op)).collect();
    if missing.is_empty() { Ok(()) } else { Err(CheckError::Missing { missing }) }
}

pub(crate) fn detach(inner: &Inner, uid: &str) -> Result<(), DetachError> {
    let _turn = inner.turn(uid);
    let mut host = inner.socket().map_err(DetachError::Socket)?;
    let name = LinkName::for_pod(uid);
    let failed = |source| DetachError::Link { host: name.clone(), source };
    if let Some(shaper) = host.link(&name.shaper()).map_err(failed)? {
        host.delete_link(shaper.index).map_err(failed)?;
    }
    // As long as the link is there its address must not go to another pod.
    delete_pair(&name, uid, &inner.reaper, &mut host).map_err(failed)?;
    inner.put_back(host);
    let held = inner.ledger().allocator().addresses(uid).unwrap_or_default().to_vec();
    if !held.is_empty() {
        nft::forbid(&permits(uid, &held)).map_err(DetachError::Forbid)?;
    }
    Ok(inner.ledger().release(uid)?)
}

/// Removes the pod's pair, unless the name stands for another pod.
fn delete_pair(
    name: &LinkName,
    uid: &str,
    reaper: &Reaper,
    host: &mut RouteSocket,
) -> Result<(), netlink::Error> {
    let Some(link) = host.link(name.as_str())? else { return Ok(()) };
    match link.alias.as_deref().and_then(names::uid_of_alias) {
        Some(other) if other != uid => Ok(()),
        _ => match host.set_group(link.index, DOOMED) {
            Ok(()) => reaper.reap(|| host.delete_group(DOOMED)),
            // The pod's namespace went away with it in this very moment.
            Err(error) if error.is(&[Errno::NODEV]) => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// The path as the ledger can have it.
fn writable(netns: &Path) -> Option<PathBuf> {
    let plain = |path: &&str| !path.contains(|c: char| c.is_whitespace() || c.is_control());
    netns.to_str().filter(plain).map(PathBuf::from)
}

/// A socket inside the pod's namespace, where new links are to be with IPv6 or without. Nothing comes by itself: the
/// addresses are the pod's alone, so nobody is asked about them, and what a router says is not listened to.
fn enter(netns: &Netns, v6: bool) -> Result<RouteSocket, AttachError> {
    let settings = || {
        if !v6 {
            return sysctl::set_if_present("ipv6/conf/default/disable_ipv6", "1");
        }
        sysctl::set("ipv6/conf/default/disable_ipv6", "0")?;
        sysctl::set("ipv6/conf/default/accept_dad", "0")?;
        sysctl::set("ipv6/conf/default/accept_ra", "0")
    };
    let visit = || {
        settings().map_err(AttachError::Prepare)?;
        RouteSocket::open().map_err(|e| AttachError::Socket("pod", e))
    };
    netns.run(visit)?
}

fn link(
    want: &PodLink,
    host: &mut RouteSocket,
    pod: &mut RouteSocket,
    netns: &Netns,
) -> Result<(), AttachError> {
    let state = netlink::observe(want, host, pod).map_err(AttachError::Observe)?;
    let ops = plan(want, &state)?;
    let interface = want.interface.as_str();
    let mut links =
        KernelLinks { host, pod, netns: netns.file(), interface, host_index: None, pod_index: None };
    execute(&ops, &mut links).map_err(|Failed { op, source, left }| {
        let left = left.iter().map(|(op, error)| format!("{}: {}", want.words(op), chain(error))).collect();
        AttachError::Step { op: want.words(&op), source, left }
    })
}

/// The steps' way to the kernel: one socket on either side of the pair.
pub(crate) struct KernelLinks<'a> {
    pub host: &'a mut RouteSocket,
    pub pod: &'a mut RouteSocket,
    pub netns: &'a File,
    pub interface: &'a str,
    pub host_index: Option<u32>,
    pub pod_index: Option<u32>,
}

impl KernelLinks<'_> {
    fn host_index(&mut self, name: &LinkName) -> Result<u32, LinkError> {
        index(&mut self.host_index, self.host, name.as_str())
    }

    fn pod_index(&mut self) -> Result<u32, LinkError> {
        index(&mut self.pod_index, self.pod, self.interface)
    }

    fn loopback(&mut self, up: bool) -> Result<(), LinkError> {
        let index = index(&mut None, self.pod, "lo")?;
        Ok(self.pod.set_link(index, up, None)?)
    }

    fn delete_pair(&mut self, host: &LinkName) -> Result<(), LinkError> {
        (self.host_index, self.pod_index) = (None, None);
        match self.host.link(host.as_str())? {
            Some(link) => Ok(self.host.delete_link(link.index)?),
            None => Ok(()),
        }
    }

    /// Linux from 6.8 on finishes its pending work before it answers, so that one question per side suffices.
    fn await_carrier(&mut self, host: &LinkName) -> Result<(), LinkError> {
        for _ in 0..CARRIER_ATTEMPTS {
            let sides = [self.host.link(host.as_str())?, self.pod.link(self.interface)?];
            if sides.iter().all(|side| side.as_ref().is_some_and(|link| link.running)) {
                return Ok(());
            }
            thread::sleep(CARRIER_PAUSE);
        }
        Err(LinkError::NoCarrier(host.to_string()))
    }

    /// The kernel enters the address into its tables within the next milliseconds.
    fn await_address(&mut self, address: IpAddr) -> Result<(), LinkError> {
        for _ in 0..ADDRESS_ATTEMPTS {
            if self.pod.way(address)? == Some(Way::Local) {
                return Ok(());
            }
            thread::sleep(ADDRESS_PAUSE);
        }
        Err(LinkError::NotLocal(address))
    }

    fn create_pair(
        &mut self,
        host: &LinkName,
        host_mac: Mac,
        pod_mac: Mac,
        mtu: u32,
    ) -> Result<(), LinkError> {
        let pair = VethPair {
            name: host.as_str(),
            mac: host_mac,
            peer_name: self.interface,
            peer_mac: pod_mac,
            peer_netns: self.netns,
            mtu,
        };
        Ok(self.host.create_veth(&pair)?)
    }
}

/// Settings of the host side, which come from the namespace's defaults and may be anything.
fn tune(host: &LinkName, v6: bool) -> Result<(), SysctlError> {
    sysctl::set(&format!("ipv4/conf/{host}/rp_filter"), "1")?;
    if !v6 {
        return sysctl::set_if_present(&format!("ipv6/conf/{host}/disable_ipv6"), "1");
    }
    // Without an address of its own the link has nothing to announce or to ask for.
    for (setting, value) in
        [("addr_gen_mode", "1"), ("disable_ipv6", "0"), ("accept_ra", "0"), ("forwarding", "1")]
    {
        sysctl::set(&format!("ipv6/conf/{host}/{setting}"), value)?;
    }
    Ok(())
}

fn index(cache: &mut Option<u32>, socket: &mut RouteSocket, name: &str) -> Result<u32, LinkError> {
    if let Some(index) = *cache {
        return Ok(index);
    }
    let link = socket.link(name)?.ok_or_else(|| LinkError::Gone(name.to_owned()))?;
    Ok(*cache.insert(link.index))
}

impl Links for KernelLinks<'_> {
    type Error = LinkError;

    fn apply(&mut self, op: &LinkOp) -> Result<(), LinkError> {
        match op {
            LinkOp::DeletePair { host } => self.delete_pair(host)?,
            LinkOp::CreatePair { host, host_mac, pod_mac, mtu } => {
                self.create_pair(host, *host_mac, *pod_mac, *mtu)?;
            }
            LinkOp::TuneHost { host, v6 } => tune(host, *v6)?,
            LinkOp::HostUp { host, uid } => {
                let index = self.host_index(host)?;
                self.host.set_link(index, true, Some(&names::alias(uid)))?;
            }
            LinkOp::LoopbackUp => self.loopback(true)?,
            LinkOp::PodAddress { address } => {
                let index = self.pod_index()?;
                self.pod.add_address(index, *address)?;
            }
            LinkOp::PodUp => {
                let index = self.pod_index()?;
                self.pod.set_link(index, true, None)?;
            }
            LinkOp::LimitIngress { host, rate, mtu } => {
                let index = self.host_index(host)?;
                self.host.limit(index, &bucket(*rate, *mtu))?;
            }
            LinkOp::LimitEgress { host, rate, mtu } => {
                let (index, shaper) = (self.host_index(host)?, host.shaper());
                self.host.create_shaper(&shaper)?;
                let through = self::index(&mut None, self.host, &shaper)?;
                self.host.limit(through, &bucket(*rate, *mtu))?;
                self.host.lead_through(index, through)?;
            }
            LinkOp::HostMtu { host, mtu } => {
                let index = self.host_index(host)?;
                self.host.set_mtu(index, *mtu)?;
            }
            LinkOp::PodMtu { mtu } => {
                let index = self.pod_index()?;
                self.pod.set_mtu(index, *mtu)?;
            }
            LinkOp::PodNeighbour { gateway, mac } => {
                let index = self.pod_index()?;
                self.pod.set_neighbour(index, *gateway, *mac)?;
            }
            LinkOp::PodRoute { to, gateway } => {
                let index = self.pod_index()?;
                self.pod.add_route(&Route::on_link(*to, *gateway, index))?;
            }
            LinkOp::Carrier { host } => self.await_carrier(host)?,
            LinkOp::PodAnswers { address } => self.await_address(*address)?,
            LinkOp::HostNeighbour { host, address, mac } => {
                let index = self.host_index(host)?;
                self.host.set_neighbour(index, *address, *mac)?;
            }
            LinkOp::HostRoute { host, address } => {
                let index = self.host_index(host)?;
                self.host.add_route(&Route::to_pod(*address, index))?;
            }
        }
        Ok(())
    }

    fn revert(&mut self, op: &LinkOp) -> Result<(), LinkError> {
        match op {
            LinkOp::DeletePair { .. }
            | LinkOp::TuneHost { .. }
            | LinkOp::LimitIngress { .. }
            | LinkOp::HostMtu { .. }
            | LinkOp::PodMtu { .. }
            | LinkOp::Carrier { .. }
            | LinkOp::PodAnswers { .. } => {}
            LinkOp::CreatePair { host, .. } => self.delete_pair(host)?,
            LinkOp::LimitEgress { host, .. } => {
                if let Some(link) = self.host.link(&host.shaper())? {
                    self.host.delete_link(link.index)?;
                }
            }
            LinkOp::HostUp { host, .. } => {
                let index = self.host_index(host)?;
                self.host.set_link(index, false, None)?;
            }
            LinkOp::LoopbackUp => self.loopback(false)?,
            LinkOp::PodAddress { address } => {
                let index = self.pod_index()?;
                self.pod.delete_address(index, *address)?;
            }
            LinkOp::PodUp => {
                let index = self.pod_index()?;
                self.pod.set_link(index, false, None)?;
            }
            LinkOp::PodNeighbour { gateway, .. } => {
                let index = self.pod_index()?;
                self.pod.delete_neighbour(index, *gateway)?;
            }
            LinkOp::PodRoute { to, gateway } => {
                let index = self.pod_index()?;
                self.pod.delete_route(&Route::on_link(*to, *gateway, index))?;
            }
            LinkOp::HostNeighbour { host, address, .. } => {
                let index = self.host_index(host)?;
                self.host.delete_neighbour(index, *address)?;
            }
            LinkOp::HostRoute { host, address } => {
                let index = self.host_index(host)?;
                self.host.delete_route(&Route::to_pod(*address, index))?;
            }
        }
        Ok(())
    }
}

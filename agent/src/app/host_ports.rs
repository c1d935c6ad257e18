//! Host ports of this node's pods, for the service dataplane: which pods run, and which addresses they got.
//!
//! ```text
//! pod attached, detached ─▶ look: Desk (pods) x Network (addresses) ─▶ Update::HostPorts, if it changed
//! ```
//! Level-triggered, so that an agent that starts again finds them all. Not for networks that open ports themselves.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use orlop_dataplane::{
    Update,
    model::{HostPort, Protocol, ServiceKey},
};
use tokio::{sync::watch, time::timeout};

use orlop::{
    pod::{machine::PortMapping, network},
    worker::{Desk, Known, ports::Network},
};

/// How often it is looked even when nothing was heard of.
const AGAIN: Duration = Duration::from_secs(30);

/// Follows them for as long as somebody listens.
pub(super) fn follow(
    desk: Desk,
    network: Arc<dyn Network>,
    changed: watch::Receiver<u64>,
) -> impl Stream<Item = Update> + Send {
    stream::unfold((desk, network, changed, None), |(desk, network, mut changed, mut told)| async move {
        loop {
            changed.mark_unchanged();
            if let Some(pods) = desk.pods().await {
                let fresh = host_ports(&pods, network.attached().await.into_iter().collect());
                if told.as_ref() != Some(&fresh) {
                    told = Some(fresh.clone());
                    return Some((Update::HostPorts(fresh), (desk, network, changed, told)));
                }
            }
            // An end of the channel is an end of all pods' networks: then the clock is enough.
            if let Ok(Err(_)) = timeout(AGAIN, changed.changed()).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
    })
}

/// What pods with addresses ask for, by pod.
fn host_ports(
    pods: &[Known],
    addresses: HashMap<String, Vec<IpAddr>>,
) -> BTreeMap<ServiceKey, Vec<HostPort>> {
    let mut all = BTreeMap::new();
    for known in pods.iter().filter(|known| !known.ended) {
        let meta = &known.pod.metadata;
        let of_pod = meta.uid.as_ref().and_then(|uid| addresses.get(uid));
        let (Some(ips), Ok(wishes)) = (of_pod, network::wishes(&known.pod)) else { continue };
        let ports: Vec<_> = wishes.ports.iter().filter_map(|mapping| host_port(mapping, ips)).collect();
        if !ports.is_empty() {
            let name = format!("pod/{}", meta.name.clone().unwrap_or_default());
            let namespace = meta.namespace.clone().unwrap_or_default();
            all.insert(ServiceKey { namespace, name }, ports);
        }
    }
    all
}

fn host_port(mapping: &PortMapping, ips: &[IpAddr]) -> Option<HostPort> {
    let protocol = match mapping.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let to = ips.iter().map(|ip| SocketAddr::new(*ip, mapping.container_port)).collect();
    Some(HostPort { host_ip: mapping.host_ip, port: mapping.host_port, protocol, to })
}

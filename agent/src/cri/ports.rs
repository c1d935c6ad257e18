//! Host ports of pods that clients made: connections to a port of the machine, handed on to the pod.
//!
//! Bytes go through this process: the ports are closed while it is not there, and open again once it is. The source
//! address that the pod sees is the machine's. Not for: UDP and SCTP.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use orlop_cri_api::v1::{PortMapping, Protocol};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Open host ports by sandbox.
#[derive(Default)]
pub(super) struct HostPorts(Mutex<HashMap<String, DropGuard>>);

/// A host port that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    /// Of another protocol than TCP.
    #[error("host port {port}: only TCP is supported")]
    Protocol { port: i32 },
    /// Not an address or a port.
    #[error("host port {host_ip}:{port} is none")]
    Value { host_ip: String, port: i32 },
    /// Taken, most likely.
    #[error("open host port {address}")]
    Bind { address: SocketAddr, source: io::Error },
}

/// Where to listen, and the pod's port.
fn plan(mapping: &PortMapping) -> Option<Result<(SocketAddr, u16), PortError>> {
    let PortMapping { container_port, host_port, host_ip, .. } = mapping;
    if *host_port == 0 {
        return None;
    }
    if mapping.protocol() != Protocol::Tcp {
        return Some(Err(PortError::Protocol { port: *host_port }));
    }
    let none = || PortError::Value { host_ip: host_ip.clone(), port: *host_port };
    let address = if host_ip.is_empty() { Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) } else { host_ip.parse() };
    let both = (address, u16::try_from(*host_port), u16::try_from(*container_port));
    Some(match both {
        (Ok(address), Ok(port), Ok(to @ 1..)) => Ok((SocketAddr::new(address, port), to)),
        _ => Err(none()),
    })
}

impl HostPorts {
    /// Opens all host ports of a pod, or none.
    pub(super) async fn open(
        &self,
        uid: &str,
        pod: IpAddr,
        mappings: &[PortMapping],
    ) -> Result<(), PortError> {
        let mut listeners = Vec::new();
        for planned in mappings.iter().filter_map(plan) {
            let (address, to) = planned?;
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| PortError::Bind { address, source })?;
            listeners.push((listener, SocketAddr::new(pod, to)));
        }
        if listeners.is_empty() {
            return Ok(());
        }
        let stop = CancellationToken::new();
        for (listener, to) in listeners {
            tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, to)));
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), stop.drop_guard());
        Ok(())
    }

    /// Fine if there are none.
    pub(super) fn close(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

async fn serve(listener: TcpListener, to: SocketAddr) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(async move {
            // A pod that does not listen is a connection that ends at once.
            if let Ok(mut server) = TcpStream::connect(to).await {
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_checked() {
        let check = |mapping: PortMapping, expected: &str| {
            let text = match plan(&mapping) {
                None => "none".to_owned(),
                Some(Ok((address, to))) => format!("{address} {to}"),
                Some(Err(error)) => error.to_string(),
            };
            assert_eq!(text, expected);
        };
        let tcp = |host_ip: &str, host_port, container_port| PortMapping {
            host_ip: host_ip.into(),
            host_port,
            container_port,
            protocol: Protocol::Tcp.into(),
        };
        check(tcp("", 0, 80), "none");
        check(tcp("", 8080, 80), "0.0.0.0:8080 80");
        check(tcp("127.0.0.1", 8080, 80), "127.0.0.1:8080 80");
        check(tcp("x", 8080, 80), "host port x:8080 is none");
        check(tcp("", 70_000, 80), "host port :70000 is none");
        check(
            PortMapping { protocol: Protocol::Udp.into(), ..tcp("", 53, 53) },
            "host port 53: only TCP is supported",
        );
    }
}

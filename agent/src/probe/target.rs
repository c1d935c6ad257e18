//! Where a probe or a hook goes: scheme, host, port, path and headers, with upstream's defaults.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{ContainerPort, HTTPGetAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
    /// In lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Tells the server that no more requests follow.
    pub(crate) close: bool,
}

impl HttpTarget {
    /// As Go's client prints it in errors.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// Host and port for connecting.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// A hook's request instead of a probe's: another program name in `User-Agent`, unless the user gave one.
    pub(crate) fn of_hook(mut self) -> HttpTarget {
        let program = "kube-lifecycle";
        self.close = false;
        if let Some(agent) =
            self.headers.get_mut("user-agent").filter(|agent| agent.starts_with("kube-probe/"))
        {
            *agent = agent.replacen("kube-probe", program, 1);
        }
        self
    }
}

/// From `httpGet`.
pub(crate) fn http(
    action: &HTTPGetAction,
    ports: &[ContainerPort],
    pod_ip: Option<IpAddr>,
) -> Result<HttpTarget, String> {
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let mut headers = BTreeMap::from([
        ("user-agent".to_owned(), concat!("kube-probe/", "1.34").to_owned()),
        ("accept".to_owned(), "*/*".to_owned()),
    ]);
    for header in action.http_headers.iter().flatten() {
        let name = header.name.to_ascii_lowercase();
        if header.value.is_empty() && matches!(&*name, "user-agent" | "accept") {
            headers.remove(&name);
        } else {
            headers.insert(name, header.value.clone());
        }
    }
    let path = action.path.clone().unwrap_or_default();
    Ok(HttpTarget {
        https,
        host: host(action.host.as_ref(), pod_ip)?,
        port: port(&action.port, ports)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers,
        close: true,
    })
}

/// From `tcpSocket`.
pub(crate) fn tcp(
    action: &TCPSocketAction,
    ports: &[ContainerPort],
    pod_ip: Option<IpAddr>,
) -> Result<(String, u16), String> {
    Ok((host(action.host.as_ref(), pod_ip)?, port(&action.port, ports)?))
}

fn host(given: Option<&String>, pod_ip: Option<IpAddr>) -> Result<String, String> {
    match (given.filter(|host| !host.is_empty()), pod_ip) {
        (Some(host), _) => Ok(host.clone()),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err("failed to find a host: the pod has no address".into()),
    }
}

fn port(given: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match given {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name));
            match named.map(|port| port.container_port).or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => return Err(format!("couldn't find port: \"{name}\"")),
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

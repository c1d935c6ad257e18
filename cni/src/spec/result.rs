//! Results: the plugin's own, and what a runtime reads in one. Pure.
//!
//! A result passes through as JSON, so that what a plugin of tomorrow says is not lost to the next one in a chain.

use std::net::IpAddr;

use orlop_model::net::{Family, IpNet};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Code, Fault, Version};
use crate::{
    names::{HOST_MAC, LinkName, Mac, gateway},
    network::{Attached, Attachment},
    plan::PodLink,
};

/// The part of a result that somebody here reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Known {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Option<String>,
    /// Absent or empty on the host.
    pub(crate) sandbox: Option<String>,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Ip {
    /// With the length of its prefix.
    pub(crate) address: String,
    /// Index of its interface; not said by plugins for addresses alone.
    #[serde(default)]
    pub(crate) interface: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Route {
    dst: String,
}

/// What the last result said of the interface to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its hardware address.
    pub(crate) mac: Option<Mac>,
    /// Destinations of all routes.
    pub(crate) routes: Vec<String>,
}

/// What a chain of plugins gave to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodResult {
    /// The pod's addresses, those of the asked interface first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Interface {
    fn is_in_sandbox(&self) -> bool {
        self.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty())
    }
}

impl Ip {
    fn parse(&self) -> Option<IpAddr> {
        self.address.split_once('/').map_or(self.address.as_str(), |(address, _)| address).parse().ok()
    }
}

impl Known {
    fn of(result: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(result)
    }

    fn interface_of(&self, ip: &Ip) -> Option<&Interface> {
        self.interfaces.get(usize::try_from(ip.interface?).ok()?)
    }
}

/// The answer to `ADD`, in the form of the runtime's version: what earlier plugins in the chain have, and ours.
pub(crate) fn add_result(
    version: Version,
    attachment: &Attachment,
    attached: &Attached,
    dns: Option<&Map<String, Value>>,
    previous: Option<&Value>,
) -> Result<Value, Fault> {
    let mut result = match previous {
        None => Map::new(),
        Some(Value::Object(previous)) => previous.clone(),
        Some(_) => return Err(Fault::new(Code::InvalidConfig, "prevResult is no object", "")),
    };
    let before = list(&mut result, "interfaces")?;
    let index = before.len() + 1;
    let mut host = json!({
        "name": LinkName::for_pod(&attachment.uid).as_str(),
        "mac": HOST_MAC.to_string(),
    });
    let mut pod = json!({
        "name": attached.interface,
        "mac": attached.mac.to_string(),
        "sandbox": attachment.netns,
    });
    if version >= Version::GC {
        host["mtu"] = attached.mtu.into();
        pod["mtu"] = attached.mtu.into();
    }
    before.extend([host, pod]);
    let ip = |address: &IpAddr| {
        let mut ip = json!({
            "address": IpNet::host(*address),
            "gateway": gateway(Family::of(*address)),
            "interface": index,
        });
        if version < Version::PLAIN_ADDRESSES {
            ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    };
    list(&mut result, "ips")?.extend(attached.addresses.iter().map(ip));
    let link =
        PodLink { only: attached.only.clone(), ..PodLink::new("", attached.addresses.clone(), attached.mtu) };
    let routes = link.routes().into_iter().map(|(to, gateway)| json!({ "dst": to, "gw": gateway }));
    list(&mut result, "routes")?.extend(routes);
    result.insert("cniVersion".to_owned(), version.to_string().into());
    match dns {
        Some(dns) => drop(result.insert("dns".to_owned(), dns.clone().into())),
        None => drop(result.entry("dns").or_insert_with(|| json!({}))),
    }
    Ok(result.into())
}

fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, Fault> {
    let entry = result.entry(key).or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let fault = || Fault::new(Code::InvalidConfig, format!("prevResult.{key} is no list"), "");
    entry.as_array_mut().ok_or_else(fault)
}

/// What the last result says of an interface in the container.
pub(crate) fn previous_in(result: &Value, interface: &str) -> Result<Expected, Fault> {
    let fault = |error| Fault::new(Code::InvalidConfig, "prevResult is not valid", error);
    let known = Known::of(result).map_err(fault)?;
    let ours = |candidate: &&Interface| candidate.name == interface && candidate.is_in_sandbox();
    let Some(found) = known.interfaces.iter().find(ours) else {
        let text = format!("prevResult has no interface {interface} in a sandbox");
        return Err(Fault::new(Code::InvalidConfig, text, ""));
    };
    let its = known.ips.iter().filter(|ip| known.interface_of(ip) == Some(found));
    Ok(Expected {
        addresses: its.filter_map(Ip::parse).collect(),
        mac: found.mac.as_deref().and_then(Mac::parse),
        routes: known.routes.into_iter().map(|route| route.dst).collect(),
    })
}

/// What a chain's result means for the pod. Addresses without an interface are the pod's: nobody else could have them.
pub(crate) fn pod_result(result: &Value, interface: &str) -> Result<PodResult, serde_json::Error> {
    let known = Known::of(result)?;
    let rank = |ip: &&Ip| match known.interface_of(ip) {
        Some(found) if !found.is_in_sandbox() => None,
        Some(found) if found.name == interface => Some(0),
        Some(_) => Some(2),
        None => Some(1),
    };
    let mut ranked: Vec<_> = known.ips.iter().filter_map(|ip| Some((rank(&ip)?, ip.parse()?))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(PodResult { addresses: ranked.into_iter().map(|(_, address)| address).collect() })
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;

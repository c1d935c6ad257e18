//! What a plugin is asked, read from its environment and its standard input. Pure.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use orlop_model::net::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Code, Fault, VERSIONS, Version,
    args::Args,
    result::{Expected, previous_in},
};
use crate::{
    bandwidth::Bandwidth,
    names::{Mac, POD_INTERFACE},
    network::{Attachment, NetworkConfig},
    plan::PodLink,
    route::Overlay,
};

/// The kernel's names of interfaces are shorter than this.
const INTERFACE_MAX: usize = 16;

/// What a plugin is asked to do. Containers are named by the uids of [`crate::Network`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// Give a container an interface.
    Add(Attachment),
    /// Take it away; the container may be gone.
    Del {
        /// Uid.
        uid: String,
        /// The container, where it is known.
        netns: Option<PathBuf>,
        /// Its interface.
        interface: String,
    },
    /// Is it still as the result said?
    Check {
        /// The container.
        attachment: Attachment,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Our routes are still among the result's.
        routed: bool,
    },
    /// Take away all interfaces but these.
    Gc {
        /// Uids.
        keep: Vec<String>,
    },
    /// Can `Add` work?
    Status,
}

/// The parameters that come as environment variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(pub(crate) BTreeMap<String, String>);

/// The network configuration on standard input.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    /// Version of the specification that the runtime speaks.
    pub(crate) cni_version: String,
    name: String,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    /// Instead of `podCIDR`, for both families: pods' addresses come in this order.
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Vec<IpNet>,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<IpNet>,
    #[serde(rename = "clusterCIDRs", default)]
    cluster_cidrs: Vec<IpNet>,
    state_dir: Option<PathBuf>,
    mtu: Option<u32>,
    is_default_gateway: Option<bool>,
    ip_masq: Option<bool>,
    ipam: Option<Ipam>,
    /// Goes into the result as it is.
    pub(crate) dns: Option<Map<String, Value>>,
    #[serde(default)]
    runtime_config: Wishes,
    #[serde(default)]
    args: ConfigArgs,
    /// The result of the plugins before this one, or of all of them.
    pub(crate) prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
    /// Its name in drafts of the specification; runtimes send both.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<ValidAttachment>>,
}

/// Who has the addresses.
#[derive(Clone, Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// What a runtime or a user wishes for one container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wishes {
    ips: Vec<String>,
    mac: Option<String>,
    port_mappings: Vec<Value>,
    bandwidth: Rates,
}

/// Bits per second; nothing and nought are as much as there is. Bursts that runtimes name are not looked at: the
/// network has its own.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rates {
    ingress_rate: Option<u64>,
    egress_rate: Option<u64>,
}

/// The configuration's own place for wishes, older than `runtimeConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigArgs {
    cni: Wishes,
}

#[derive(Clone, Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Environment {
    pub(crate) fn command(&self) -> Result<&str, Fault> {
        self.required("CNI_COMMAND")
    }

    fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Fault> {
        let missing = || Fault::new(Code::InvalidEnvironment, format!("{name} is not set"), "");
        self.optional(name).ok_or_else(missing)
    }

    fn valid(&self, name: &str, valid: impl FnOnce(&str) -> bool) -> Result<&str, Fault> {
        let value = self.required(name)?;
        let fault = || Fault::new(Code::InvalidEnvironment, format!("{name} {value:?} is malformed"), "");
        if valid(value) { Ok(value) } else { Err(fault()) }
    }

    fn container(&self) -> Result<&str, Fault> {
        self.valid("CNI_CONTAINERID", valid_name)
    }

    fn interface(&self) -> Result<&str, Fault> {
        self.valid("CNI_IFNAME", valid_interface)
    }
}

/// Names of networks and ids of containers: a letter or digit, then those, `_`, `.` and `-`.
pub(crate) fn valid_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

/// Names that the kernel takes for an interface.
fn valid_interface(name: &str) -> bool {
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() < INTERFACE_MAX && name != "." && name != ".." && !name.contains(forbidden)
}

/// Reads the configuration.
pub(crate) fn config(stdin: &[u8]) -> Result<Config, Fault> {
    let value: Value = serde_json::from_slice(stdin)
        .map_err(|error| Fault::new(Code::DecodeFailure, "the network configuration is no JSON", error))?;
    let Value::Object(mut object) = value else {
        return Err(Fault::new(Code::DecodeFailure, "the network configuration is no JSON object", ""));
    };
    // The specification's first version had no field for it.
    let version = object.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0").to_owned();
    if !VERSIONS.contains(&version.as_str()) {
        let text = format!("cniVersion {version} is not supported");
        let supported = format!("supported: {}", VERSIONS.join(", "));
        return Err(Fault::new(Code::IncompatibleVersion, text, supported));
    }
    object.insert("cniVersion".to_owned(), version.clone().into());
    let in_its_version = |fault| Fault { cni_version: version.clone(), ..fault };
    let config: Config = serde_json::from_value(Value::Object(object)).map_err(|error| {
        in_its_version(Fault::new(Code::InvalidConfig, "the network configuration is not valid", error))
    })?;
    config.validate().map_err(in_its_version)?;
    Ok(config)
}

impl Config {
    fn validate(&self) -> Result<(), Fault> {
        let unsupported = |text: &str, why: &str| Err(Fault::new(Code::UnsupportedField, text, why));
        if !valid_name(&self.name) {
            return Err(Fault::new(Code::InvalidConfig, format!("name {:?} is malformed", self.name), ""));
        }
        if self.pod_cidr.is_none() && self.pod_cidrs.is_empty() {
            let missing = "podCIDR or podCIDRs is missing";
            return Err(Fault::new(Code::InvalidConfig, "the network configuration is not valid", missing));
        }
        if self.ip_masq == Some(false) {
            return unsupported("ipMasq false", "what leaves clusterCIDR is always masqueraded");
        }
        if self.delegate().is_some_and(|kind| kind.contains(['/', '\0']) || kind.starts_with('.')) {
            return Err(Fault::new(Code::InvalidConfig, "ipam.type is malformed", ""));
        }
        let wishes = [&self.runtime_config, &self.args.cni];
        if wishes.iter().any(|wishes| !wishes.port_mappings.is_empty()) {
            return unsupported("portMappings", "put the plugin portmap behind this one");
        }
        Ok(())
    }

    /// The plugin that has the addresses, if it is not this one.
    pub(crate) fn delegate(&self) -> Option<&str> {
        self.ipam.as_ref()?.kind.as_deref().filter(|kind| !kind.is_empty())
    }

    /// The library's words for it.
    pub(crate) fn network(&self) -> NetworkConfig {
        let state_dir = || PathBuf::from("/var/lib/orlop/cni").join(&self.name);
        let listed = |one: Option<IpNet>, all: &[IpNet]| match all {
            [] => one.into_iter().collect(),
            all => all.to_vec(),
        };
        let pod_cidrs: Vec<_> = listed(self.pod_cidr, &self.pod_cidrs);
        let cluster_cidrs: Vec<_> = listed(self.cluster_cidr, &self.cluster_cidrs);
        NetworkConfig {
            name: Some(self.name.clone()),
            state_dir: self.state_dir.clone().unwrap_or_else(state_dir),
            cluster_cidrs: if cluster_cidrs.is_empty() { pod_cidrs.clone() } else { cluster_cidrs },
            pod_cidrs,
            node_ips: Vec::new(),
            overlay: Overlay::HostGateway,
            mtu: self.mtu,
        }
    }

    /// The version the runtime speaks.
    pub(crate) fn version(&self) -> Version {
        self.cni_version.parse().unwrap_or(Version::GC)
    }

    /// What is asked.
    pub(crate) fn request(&self, environment: &Environment) -> Result<Request, Fault> {
        let missing = |what: &str| Fault::new(Code::InvalidConfig, format!("{what} is missing"), "");
        let command = environment.command()?;
        let since = |version: Version| match self.version() >= version {
            true => Ok(()),
            false => {
                let text = format!("cniVersion {} has no {command}", self.cni_version);
                Err(Fault::new(Code::IncompatibleVersion, text, format!("it came with {version}")))
            }
        };
        match command {
            "ADD" => Ok(Request::Add(self.attachment(environment)?)),
            "DEL" => {
                let interface = environment.interface()?.to_owned();
                let uid = self.uid(environment.container()?, &interface);
                Ok(Request::Del {
                    uid,
                    netns: environment.optional("CNI_NETNS").map(PathBuf::from),
                    interface,
                })
            }
            "CHECK" => {
                since(Version::CHECK)?;
                let attachment = self.attachment(environment)?;
                let previous = self.prev_result.as_ref().ok_or_else(|| missing("prevResult"))?;
                let Expected { addresses, mac, routes } = previous_in(previous, &attachment.interface)?;
                if addresses.is_empty() {
                    return Err(missing("prevResult.ips"));
                }
                let only = if attachment.default_route { Vec::new() } else { self.network().cluster_cidrs };
                let ours = PodLink { only, ..PodLink::new("", addresses.clone(), 0) }.routes();
                let routed = ours.iter().all(|(to, _)| routes.contains(&to.to_string()));
                Ok(Request::Check { attachment: Attachment { mac, ..attachment }, addresses, routed })
            }
            "GC" => {
                since(Version::GC)?;
                let valid = self.valid_attachments.as_ref().or(self.attachments.as_ref());
                let valid = valid.ok_or_else(|| missing("cni.dev/valid-attachments"))?;
                Ok(Request::Gc { keep: valid.iter().map(|v| self.uid(&v.container_id, &v.ifname)).collect() })
            }
            "STATUS" => since(Version::GC).map(|()| Request::Status),
            other => Err(Fault::new(Code::InvalidEnvironment, format!("CNI_COMMAND {other} is unknown"), "")),
        }
    }

    /// The specification's key of an attachment.
    fn uid(&self, container: &str, interface: &str) -> String {
        format!("{}/{container}/{interface}", self.name)
    }

    /// The pod, from `CNI_ARGS` as kubelets' runtimes fill it; the container id where they do not.
    fn attachment(&self, environment: &Environment) -> Result<Attachment, Fault> {
        let (container, interface) = (environment.container()?, environment.interface()?);
        let args = Args::parse(environment.optional("CNI_ARGS").unwrap_or_default())?;
        let netns = environment.required("CNI_NETNS")?;
        let uid = self.uid(container, interface);
        let namespace = args.get("K8S_POD_NAMESPACE").unwrap_or("container");
        let name = args.get("K8S_POD_NAME").unwrap_or(container);
        Ok(Attachment {
            interface: interface.to_owned(),
            addresses: self.addresses(&args)?,
            mac: self.mac(&args)?,
            default_route: self.is_default_gateway.unwrap_or(interface == POD_INTERFACE),
            bandwidth: self.bandwidth(),
            ..Attachment::of_pod(&uid, namespace, name, netns.as_ref())
        })
    }

    /// The addresses that are wished for: by the runtime, by the configuration, by the user.
    fn addresses(&self, args: &Args<'_>) -> Result<Vec<IpAddr>, Fault> {
        let wishes = [&self.runtime_config.ips, &self.args.cni.ips];
        let wished = wishes.into_iter().find(|ips| !ips.is_empty());
        let (texts, code): (Vec<&str>, _) = match wished {
            Some(ips) => (ips.iter().map(String::as_str).collect(), Code::InvalidConfig),
            None => (
                args.get("IP").into_iter().flat_map(|ips| ips.split(',')).collect(),
                Code::InvalidEnvironment,
            ),
        };
        let families = self.network().pod_cidrs.len();
        let twice = |ips: &[&str]| matches!(ips, [a, b] if a.contains(':') == b.contains(':'));
        if texts.len() > families || twice(&texts) {
            let why = "an interface has one address of a family";
            return Err(Fault::new(Code::UnsupportedField, format!("ips {texts:?}"), why));
        }
        // With or without the length of a prefix, which is that of a single address here.
        let address = |text: &&str| {
            let address = text.split_once('/').map_or(*text, |(address, _)| address).parse();
            address.map_err(|error| {
                Fault::new(code, format!("the address {text:?} that is asked for is none"), error)
            })
        };
        texts.iter().map(address).collect()
    }

    fn bandwidth(&self) -> Bandwidth {
        let [runtime, config] = [self.runtime_config.bandwidth, self.args.cni.bandwidth];
        let some = |rate: Option<u64>| rate.filter(|rate| *rate > 0);
        Bandwidth {
            ingress: some(runtime.ingress_rate).or(some(config.ingress_rate)),
            egress: some(runtime.egress_rate).or(some(config.egress_rate)),
        }
    }

    fn mac(&self, args: &Args<'_>) -> Result<Option<Mac>, Fault> {
        let wished = self.runtime_config.mac.as_deref().or(self.args.cni.mac.as_deref());
        let wished = wished.filter(|mac| !mac.is_empty());
        let (text, code) = match (wished, args.get("MAC")) {
            (Some(text), _) => (text, Code::InvalidConfig),
            (None, Some(text)) => (text, Code::InvalidEnvironment),
            (None, None) => return Ok(None),
        };
        let mac = Mac::parse(text).filter(Mac::is_of_one_station);
        let fault =
            || Fault::new(code, format!("the hardware address {text:?} that is asked for cannot be one"), "");
        mac.map(Some).ok_or_else(fault)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

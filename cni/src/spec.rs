//! The Container Network Interface in types: requests in, results and errors out. Pure.
//!
//! <https://www.cni.dev/docs/spec/> 1.1.0; results are also given in the forms of 0.3.1 to 1.0.0.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use orlop_model::net::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    names::{GATEWAY, HOST_MAC, LinkName, Mac, POD_INTERFACE},
    network::{Attached, Attachment, NetworkConfig},
};

/// Newest last; the newest is also what an error says when the request names none.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const DEFAULT_MTU: u32 = 1500;

/// What a plugin is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// Give a container an interface.
    Add(Attachment),
    /// Take it away; the container may be gone.
    Del {
        /// Container id.
        id: String,
    },
    /// Is it still as the result said?
    Check(Attachment, Ipv4Addr),
    /// Take away all interfaces but these.
    Gc {
        /// Container ids.
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
    #[serde(rename = "podCIDR")]
    pod_cidr: Ipv4Net,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<Ipv4Net>,
    state_dir: Option<PathBuf>,
    mtu: Option<u32>,
    prev_result: Option<PrevResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PrevResult {
    #[serde(default)]
    ips: Vec<PrevIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PrevIp {
    address: Ipv4Net,
}

#[derive(Clone, Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

/// An answer that the runtime reads from standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fault {
    pub(crate) cni_version: String,
    pub(crate) code: u32,
    pub(crate) msg: String,
    pub(crate) details: String,
}

/// The specification's error codes, as far as they occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    IoFailure = 5,
    DecodeFailure = 6,
    InvalidConfig = 7,
    TryAgainLater = 11,
    NotAvailable = 50,
}

impl Fault {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl ToString) -> Self {
        let newest = VERSIONS[VERSIONS.len() - 1].to_owned();
        Self { cni_version: newest, code: code as u32, msg: msg.into(), details: details.to_string() }
    }
}

impl Environment {
    pub(crate) fn command(&self) -> Result<&str, Fault> {
        self.required("CNI_COMMAND")
    }

    fn required(&self, name: &str) -> Result<&str, Fault> {
        let value = self.0.get(name).map(String::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| Fault::new(Code::InvalidEnvironment, format!("{name} is not set"), ""))
    }

    /// The pod, from `CNI_ARGS` as kubelets' runtimes fill it; the container id where they do not.
    fn attachment(&self) -> Result<Attachment, Fault> {
        let id = self.container()?;
        let interface = self.required("CNI_IFNAME")?;
        if interface != POD_INTERFACE {
            let text = format!("CNI_IFNAME {interface}: only {POD_INTERFACE} is supported");
            return Err(Fault::new(Code::InvalidEnvironment, text, ""));
        }
        let args = self.0.get("CNI_ARGS").map(String::as_str).unwrap_or_default();
        let arg = |key: &str| {
            let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
        };
        let namespace = arg("K8S_POD_NAMESPACE").unwrap_or_else(|| "container".into());
        let name = arg("K8S_POD_NAME").unwrap_or_else(|| id.clone());
        Ok(Attachment::of_pod(&id, &namespace, &name, self.required("CNI_NETNS")?.as_ref()))
    }

    fn container(&self) -> Result<String, Fault> {
        let id = self.required("CNI_CONTAINERID")?;
        match crate::names::valid_uid(id) {
            true => Ok(id.to_owned()),
            false => {
                Err(Fault::new(Code::InvalidEnvironment, format!("CNI_CONTAINERID {id:?} is malformed"), ""))
            }
        }
    }
}

/// Reads the configuration.
pub(crate) fn config(stdin: &[u8]) -> Result<Config, Fault> {
    let version = |value: &serde_json::Value| value["cniVersion"].as_str().unwrap_or("0.1.0").to_owned();
    let mut value: serde_json::Value = serde_json::from_slice(stdin)
        .map_err(|error| Fault::new(Code::DecodeFailure, "the network configuration is no JSON", error))?;
    let version = version(&value);
    if !VERSIONS.contains(&version.as_str()) {
        let text = format!("cniVersion {version} is not supported");
        return Err(Fault::new(
            Code::IncompatibleVersion,
            text,
            format!("supported: {}", VERSIONS.join(", ")),
        ));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("cniVersion".into(), version.into());
    }
    serde_json::from_value(value)
        .map_err(|error| Fault::new(Code::InvalidConfig, "the network configuration is not valid", error))
}

impl Config {
    /// The library's words for it.
    pub(crate) fn network(&self) -> NetworkConfig {
        NetworkConfig {
            name: None,
            state_dir: self.state_dir.clone().unwrap_or_else(|| "/var/lib/orlop/cni".into()),
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr.unwrap_or(self.pod_cidr),
            mtu: self.mtu.unwrap_or(DEFAULT_MTU),
        }
    }

    /// What is asked.
    pub(crate) fn request(&self, environment: &Environment) -> Result<Request, Fault> {
        let missing = |what: &str| Fault::new(Code::InvalidConfig, format!("{what} is missing"), "");
        match environment.command()? {
            "ADD" => Ok(Request::Add(environment.attachment()?)),
            "DEL" => Ok(Request::Del { id: environment.container()? }),
            "CHECK" => {
                let previous = self.prev_result.as_ref().ok_or_else(|| missing("prevResult"))?;
                let address = previous.ips.iter().find(|ip| ip.address.prefix() == 32);
                let address = address.ok_or_else(|| missing("prevResult.ips"))?.address.network();
                Ok(Request::Check(environment.attachment()?, address))
            }
            "GC" => {
                let valid = self.valid_attachments.as_ref();
                let valid = valid.ok_or_else(|| missing("cni.dev/valid-attachments"))?;
                Ok(Request::Gc { keep: valid.iter().map(|v| v.container_id.clone()).collect() })
            }
            "STATUS" => Ok(Request::Status),
            other => Err(Fault::new(Code::InvalidEnvironment, format!("CNI_COMMAND {other} is unknown"), "")),
        }
    }
}

/// The answer to `VERSION`.
pub(crate) fn versions() -> serde_json::Value {
    serde_json::json!({ "cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS })
}

/// The answer to `ADD`, in the form of the runtime's version.
pub(crate) fn result(version: &str, attachment: &Attachment, attached: &Attached) -> serde_json::Value {
    let (old, newest) = (version < "1.0.0", version >= "1.1.0");
    let mut host = serde_json::json!({
        "name": LinkName::for_pod(&attachment.uid).as_str(),
        "mac": HOST_MAC.to_string(),
    });
    let mut pod = serde_json::json!({
        "name": attached.interface,
        "mac": Mac::for_address(attached.address).to_string(),
        "sandbox": attachment.netns,
    });
    let mut ip = serde_json::json!({
        "address": format!("{}/32", attached.address),
        "gateway": GATEWAY,
        "interface": 1,
    });
    if newest {
        host["mtu"] = attached.mtu.into();
        pod["mtu"] = attached.mtu.into();
    }
    if old {
        ip["version"] = "4".into();
    }
    serde_json::json!({
        "cniVersion": version,
        "interfaces": [host, pod],
        "ips": [ip],
        "routes": [{ "dst": "0.0.0.0/0", "gw": GATEWAY }],
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const GOOD: &str = r#"{"cniVersion":"1.1.0","name":"pods","type":"orlop","podCIDR":"10.244.1.0/24",
        "cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],
        "prevResult":{"ips":[{"address":"10.244.1.2/32"}]}}"#;

    /// Environment as `NAME=value` words without their `CNI_`.
    fn check(environment: &str, stdin: &str, expected: Expect) {
        let pairs = environment.split_whitespace().filter_map(|word| word.split_once('='));
        let environment = Environment(pairs.map(|(k, v)| (format!("CNI_{k}"), v.to_owned())).collect());
        let answer = config(stdin.as_bytes()).and_then(|config| config.request(&environment));
        expected.assert_eq(&match answer {
            Ok(request) => format!("{request:?}"),
            Err(Fault { code, msg, details, .. }) => format!("{code}: {msg} ({details})"),
        });
    }

    #[test]
    fn commands_become_requests() {
        let args = "CONTAINERID=c1 NETNS=/run/netns/x IFNAME=eth0 ARGS=K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web";
        check(
            &format!("COMMAND=ADD {args}"),
            GOOD,
            expect![[r#"Add(Attachment { uid: "c1", namespace: "ns", name: "web", netns: "/run/netns/x", interface: "eth0", address: None, mac: None, default_route: true })"#]],
        );
        check(
            &format!("COMMAND=CHECK {args}"),
            GOOD,
            expect![[r#"Check(Attachment { uid: "c1", namespace: "ns", name: "web", netns: "/run/netns/x", interface: "eth0", address: None, mac: None, default_route: true }, 10.244.1.2)"#]],
        );
        check("COMMAND=DEL CONTAINERID=c1 IFNAME=eth0", GOOD, expect![[r#"Del { id: "c1" }"#]]);
        check("COMMAND=GC", GOOD, expect![[r#"Gc { keep: ["c1"] }"#]]);
        check("COMMAND=STATUS", GOOD, expect!["Status"]);
    }

    #[test]
    fn bad_requests_get_the_specifications_codes() {
        check("COMMAND=ADD CONTAINERID=c1 IFNAME=eth0", GOOD, expect!["4: CNI_NETNS is not set ()"]);
        check(
            "COMMAND=ADD CONTAINERID=c1 IFNAME=net1 NETNS=/x",
            GOOD,
            expect!["4: CNI_IFNAME net1: only eth0 is supported ()"],
        );
        check(
            "COMMAND=ADD CONTAINERID=../x IFNAME=eth0 NETNS=/x",
            GOOD,
            expect![[r#"Add(Attachment { uid: "../x", namespace: "container", name: "../x", netns: "/x", interface: "eth0", address: None, mac: None, default_route: true })"#]],
        );
        check("COMMAND=FLY", GOOD, expect!["4: CNI_COMMAND FLY is unknown ()"]);
        check("", GOOD, expect!["4: CNI_COMMAND is not set ()"]);
        check(
            "COMMAND=STATUS",
            "{",
            expect![
                "6: the network configuration is no JSON (EOF while parsing an object at line 1 column 1)"
            ],
        );
        check(
            "COMMAND=STATUS",
            r#"{"cniVersion":"2.0.0"}"#,
            expect!["1: cniVersion 2.0.0 is not supported (supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0)"],
        );
        check(
            "COMMAND=STATUS",
            r#"{"cniVersion":"1.0.0"}"#,
            expect!["7: the network configuration is not valid (missing field `podCIDR`)"],
        );
        check(
            "COMMAND=STATUS",
            r#"{"cniVersion":"1.0.0","podCIDR":"10.0.0.0/33"}"#,
            expect!["7: the network configuration is not valid (invalid CIDR address: 10.0.0.0/33)"],
        );
        check(
            "COMMAND=GC",
            r#"{"cniVersion":"1.1.0","podCIDR":"10.0.0.0/24"}"#,
            expect!["7: cni.dev/valid-attachments is missing ()"],
        );
    }

    #[test]
    fn results_have_the_form_of_the_runtimes_version() {
        let attachment = Attachment::of_pod("c1", "ns", "web", "/run/netns/x".as_ref());
        let mac = Mac::for_address([10, 244, 1, 2].into());
        let attached = Attached { address: [10, 244, 1, 2].into(), interface: "eth0".into(), mac, mtu: 1450 };
        let text = |version| serde_json::to_string_pretty(&result(version, &attachment, &attached)).unwrap();
        expect![[r#"
            {
              "cniVersion": "1.1.0",
              "dns": {},
              "interfaces": [
                {
                  "mac": "ee:ee:ee:ee:ee:ee",
                  "mtu": 1450,
                  "name": "orl08a27f07b5"
                },
                {
                  "mac": "0a:58:0a:f4:01:02",
                  "mtu": 1450,
                  "name": "eth0",
                  "sandbox": "/run/netns/x"
                }
              ],
              "ips": [
                {
                  "address": "10.244.1.2/32",
                  "gateway": "169.254.1.1",
                  "interface": 1
                }
              ],
              "routes": [
                {
                  "dst": "0.0.0.0/0",
                  "gw": "169.254.1.1"
                }
              ]
            }"#]]
        .assert_eq(&text("1.1.0"));
        let (old, new) = (text("0.4.0"), text("1.0.0"));
        assert!(old.contains(r#""version": "4""#) && !new.contains("version\": \"4"));
        assert!(!old.contains("mtu") && !new.contains("mtu"));
    }
}

//! What each plugin of a list is told: configuration with name, version, previous result and what it can do. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::conf::{List, Plugin};
use crate::spec::Version;

/// A burst that never is in the way (bits), as other runtimes say it: the rate alone is what counts.
const BURST: u64 = u32::MAX as u64;

/// What plugins are called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    /// Value of `CNI_COMMAND`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// As errors name it: the words that one finds when searching for them.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
            Self::Gc => "gc",
            Self::Status => "status",
            Self::Version => "version",
        }
    }
}

/// A port of the host that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// The host's port.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Only on this address of the host.
    pub host_ip: Option<IpAddr>,
}

/// What a pod wishes from plugins that can do it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Ports of the host.
    pub ports: Vec<PortMapping>,
    /// Bits per second to the pod.
    pub ingress: Option<u64>,
    /// Bits per second from the pod.
    pub egress: Option<u64>,
    /// Addresses it has to have.
    pub ips: Vec<IpAddr>,
    /// The pod's sockets are to be left alone by service proxies: it is the packets that are translated.
    pub packets_only: bool,
}

impl Wishes {
    /// As the conventions for `runtimeConfig` spell them.
    pub(crate) fn capability_args(&self) -> Map<String, Value> {
        let Self { ports, ingress, egress, ips, packets_only: _ } = self;
        let port = |port: &PortMapping| {
            let PortMapping { host_port, container_port, protocol, host_ip } = port;
            let host_ip = host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            json!({ "hostPort": host_port, "containerPort": container_port, "protocol": protocol, "hostIP": host_ip })
        };
        let mut args = Map::new();
        if !ports.is_empty() {
            args.insert("portMappings".to_owned(), ports.iter().map(port).collect());
        }
        if ingress.is_some() || egress.is_some() {
            let mut bandwidth = Map::new();
            for (direction, rate) in [("ingress", ingress), ("egress", egress)] {
                let Some(rate) = rate else { continue };
                bandwidth.insert(format!("{direction}Rate"), (*rate).into());
                bandwidth.insert(format!("{direction}Burst"), BURST.into());
            }
            args.insert("bandwidth".to_owned(), bandwidth.into());
        }
        if !ips.is_empty() {
            args.insert("ips".to_owned(), ips.iter().map(ToString::to_string).collect());
        }
        args
    }
}

/// What a call adds to a plugin's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told<'a> {
    /// The last result.
    pub(crate) previous: Option<&'a Value>,
    /// What the pod wishes.
    pub(crate) args: Option<&'a Map<String, Value>>,
    /// Container ids and interfaces that exist.
    pub(crate) valid: Option<&'a [(String, String)]>,
}

/// The best version that the list and all its plugins have; the error is what the first one has that lacks all.
pub(crate) fn common_version(
    list: &List,
    supported: &[(String, Vec<String>)],
) -> Result<Version, (String, Vec<String>)> {
    let has = |version: &Version| {
        let text = version.to_string();
        move |(_, versions): &&(String, Vec<String>)| versions.contains(&text)
    };
    let best =
        list.versions.iter().find(|version| supported.iter().filter(has(version)).count() == supported.len());
    best.copied().ok_or_else(|| {
        let lacks = supported.iter().find(|plugin| !list.versions.iter().any(|version| has(version)(plugin)));
        lacks.or(supported.last()).cloned().unwrap_or_default()
    })
}

/// The plugins in the order in which they are called.
pub(crate) fn order(command: Command, list: &List) -> Vec<&Plugin> {
    match command {
        Command::Del => list.plugins.iter().rev().collect(),
        _ => list.plugins.iter().collect(),
    }
}

/// What one plugin reads.
pub(crate) fn stdin(name: &str, version: Version, plugin: &Plugin, told: &Told<'_>) -> Value {
    let mut config = plugin.fields.clone();
    // Only what a runtime says counts there.
    for key in ["prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"] {
        config.remove(key);
    }
    config.insert("name".to_owned(), name.into());
    config.insert("cniVersion".to_owned(), version.to_string().into());
    if let Some(previous) = told.previous {
        config.insert("prevResult".to_owned(), in_version(previous, version));
    }
    if let Some(args) = told.args {
        let wanted = args.iter().filter(|(name, _)| plugin.capabilities.contains(name));
        let wanted: Map<_, _> = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !wanted.is_empty() {
            config.insert("runtimeConfig".to_owned(), wanted.into());
        }
    }
    if let Some(valid) = told.valid {
        let one = |(id, interface): &(String, String)| json!({ "containerID": id, "ifname": interface });
        let valid: Vec<_> = valid.iter().map(one).collect();
        // The second name is that of the specification's drafts, which plugins were written after.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            config.insert(key.to_owned(), valid.clone().into());
        }
    }
    config.into()
}

/// A result in the form of a version; whatever is not known is kept.
fn in_version(result: &Value, version: Version) -> Value {
    let mut result = result.clone();
    let Some(object) = result.as_object_mut() else { return result };
    object.insert("cniVersion".to_owned(), version.to_string().into());
    if version < Version::PLAIN_ADDRESSES {
        for ip in object.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
            let six = ip.get("address").and_then(Value::as_str).is_some_and(|address| address.contains(':'));
            if let Some(ip) = ip.as_object_mut() {
                ip.entry("version").or_insert_with(|| if six { "6" } else { "4" }.into());
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::conf;
    use expect_test::expect;

    fn list(text: &str) -> List {
        conf::parse("a.conflist".as_ref(), text.as_bytes()).unwrap()
    }

    const LIST: &str = r#"{"name":"n","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0"],"plugins":[
        {"type":"bridge","bridge":"b0","name":"other","runtimeConfig":{"x":1},"prevResult":7},
        {"type":"portmap","capabilities":{"portMappings":true,"ips":true}}]}"#;

    #[test]
    fn each_plugin_is_told_what_is_meant_for_it() {
        let list = list(LIST);
        let previous =
            json!({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}],"new":1});
        let wishes = Wishes {
            ports: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".into(),
                host_ip: Some([10, 0, 0, 1].into()),
            }],
            ingress: Some(1_000_000),
            ..Wishes::default()
        };
        let args = wishes.capability_args();
        let valid = [("c1".to_owned(), "eth0".to_owned())];
        let told = |version: &str, told| {
            let version = version.parse().unwrap();
            let lines = list.plugins.iter().map(|plugin| stdin("n", version, plugin, &told).to_string());
            lines.collect::<Vec<_>>().join("\n")
        };
        expect![[r#"
            {"bridge":"b0","cniVersion":"1.0.0","name":"n","runtimeConfig":{"x":1},"type":"bridge"}
            {"capabilities":{"ips":true,"portMappings":true},"cniVersion":"1.0.0","name":"n","runtimeConfig":{"portMappings":[{"containerPort":80,"hostIP":"10.0.0.1","hostPort":8080,"protocol":"tcp"}]},"type":"portmap"}"#]].assert_eq(&told("1.0.0", Told { args: Some(&args), ..Told::default() }));
        expect![[r#"
            {"bridge":"b0","cniVersion":"0.4.0","name":"n","prevResult":{"cniVersion":"0.4.0","ips":[{"address":"10.0.0.2/24","version":"4"},{"address":"fd00::2/64","version":"6"}],"new":1},"runtimeConfig":{"x":1},"type":"bridge"}
            {"capabilities":{"ips":true,"portMappings":true},"cniVersion":"0.4.0","name":"n","prevResult":{"cniVersion":"0.4.0","ips":[{"address":"10.0.0.2/24","version":"4"},{"address":"fd00::2/64","version":"6"}],"new":1},"type":"portmap"}"#]].assert_eq(&told("0.4.0", Told { previous: Some(&previous), ..Told::default() }));
        expect![[r#"
            {"bridge":"b0","cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cniVersion":"1.1.0","name":"n","runtimeConfig":{"x":1},"type":"bridge"}
            {"capabilities":{"ips":true,"portMappings":true},"cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cniVersion":"1.1.0","name":"n","type":"portmap"}"#]].assert_eq(&told("1.1.0", Told { valid: Some(&valid), ..Told::default() }));
    }

    #[test]
    fn wishes_are_spelled_as_the_conventions_do() {
        let wishes = Wishes { egress: Some(5), ips: vec![[10, 0, 0, 9].into()], ..Wishes::default() };
        expect![[r#"{"bandwidth":{"egressBurst":4294967295,"egressRate":5},"ips":["10.0.0.9"]}"#]]
            .assert_eq(&Value::Object(wishes.capability_args()).to_string());
        assert!(Wishes::default().capability_args().is_empty());
    }

    #[test]
    fn plugins_are_taken_away_in_reverse() {
        let list = list(LIST);
        let kinds =
            |command| order(command, &list).iter().map(|plugin| plugin.kind.as_str()).collect::<Vec<_>>();
        assert_eq!(kinds(Command::Add), ["bridge", "portmap"]);
        assert_eq!(kinds(Command::Del), ["portmap", "bridge"]);
        assert_eq!(kinds(Command::Check), ["bridge", "portmap"]);
    }

    #[test]
    fn the_best_version_that_all_have_is_spoken() {
        let list = list(LIST);
        let common = |plugins: &[&[&str]]| {
            let plugins: Vec<_> = plugins
                .iter()
                .enumerate()
                .map(|(at, versions)| (format!("p{at}"), versions.iter().map(ToString::to_string).collect()))
                .collect();
            common_version(&list, &plugins).map(|version| version.to_string()).map_err(|(plugin, _)| plugin)
        };
        assert_eq!(common(&[&["0.4.0", "1.0.0", "1.1.0"], &["1.1.0", "1.0.0"]]), Ok("1.1.0".into()));
        assert_eq!(common(&[&["0.4.0", "1.0.0"], &["1.1.0", "1.0.0"]]), Ok("1.0.0".into()));
        assert_eq!(common(&[&["1.0.0"], &["0.2.0"]]), Err("p1".into()));
        assert_eq!(common(&[&["0.4.0"], &["1.0.0"]]), Err("p1".into()));
    }
}

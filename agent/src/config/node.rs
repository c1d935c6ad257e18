//! Settings about the node itself: name, labels, address, cgroup, MTU, the shim.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use orlop_model::{ids::NodeName, names};

use super::{ConfigError, error::value};

pub(super) fn parse_node_name(given: Option<String>) -> Result<NodeName, ConfigError> {
    let name = match given {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    NodeName::parse(&name).map_err(|reason| value("node-name", name, reason))
}

pub(super) fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, label) = pair.split_once('=').unwrap_or((pair, ""));
            names::is_label_key(key).map_err(|reason| value("node-labels", key, reason))?;
            names::is_label_value(label).map_err(|reason| value("node-labels", label, reason))?;
            Ok((key.to_owned(), label.to_owned()))
        })
        .collect()
}

pub(super) fn parse_cgroup(path: String) -> Result<String, ConfigError> {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(part_ok) {
        Ok(path)
    } else {
        Err(value(
            "cgroup-root",
            path,
            "must be a relative path without `.` or `..`; the root itself is not allowed",
        ))
    }
}

pub(super) fn parse_mtu(mtu: u32) -> Result<u32, ConfigError> {
    // RFC 791: every host takes 576 bytes; 65535 is the largest IPv4 packet.
    if (576..=65_535).contains(&mtu) {
        Ok(mtu)
    } else {
        Err(value("mtu", mtu, "must lie between 576 and 65535"))
    }
}

pub(super) fn shim_beside_us() -> Result<PathBuf, ConfigError> {
    let ours = std::env::current_exe().map_err(|error| ConfigError::Missing {
        flag: "shim",
        reason: format!("the path of this program is not known ({error})"),
    })?;
    Ok(ours.with_file_name("orlop-shim"))
}

/// The address that packets to the outside would carry. Connecting a UDP socket asks the routing table and sends nothing.
pub(super) fn default_address() -> Result<Ipv4Addr, ConfigError> {
    let missing = |reason: String| ConfigError::Missing { flag: "node-ip", reason };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| missing(error.to_string()))?;
    socket
        .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
        .map_err(|error| missing(format!("no default route ({error})")))?;
    match socket.local_addr() {
        Ok(SocketAddr::V4(address)) => Ok(*address.ip()),
        Ok(address) => Err(missing(format!("{address} is not IPv4"))),
        Err(error) => Err(missing(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn the_root_cgroup_is_refused() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, cgroupRoot: /}",
            expect_test::expect![[
                r#"--cgroup-root "/": must be a relative path without `.` or `..`; the root itself is not allowed"#
            ]],
        );
    }
}

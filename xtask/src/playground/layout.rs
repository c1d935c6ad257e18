//! Names, paths and addresses of a playground, derived from its directory. Only where its addresses were taken by another
//! one, which others it has is remembered there.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::run::root;

/// A playground.
pub(crate) struct Layout {
    /// Absolute directory that everything lives in.
    pub(crate) dir: PathBuf,
    /// Six hex digits of the directory's hash: several playgrounds live side by side.
    pub(crate) id: String,
    /// Whether the node runs on the host itself.
    pub(crate) host: bool,
    /// Which 32 addresses of 198.18.0.0/15 (RFC 2544: never routed) are the playground's. Of two networks with the same
    /// addresses one cannot be reached, so there have to be many: tests have several playgrounds at once.
    subnet: u16,
    /// Families of its addresses: `4`, `6` or `46`.
    families: String,
}

/// How many playgrounds' networks there are in 198.18.0.0/15.
const SUBNETS: u16 = 1 << 12;
/// File with the network's number, where it is not the one of the directory's hash.
const SUBNET: &str = "subnet";
/// File with the families of addresses, where they are others than IPv4 alone.
const FAMILIES: &str = "families";

/// The playground's network that an address lies in.
pub(crate) fn subnet_of(address: Ipv4Addr) -> Option<u16> {
    let [198, second @ 18..=19, third, fourth] = address.octets() else { return None };
    Some(u16::from(second - 18) << 11 | u16::from(third) << 3 | u16::from(fourth) >> 5)
}

/// The first that is not taken, from `wanted` on.
fn free(wanted: u16, taken: &BTreeSet<u16>) -> Option<u16> {
    (0..SUBNETS).map(|step| (wanted + step) % SUBNETS).find(|subnet| !taken.contains(subnet))
}

/// One node of a playground.
pub(crate) struct NodePlace {
    /// 1 is the standalone node.
    pub(crate) number: u8,
    /// Node name in the cluster.
    pub(crate) name: String,
    /// Network namespace; `None` on the host.
    pub(crate) netns: Option<String>,
    /// Cgroup subtree below every hierarchy's mount point.
    pub(crate) cgroup: String,
    /// Addresses in the playground's network; none on the host.
    pub(crate) addresses: Vec<String>,
    /// State, run directory, pid file and log.
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) pid_file: PathBuf,
    pub(crate) log: PathBuf,
}

impl Layout {
    /// The playground in `dir`, made now if it is new.
    pub(crate) fn new(dir: &Path, host: bool) -> Result<Self> {
        let dir = if dir.is_absolute() { dir.to_owned() } else { root().join(dir) };
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let moved = fs::read_to_string(dir.join(SUBNET)).ok().and_then(|text| text.trim().parse().ok());
        Ok(Self {
            id: hex::encode(&hash[..3]),
            families: fs::read_to_string(dir.join(FAMILIES)).unwrap_or_else(|_| "4".to_owned()),
            subnet: moved.unwrap_or(u16::from_be_bytes([hash[3], hash[4]])) % SUBNETS,
            dir,
            host,
        })
    }

    /// The playground in `dir`, which must exist.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let dir = if dir.is_absolute() { dir.to_owned() } else { root().join(dir) };
        if !dir.join("bin/orlop").exists() {
            bail!("no playground in {}: run `cargo xtask up` first", dir.display());
        }
        let host = dir.join("host").exists();
        Self::new(&dir, host)
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Namespace that plays the network between the nodes.
    pub(crate) fn lan(&self) -> String {
        format!("orlop-{}-lan", self.id)
    }

    /// The host's end of the wire to the playground.
    pub(crate) fn host_link(&self) -> String {
        format!("orlop{}", self.id)
    }

    /// Takes other addresses where another playground has these: one that runs, or one that was left behind.
    pub(crate) fn move_from(&mut self, taken: &BTreeSet<u16>) -> Result<()> {
        let free = free(self.subnet, taken).context("every network of 198.18.0.0/15 is taken")?;
        if free != self.subnet {
            self.subnet = free;
            fs::write(self.dir.join(SUBNET), format!("{free}\n")).context("remember the network")?;
        }
        Ok(())
    }

    /// Has nodes with addresses of these families, now and whenever the playground is brought up again.
    pub(crate) fn set_families(&mut self, families: &str) -> Result<()> {
        families.clone_into(&mut self.families);
        fs::write(self.dir.join(FAMILIES), families).context("remember the families")
    }

    /// IPv4 address number `last` (1 to 30) of the playground's network.
    pub(crate) fn address(&self, last: u8) -> String {
        let [upper, lower] = (self.subnet << 5).to_be_bytes();
        format!("198.{}.{upper}.{}", 18 + (self.subnet >> 11), lower + last)
    }

    /// Addresses number `last` of its families (RFC 4193 for IPv6), with the bits of their networks.
    pub(crate) fn addresses(&self, last: u8) -> Vec<(String, u8)> {
        let four = (self.address(last), 27);
        let six = (format!("fd5a:0:{:x}::{last:x}", self.subnet), 64);
        let all = [('4', four), ('6', six)];
        all.into_iter().filter(|(family, _)| self.families.contains(*family)).map(|(_, it)| it).collect()
    }

    /// Where the cluster's DNS is, as the nodes' families have it by default.
    pub(crate) fn cluster_dns(&self) -> String {
        let all = [('4', "10.43.0.10"), ('6', "fd00:43::a")];
        let has = all.iter().filter(|(family, _)| self.families.contains(*family));
        has.map(|(_, address)| *address).collect::<Vec<_>>().join(",")
    }

    /// The host's IPv4 address in the playground's network, which the nodes' default route goes to.
    pub(crate) fn gateway(&self) -> String {
        self.address(1)
    }

    pub(crate) fn node(&self, number: u8) -> NodePlace {
        let dir = if number == 1 { self.dir.clone() } else { self.dir.join(format!("node{number}")) };
        let (netns, cgroup, addresses) = if self.host {
            (None, "orlop".to_owned(), Vec::new())
        } else {
            let name = format!("orlop-{}-n{number}", self.id);
            let addresses = self.addresses(10 + number).into_iter().map(|(address, _)| address);
            (Some(name.clone()), name, addresses.collect())
        };
        NodePlace {
            number,
            name: format!("node{number}"),
            netns,
            cgroup,
            addresses,
            state: dir.join("state"),
            run: dir.join("run"),
            pid_file: dir.join("orlop.pid"),
            log: dir.join("log"),
        }
    }

    /// The nodes that were ever started here.
    pub(crate) fn existing_nodes(&self) -> Vec<NodePlace> {
        (1..=8).map(|number| self.node(number)).filter(|place| place.state.exists()).collect()
    }

    /// What scripts may rely on.
    pub(crate) fn json(&self) -> serde_json::Value {
        let nodes: Vec<_> = self
            .existing_nodes()
            .iter()
            .map(|place| {
                json!({
                    "name": place.name, "netns": place.netns, "cgroup": place.cgroup,
                    "address": place.addresses.first(), "addresses": place.addresses,
                    "state": place.state, "run": place.run, "pid": place.pid_file, "log": place.log,
                })
            })
            .collect();
        json!({
            "dir": self.dir,
            "kubeconfig": self.kubeconfig(),
            "pid": self.dir.join("orlop.pid"),
            "log": self.dir.join("log"),
            "bin": self.bin().join("orlop"),
            "gateway": (!self.host).then(|| self.gateway()),
            "nodes": nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_belong_together() {
        let dir = tempfile::tempdir().expect("a directory");
        for subnet in [0, 7, 2047, 2048, SUBNETS - 1] {
            fs::write(dir.path().join(SUBNET), format!("{subnet}\n")).expect("a file");
            let layout = Layout::new(dir.path(), false).expect("a layout");
            for last in [1, 30] {
                let address: Ipv4Addr = layout.address(last).parse().expect("an address");
                assert_eq!(subnet_of(address), Some(subnet), "{address}");
            }
        }
        assert_eq!(subnet_of(Ipv4Addr::new(198, 20, 0, 1)), None);
    }

    #[test]
    fn a_taken_network_is_passed_over_and_that_is_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut layout = Layout::new(dir.path(), false).expect("a layout");
        let first = layout.subnet;
        layout.move_from(&BTreeSet::new()).expect("its own");
        assert_eq!(layout.subnet, first);
        let next = (first + 1) % SUBNETS;
        layout.move_from(&BTreeSet::from([first, next])).expect("another");
        let again = Layout::new(dir.path(), false).expect("a layout");
        assert_eq!((layout.subnet, again.subnet), ((first + 2) % SUBNETS, (first + 2) % SUBNETS));
        assert_eq!(free(3, &(0..SUBNETS).collect()), None);
    }
}

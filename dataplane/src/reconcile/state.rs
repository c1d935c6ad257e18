//! What the loop knows, and its two synchronous steps: `sync` and `repair`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Update;
use super::claims::Claims;
use super::policies::Policies;
use super::untranslated::Untranslated;
use crate::compile::{Compiled, compile, host_ports};
use crate::diff::{diff, diff_all};
use crate::health::{self, Eligibility, HealthCheck};
use crate::ids::Ids;
use crate::index::Index;
use crate::ingest;
use crate::maps::Maps;
use crate::model::{Family, HostPort, Node, ServiceKey};
use crate::policy::tables::Names;
use crate::status::Status;
use crate::tables::{Entry, MapOp, Own, ServiceId, Tables};

/// Everything the loop remembers.
#[derive(Debug)]
pub struct State<M> {
    maps: M,
    node: Node,
    /// The other nodes; `None`: not heard of yet, what is pinned goes on.
    nodes: Option<Entry>,
    index: Index,
    host_ports: BTreeMap<ServiceKey, Vec<HostPort>>,
    health_checks: BTreeMap<ServiceKey, HealthCheck>,
    eligibility: Eligibility,
    /// What the maps hold as far as we know; `None` until they were read, which is not before both lists are in.
    known: Option<Known>,
    failures: BTreeMap<ServiceKey, String>,
    repaired: u64,
    unreadable: Option<String>,
    /// Devices without programs, and why.
    bare: Vec<String>,
    /// Whether any were asked.
    placed: bool,
    policies: Policies,
    untranslated: Untranslated,
}

#[derive(Debug)]
struct Known {
    tables: Tables,
    ids: Ids,
    claims: Claims,
}

impl<M: Maps> State<M> {
    /// Nothing known yet.
    pub fn new(maps: M, node: Node) -> Self {
        Self {
            maps,
            node,
            nodes: None,
            index: Index::default(),
            host_ports: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            eligibility: Eligibility::default(),
            known: None,
            failures: BTreeMap::new(),
            repaired: 0,
            unreadable: None,
            bare: Vec::new(),
            placed: false,
            policies: Policies::default(),
            untranslated: Untranslated::default(),
        }
    }

    /// Whether there is any policy.
    pub fn has_policies(&self) -> bool {
        self.policies.any()
    }

    /// Whether both lists are in, and the maps are ours to write.
    pub fn adopted(&self) -> bool {
        self.known.is_some()
    }

    /// What numbers in the maps of policies stand for.
    pub fn policy_names(&self) -> &Names {
        self.policies.names()
    }

    /// The maps, for a look.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, for a test that plays the other hand.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The maps, for whoever goes on with them.
    pub fn into_maps(self) -> M {
        self.maps
    }

    /// Takes a change in; writes nothing.
    pub fn ingest(&mut self, update: Update) {
        match update {
            Update::Service(event) => {
                self.index.services(
                    event.map(|object| (ingest::service_key(&object.metadata), ingest::service(&object))),
                );
            }
            Update::EndpointSlice(event) => {
                self.index.slices(event.map(|object| (ingest::slice_key(&object), ingest::slice(&object))));
            }
            Update::Node { zone, primary, eligibility } => {
                self.eligibility = eligibility;
                let addresses = std::mem::take(&mut self.node.addresses);
                self.be(Node { zone, primary, addresses, ..self.node.clone() });
            }
            Update::Nodes(addresses) => self.nodes = Some(nodes(addresses)),
            Update::HostPorts(ports) => {
                let keys: BTreeSet<_> = ports.keys().chain(self.host_ports.keys()).cloned().collect();
                let changed = keys.into_iter().filter(|key| ports.get(key) != self.host_ports.get(key));
                changed.for_each(|key| self.index.touch(key));
                self.host_ports = ports;
            }
            Update::Policy(change) => self.policies.apply(change),
            Update::Attached(key, ips, done) => self.policies.attached(key, ips, done),
            Update::Sockets(change) => self.untranslated.apply(change),
            Update::Addresses(addresses) => self.be(Node { addresses, ..self.node.clone() }),
        }
    }

    /// Every service may depend on what its node is.
    fn be(&mut self, node: Node) {
        if self.node != node {
            self.node = node;
            self.index.touch_all();
        }
    }

    /// Takes in which devices have no programs.
    pub fn bare_devices(&mut self, refused: Vec<String>) {
        self.bare = refused;
        self.placed = true;
    }

    /// Writes what changed. The first time, once both lists are in, compares everything with the pinned maps.
    pub fn sync(&mut self) {
        self.policies.sync(&mut self.maps, &self.node.name);
        self.node.some_untranslated = self.untranslated.sync(&mut self.maps);
        self.sync_services();
        self.untranslated.tell();
    }

    fn sync_services(&mut self) {
        if !self.index.complete() {
            return;
        }
        if self.known.is_none() {
            self.adopt();
        }
        if self.known.is_none() {
            return;
        }
        self.write_dirty();
        // What one service gave up another may have waited for.
        if self.known.as_mut().is_some_and(|known| known.claims.take_freed()) {
            self.failures.keys().cloned().for_each(|key| self.index.touch(key));
            self.write_dirty();
        }
    }

    /// What has changed and should stand in the maps; and what balancers hear of it.
    fn take_dirty(&mut self) -> Vec<(Vec<Compiled>, ServiceKey)> {
        let mut dirty = Vec::new();
        for key in self.index.take_dirty() {
            let (compiled, check) = match self.index.get(&key) {
                Some((service, slices)) => {
                    (compile(service, slices.clone(), &self.node), health::check(service, slices, &self.node))
                }
                None => (host_ports(self.host_ports.get(&key).map_or(&[], Vec::as_slice)), None),
            };
            match check {
                Some(check) => drop(self.health_checks.insert(key.clone(), check)),
                None => drop(self.health_checks.remove(&key)),
            }
            dirty.push((compiled, key));
        }
        dirty
    }

    fn write_dirty(&mut self) {
        let dirty = self.take_dirty();
        let Some(known) = &mut self.known else { return };
        if let Err(error) = known.write(&mut self.maps, ServiceId::NODE, &own(&self.node)) {
            tracing::warn!(error, "addresses of this node are not in the service maps");
        }
        if let Some(nodes) = self.nodes.as_ref().filter(|nodes| known.differs(ServiceId::NODES, nodes))
            && let Err(error) = known.write(&mut self.maps, ServiceId::NODES, nodes)
        {
            tracing::warn!(error, "addresses of other nodes are not in the service maps");
        }
        for (compiled, key) in dirty {
            match known.update(&mut self.maps, &key, compiled) {
                Ok(()) => drop(self.failures.remove(&key)),
                Err(error) => drop(self.failures.insert(key, error)),
            }
        }
    }

    /// Reads the maps back and puts right what differs; tries again what was refused.
    pub fn repair(&mut self) {
        self.policies.repair(&mut self.maps, &self.node.name);
        self.untranslated.again();
        let Some(known) = &self.known else { return self.sync() };
        match self.maps.dump() {
            Ok(actual) if actual == known.tables => self.unreadable = None,
            Ok(actual) => {
                let written = self.write_all(&actual);
                self.repaired += written;
                tracing::warn!(elements = written, "service maps had been changed by another hand; repaired");
            }
            Err(error) => self.unreadable = Some(chain(&error)),
        }
        self.failures.keys().cloned().for_each(|key| self.index.touch(key));
        self.sync();
    }

    /// Takes over what stands in the maps, numbers and all, and writes what differs from what should.
    fn adopt(&mut self) {
        match self.maps.dump() {
            Ok(actual) => {
                let ids = Ids::adopt(&actual);
                self.known = Some(Known { ids, tables: actual.clone(), claims: Claims::default() });
                self.write_all(&actual);
            }
            Err(error) => self.unreadable = Some(chain(&error)),
        }
    }

    /// Writes everything that should stand in the maps and does not, and removes the rest.
    fn write_all(&mut self, actual: &Tables) -> u64 {
        self.failures.clear();
        self.index.touch_all();
        self.host_ports.keys().cloned().for_each(|key| self.index.touch(key));
        let dirty = self.take_dirty();
        let Some(known) = &mut self.known else { return 0 };
        let mut desired = Tables::default();
        desired.services.insert(ServiceId::NODE, own(&self.node));
        let nodes = self.nodes.as_ref().or(actual.services.get(&ServiceId::NODES));
        desired
            .services
            .extend(nodes.filter(|nodes| !nodes.is_empty()).map(|nodes| (ServiceId::NODES, nodes.clone())));
        let mut keys = BTreeMap::new();
        for (compiled, key) in dirty {
            let (compiled, taken) = known.claims.claim(&key, compiled);
            self.failures.extend(taken.map(|error| (key.clone(), error)));
            for compiled in compiled {
                let (id, entry) = known.ids.assign(&compiled, &known.tables);
                desired.services.insert(id, entry);
                keys.insert(id, key.clone());
            }
        }
        let (written, refused) = write(&mut self.maps, &diff_all(&desired, actual));
        // Where nothing was refused the maps hold what was wanted. Else they are read: elements may have moved between services.
        let held = if refused.is_empty() { Ok(desired) } else { self.maps.dump() };
        let failed = refused.into_iter().filter_map(|(id, error)| Some((keys.get(&id)?.clone(), error)));
        self.failures.extend(failed);
        // Once more, each by itself: which of its parts may stand without the others is known there.
        self.failures.keys().cloned().for_each(|key| self.index.touch(key));
        match held {
            Ok(tables) => {
                known.ids.settle(&tables);
                known.tables = tables;
                self.unreadable = None;
            }
            Err(error) => {
                self.known = None;
                self.unreadable = Some(chain(&error));
            }
        }
        written
    }

    /// For the caller's watch.
    #[must_use]
    pub fn status(&self) -> Status {
        let tables = self.known.as_ref().map(|known| &known.tables);
        let entries = tables.into_iter().flat_map(|tables| tables.services.values());
        Status {
            synced: self.known.is_some() && self.failures.is_empty() && self.unreadable.is_none(),
            services: self.index.len(),
            backends: entries.map(|entry| entry.backends.len()).sum(),
            failures: self.failures.clone(),
            repaired: self.repaired,
            unreadable: self.unreadable.clone(),
            placed: self.placed,
            bare_devices: self.bare.clone(),
            health_checks: self.health_checks.clone(),
            eligibility: self.eligibility,
            policy_names: Arc::clone(self.policies.names()),
            policy_failure: self.policies.failure().cloned(),
        }
    }
}

impl Known {
    /// Whether something else than this stands in the maps.
    fn differs(&self, id: ServiceId, desired: &Entry) -> bool {
        self.tables.services.get(&id).map_or(!desired.is_empty(), |held| held != desired)
    }

    /// Brings the maps in step with one Service: its ports, and those it no longer has.
    fn update(
        &mut self,
        maps: &mut impl Maps,
        key: &ServiceKey,
        compiled: Vec<Compiled>,
    ) -> Result<(), String> {
        let (compiled, taken) = self.claims.claim(key, compiled);
        let mut result = taken.map_or(Ok(()), Err);
        for compiled in &compiled {
            let (id, mut desired) = self.ids.assign(compiled, &self.tables);
            // A port that does not fit may be another program's to serve: it is not refused.
            if compiled.primary.is_other_ports() && result.is_err() {
                desired = Entry::default();
            }
            result = result.and(self.write(maps, id, &desired));
        }
        for primary in self.claims.stale(key, &compiled) {
            let removed = match self.ids.service(&primary) {
                Some(id) => self.write(maps, id, &Entry::default()),
                None => Ok(()),
            };
            if removed.is_ok() {
                self.claims.removed(key, &primary);
            }
            result = result.and(removed);
        }
        self.claims.release(key, &compiled);
        result
    }

    fn write(&mut self, maps: &mut impl Maps, id: ServiceId, desired: &Entry) -> Result<(), String> {
        let actual = self.tables.services.get(&id).cloned().unwrap_or_default();
        let mut result = Ok(());
        for op in diff(id, desired, &actual) {
            if let Err(error) = maps.apply(&op) {
                result = Err(chain(&error));
                break;
            }
            self.tables.apply(&op);
        }
        self.ids.release(id, &[desired, &actual], self.tables.services.get(&id));
        result
    }
}

/// What the node itself puts into the maps.
fn own(node: &Node) -> Entry {
    let addresses = node.addresses.iter().map(|ip| (*ip, node.takes_node_ports(ip)));
    Entry {
        own: Some(Own {
            netns: node.netns,
            masquerade_v4: node.masquerade(Family::V4),
            masquerade_v6: node.masquerade(Family::V6),
            masquerade_ports: node.settings.masquerade_ports,
            loopback_node_ports: node.settings.loopback_node_ports,
            pods_known: !node.settings.pods.is_empty(),
            host_sockets_only: node.settings.host_sockets_only,
            some_untranslated: node.some_untranslated,
        }),
        addresses: addresses.collect(),
        ranges: node.settings.pods.iter().copied().collect(),
        ..Entry::default()
    }
}

/// The other nodes as they stand in the maps.
fn nodes(addresses: BTreeSet<IpAddr>) -> Entry {
    Entry { ranges: addresses.into_iter().map(IpNet::from).collect(), ..Entry::default() }
}

/// Writes step by step. After a refusal the rest of that service waits: its later writes count on the earlier ones.
fn write(maps: &mut impl Maps, ops: &[MapOp]) -> (u64, BTreeMap<ServiceId, String>) {
    let mut written = 0;
    let mut refused: BTreeMap<ServiceId, String> = BTreeMap::new();
    for step in ops.chunk_by(|before, op| before.step() == op.step()) {
        let possible: Vec<_> =
            step.iter().filter(|op| !refused.contains_key(&op.service())).cloned().collect();
        let failures = maps.apply_all(&possible);
        written += possible.len() - failures.len();
        for (service, error) in failures {
            refused.entry(service).or_insert_with(|| chain(&error));
        }
    }
    (u64::try_from(written).unwrap_or(u64::MAX), refused)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

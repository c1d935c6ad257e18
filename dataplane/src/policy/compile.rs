//! From policies and pods to tables: what each pod of this node that is selected may do, and with whom.
//!
//! ```text
//! pods ─▶ identities (all that selectors and named ports can tell apart) ─┐
//! local pods ─▶ policies that select them ─▶ sets of rules ───────────────┴─▶ rules
//! blocks of these policies ─▶ classes ────────────────────────────────────────▶ rules
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::Classes;
use super::model::{Block, Direction, Key, Labels, NamedPort, Numbers, Peer, Pod, Policy, Port, Rule};
use super::numbers::Taken;
use super::ports::prefixes;
use super::tables::{ANYBODY, Names, PORT_BITS, PROTOCOL_BITS, RuleKey, Subject, Tables};
use super::world::World;

/// What a node needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// For the maps.
    pub tables: Tables,
    /// For people.
    pub names: Names,
}

/// Everything of a pod that any policy can see. Pods that are the same here are the same to every policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    /// Empty where no policy lives.
    namespace: String,
    namespace_labels: Labels,
    labels: Labels,
    ports: BTreeSet<NamedPort>,
}

/// What policies look at.
#[derive(Default)]
struct Sight<'a> {
    namespaces: BTreeSet<&'a str>,
    namespace_keys: BTreeSet<&'a str>,
    keys: BTreeSet<&'a str>,
    ports: BTreeSet<&'a str>,
}

/// Compiles what the pods of `node` need.
#[must_use]
pub fn compile(world: &World, node: &str) -> Compiled {
    let sight = Sight::of(world.policies.values());
    let mut pods: BTreeMap<Identity, Vec<(&Key, &Pod)>> = BTreeMap::new();
    for (key, pod) in &world.pods {
        let namespace = world.namespaces.get(&key.namespace);
        pods.entry(sight.identity(&key.namespace, namespace, pod)).or_default().push((key, pod));
    }
    let is_local = |(_, pod): &(&Key, &Pod)| pod.node == node;
    let local = pods.iter().filter(|(_, pods)| pods.iter().any(is_local));
    let selected: BTreeMap<&Identity, Vec<&Policy>> = local
        .map(|(identity, _)| (identity, world.policies.values().filter(|at| selects(at, identity)).collect()))
        .filter(|(_, policies): &(_, Vec<_>)| !policies.is_empty())
        .collect();
    let mut writer = Writer::new(&pods, selected.values().flatten().copied());
    for (identity, policies) in selected {
        let subject = writer.subject(identity, &policies);
        for (key, pod) in pods[identity].iter().copied().filter(is_local) {
            for ip in world.ips(key, pod) {
                writer.out.tables.subjects.insert(*ip, subject);
                writer.out.names.pods.insert(*ip, key.clone());
            }
        }
    }
    writer.finish(world, &pods)
}

impl<'a> Sight<'a> {
    fn of(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut sight = Self::default();
        for policy in policies {
            sight.namespaces.insert(&policy.key.namespace);
            sight.keys.extend(policy.subject.requirements().iter().map(|at| at.key()));
            for rule in Direction::ALL.iter().filter_map(|way| policy.rules(*way)).flatten() {
                rule.peers.iter().flatten().for_each(|peer| sight.peer(peer));
                sight.ports.extend(rule.ports.iter().flatten().filter_map(name));
            }
        }
        sight
    }

    fn peer(&mut self, peer: &'a Peer) {
        if let Peer::Pods { namespaces, pods } = peer {
            self.keys.extend(pods.requirements().iter().map(|at| at.key()));
            let namespaces = namespaces.iter().flat_map(|selector| selector.requirements());
            self.namespace_keys.extend(namespaces.map(|at| at.key()));
        }
    }

    fn identity(&self, namespace: &str, labels: Option<&Labels>, pod: &Pod) -> Identity {
        let seen = |labels: &Labels, keys: &BTreeSet<&str>| {
            let seen = labels.iter().filter(|(key, _)| keys.contains(key.as_str()));
            seen.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let ports = pod.ports.iter().filter(|port| self.ports.contains(port.name.as_str()));
        Identity {
            namespace: self.namespaces.get(namespace).map(|name| (*name).to_owned()).unwrap_or_default(),
            namespace_labels: labels.map(|labels| seen(labels, &self.namespace_keys)).unwrap_or_default(),
            labels: seen(&pod.labels, &self.keys),
            ports: ports.cloned().collect(),
        }
    }
}

fn name(port: &Port) -> Option<&str> {
    match &port.numbers {
        Numbers::Named(name) => Some(name),
        Numbers::All | Numbers::Range(..) => None,
    }
}

fn selects(policy: &Policy, identity: &Identity) -> bool {
    policy.key.namespace == identity.namespace && policy.subject.matches(&identity.labels)
}

/// Whether a peer of a policy in `namespace` is these pods.
fn is(peer: &Peer, namespace: &str, identity: &Identity) -> bool {
    match peer {
        Peer::Pods { namespaces: None, pods } => {
            identity.namespace == namespace && pods.matches(&identity.labels)
        }
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            namespaces.matches(&identity.namespace_labels) && pods.matches(&identity.labels)
        }
        Peer::Block(_) => false,
    }
}

/// Collects rules, and what they speak of.
struct Writer<'a> {
    identities: BTreeMap<&'a Identity, u32>,
    classes: Classes,
    numbers: Taken,
    spoken_of: BTreeSet<u32>,
    out: Compiled,
}

impl<'a> Writer<'a> {
    fn new<T>(pods: &'a BTreeMap<Identity, T>, policies: impl Iterator<Item = &'a Policy>) -> Self {
        let rules = policies.flat_map(|policy| Direction::ALL.map(|way| policy.rules(way)));
        let peers = rules.flatten().flatten().filter_map(|rule| rule.peers.as_ref()).flatten();
        let blocks: BTreeSet<Block> = peers
            .filter_map(|peer| match peer {
                Peer::Block(block) => Some(block.clone()),
                Peer::Pods { .. } => None,
            })
            .collect();
        let mut numbers = Taken::default();
        let identities =
            pods.keys().map(|identity| (identity, numbers.number(false, &format!("{identity:?}"))));
        Self {
            identities: identities.collect(),
            classes: Classes::new(&blocks, &mut numbers),
            numbers,
            spoken_of: BTreeSet::new(),
            out: Compiled::default(),
        }
    }

    /// The rules of pods that these policies select.
    fn subject(&mut self, identity: &Identity, policies: &[&Policy]) -> Subject {
        let [ingress, egress] = Direction::ALL.map(|way| {
            let about: Vec<_> =
                policies.iter().filter_map(|policy| Some((*policy, policy.rules(way)?))).collect();
            if about.is_empty() { 0 } else { self.set(way, identity, &about) }
        });
        Subject { ingress, egress }
    }

    fn set(&mut self, way: Direction, identity: &Identity, policies: &[(&Policy, &[Rule])]) -> u32 {
        let set = self.numbers.number(false, &format!("{way} {identity:?}"));
        let keys = policies.iter().map(|(policy, _)| policy.key.clone()).collect();
        self.out.names.sets.insert(set, (way, keys));
        for (policy, rules) in policies {
            let number = self.numbers.number(false, &format!("policy {}", policy.key));
            self.out.names.policies.insert(number, policy.key.clone());
            for rule in *rules {
                match way {
                    Direction::Ingress => self.ingress(set, number, policy, rule, &identity.ports),
                    Direction::Egress => self.egress(set, number, policy, rule),
                }
            }
        }
        set
    }

    /// Named ports are those of the pod itself.
    fn ingress(&mut self, set: u32, by: u32, policy: &Policy, rule: &Rule, own: &BTreeSet<NamedPort>) {
        let keys = port_keys(rule, |port| numbered(port, own));
        for (peer, _) in self.peers(policy, rule) {
            keys.iter().for_each(|(bits, proto, port)| {
                self.allow(RuleKey::new(set, peer, *bits, *proto, *port), by);
            });
        }
    }

    /// Named ports are those of each pod that is talked to.
    fn egress(&mut self, set: u32, by: u32, policy: &Policy, rule: &Rule) {
        let nobody = BTreeSet::new();
        let mut peers = self.peers(policy, rule);
        if rule.peers.is_none() && rule.ports.iter().flatten().any(|port| name(port).is_some()) {
            peers.extend(self.identities.iter().map(|(identity, number)| (*number, Some(*identity))));
        }
        for (peer, identity) in peers {
            let own = identity.map_or(&nobody, |identity| &identity.ports);
            for (bits, proto, port) in port_keys(rule, |port| numbered(port, own)) {
                self.allow(RuleKey::new(set, peer, bits, proto, port), by);
            }
        }
    }

    /// The peers of a rule by number; with the identity where that is what it is.
    fn peers(&self, policy: &Policy, rule: &Rule) -> Vec<(u32, Option<&'a Identity>)> {
        let Some(peers) = &rule.peers else { return vec![(ANYBODY, None)] };
        let all = peers.iter().flat_map(|peer| {
            let classes = match peer {
                Peer::Block(block) => Some(self.classes.of(block)),
                Peer::Pods { .. } => None,
            };
            let identities =
                self.identities.iter().filter(|(identity, _)| is(peer, &policy.key.namespace, identity));
            let identities = identities.map(|(identity, number)| (*number, Some(*identity)));
            identities.chain(classes.into_iter().flatten().map(|class| (class, None)))
        });
        all.collect()
    }

    /// Of two policies that allow the same, the first is told to have done so.
    fn allow(&mut self, key: RuleKey, by: u32) {
        self.spoken_of.insert(key.peer);
        self.out.tables.rules.entry(key).or_insert(by);
    }

    fn finish(self, world: &World, pods: &BTreeMap<Identity, Vec<(&Key, &Pod)>>) -> Compiled {
        let Self { identities, classes, spoken_of, mut out, .. } = self;
        for (identity, number) in identities.iter().filter(|(_, number)| spoken_of.contains(number)) {
            let ips = pods.get(*identity).into_iter().flatten().flat_map(|(key, pod)| world.ips(key, pod));
            out.tables.identities.extend(ips.map(|ip| (*ip, *number)));
        }
        out.tables.blocks = classes.of_net;
        out
    }
}

/// Protocol and port of a rule as prefixes: how many bits count, protocol, port.
fn port_keys(rule: &Rule, numbers: impl Fn(&Port) -> Vec<(u16, u16)>) -> Vec<(u8, u8, u16)> {
    let Some(ports) = &rule.ports else { return vec![(0, 0, 0)] };
    let all = ports.iter().flat_map(|port| {
        let proto = port.protocol.number();
        let ranges = numbers(port).into_iter().flat_map(|(first, last)| prefixes(first, last));
        ranges.map(move |at| (PROTOCOL_BITS + at.bits, proto, at.port))
    });
    all.filter(|(bits, _, _)| *bits <= PORT_BITS).collect()
}

/// The numbers of a port, first and last, where the pod at the end has these names.
fn numbered(port: &Port, own: &BTreeSet<NamedPort>) -> Vec<(u16, u16)> {
    match &port.numbers {
        Numbers::All => vec![(0, u16::MAX)],
        Numbers::Range(first, last) => vec![(*first, *last)],
        Numbers::Named(name) => {
            let named = own.iter().filter(|at| at.name == *name && at.protocol == port.protocol);
            named.map(|at| (at.number, at.number)).collect()
        }
    }
}

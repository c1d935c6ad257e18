//! The tables say of every packet what the words of the API say: over a hundred thousand random policies and packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use orlop_model::event::Event;
use orlop_model::selectors::{LabelSelector, Operator, Requirement};

use super::super::compile::compile;
use super::super::model::{Block, Direction, Key, Labels, NamedPort, Numbers, Peer, Pod, Policy, Port, Rule};
use super::super::world::{Change, World};
use super::naive::{Packet, allowed_by};
use crate::model::Protocol;

const NODE: &str = "node-a";
const WORLDS: u64 = 17_000;
const POLICIES: u64 = 6;
const PACKETS: u64 = 12;

const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
const KEYS: [&str; 3] = ["app", "tier", "team"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORT_NAMES: [&str; 3] = ["http", "dns", "admin"];
const PORT_NUMBERS: [u16; 8] = [1, 53, 80, 81, 443, 8080, 8090, 65535];
const NETS: [&str; 9] = [
    "0.0.0.0/0",
    "10.42.0.0/16",
    "10.42.1.0/24",
    "10.42.1.0/30",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/120",
];
const STRANGERS: [&str; 5] = ["192.0.2.7", "192.0.2.200", "10.42.9.9", "2001:db8:1::99", "2001:db9::1"];

/// Repeatable chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn some<T>(&mut self, most: u64, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn labels(&mut self) -> Labels {
        let pairs = self.some(3, |dice| (dice.of(&KEYS).to_string(), dice.of(&VALUES).to_string()));
        pairs.into_iter().collect()
    }

    fn selector(&mut self) -> LabelSelector {
        let operators = [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist];
        let requirements = self.some(2, |dice| {
            let operator = if dice.one_in(2) { Operator::Equals } else { *dice.of(&operators) };
            let values = match operator {
                Operator::Equals => vec![dice.of(&VALUES).to_string()],
                Operator::Exists | Operator::DoesNotExist => Vec::new(),
                _ => vec![dice.of(&VALUES).to_string(), dice.of(&VALUES).to_string()],
            };
            let key: &str = dice.of::<&str>(&KEYS);
            Requirement::new(key, operator, values).unwrap()
        });
        LabelSelector::from_requirements(requirements)
    }

    fn protocol(&mut self) -> Protocol {
        *self.of(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    fn peer(&mut self) -> Peer {
        if self.one_in(3) {
            let except = self.some(2, |dice| dice.of(&NETS).parse().unwrap());
            return Peer::Block(Block { cidr: self.of(&NETS).parse().unwrap(), except });
        }
        let namespaces = self.one_in(2).then(|| self.selector());
        Peer::Pods { namespaces, pods: self.selector() }
    }

    fn port(&mut self) -> Port {
        let numbers = match self.below(4) {
            0 => Numbers::All,
            1 => Numbers::Named(self.of(&PORT_NAMES).to_string()),
            _ => {
                let (one, other) = (*self.of(&PORT_NUMBERS), *self.of(&PORT_NUMBERS));
                Numbers::Range(one.min(other), one.max(other))
            }
        };
        Port { protocol: self.protocol(), numbers }
    }

    fn rule(&mut self) -> Rule {
        let peers = (!self.one_in(5)).then(|| self.some(3, Self::peer));
        let ports = (!self.one_in(3)).then(|| self.some(3, Self::port));
        Rule { peers, ports }
    }

    fn policy(&mut self, number: u64) -> Policy {
        let key = Key { namespace: self.of(&NAMESPACES).to_string(), name: format!("p{number}") };
        let ingress = (!self.one_in(3)).then(|| self.some(2, Self::rule));
        let egress = (!self.one_in(3)).then(|| self.some(2, Self::rule));
        Policy { key, subject: self.selector(), ingress, egress }
    }

    fn pod(&mut self, number: u64) -> (Key, Option<Pod>) {
        let key = Key { namespace: self.of(&NAMESPACES).to_string(), name: format!("pod{number}") };
        let ips = [format!("10.42.1.{number}"), format!("2001:db8:1::{number}")];
        let ports = self.some(2, |dice| NamedPort {
            name: dice.of(&PORT_NAMES).to_string(),
            protocol: dice.protocol(),
            number: *dice.of(&PORT_NUMBERS),
        });
        let pod = Pod {
            labels: self.labels(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            node: if self.one_in(2) { NODE } else { "node-b" }.to_owned(),
            ports: ports.into_iter().collect(),
        };
        (key, Some(pod))
    }

    fn world(&mut self) -> World {
        let mut world = World::default();
        let namespaces = NAMESPACES.map(|name| (name.to_owned(), self.labels())).to_vec();
        world.apply(Change::Namespace(Event::Reset(namespaces)));
        world.apply(Change::Pod(Event::Reset((1..8).map(|number| self.pod(number)).collect())));
        let policies = (0..POLICIES).map(|number| self.policy(number)).collect();
        world.apply(Change::Policy(Event::Reset(policies)));
        assert!(world.complete());
        world
    }
}

#[test]
fn tables_judge_every_packet_as_the_words_of_the_api_do() {
    let mut judged: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=WORLDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let world = dice.world();
        let compiled = compile(&world, NODE);
        let local: Vec<(&Key, &Pod)> = world.pods.iter().filter(|(_, pod)| pod.node == NODE).collect();
        let others: Vec<IpAddr> = world.pods.values().flat_map(|pod| pod.ips.clone()).collect();
        for _ in 0..if local.is_empty() { 0 } else { PACKETS } {
            let (key, pod) = *dice.of(&local);
            let stranger = dice.one_in(3).then(|| dice.of(&STRANGERS).parse().unwrap());
            let packet = Packet {
                way: *dice.of(&Direction::ALL),
                pod: key,
                peer: stranger.unwrap_or_else(|| *dice.of(&others)),
                protocol: dice.protocol(),
                port: *dice.of(&PORT_NUMBERS),
            };
            let proto = match packet.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            let expected = allowed_by(&world, &packet).map(|all| all.into_iter().collect::<BTreeSet<_>>());
            for ip in &pod.ips {
                let subject = compiled.tables.subjects.get(ip).copied().unwrap_or_default();
                let set = subject.set(packet.way);
                let verdict = (set != 0)
                    .then(|| compiled.tables.allowed_by(set, packet.peer, proto, packet.port))
                    .map(|by| by.map(|number| &compiled.names.policies[&number]));
                let same = match (&expected, verdict) {
                    (None, None) => true,
                    (Some(all), Some(None)) => all.is_empty(),
                    (Some(all), Some(Some(by))) => all.contains(by),
                    _ => false,
                };
                assert!(same, "seed {seed}: {packet:?}: expected {expected:?}, got {verdict:?}\n{world:#?}");
            }
            let kind = match &expected {
                None => "not isolated",
                Some(all) if all.is_empty() => "denied",
                Some(_) => "allowed",
            };
            *judged.entry(kind).or_default() += 1;
        }
    }
    // A test in which everything is allowed would prove nothing.
    assert!(
        judged.values().sum::<u64>() > 180_000 && judged.values().all(|count| *count > 20_000),
        "{judged:?}"
    );
}

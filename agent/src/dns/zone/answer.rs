//! `[p]` What a name of the cluster stands for, and the records that say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT},
    },
};

use super::{Entry, Kind, Port, Zone, reverse};

/// The version of the specification that is kept to, as `dns-version` says it.
const VERSION: &str = "1.1.0";
/// How often a CNAME is followed.
const MOST_ALIASES: usize = 8;
/// Addresses of SRV targets are a courtesy: not more than this.
const MOST_ADDITIONALS: usize = 16;

/// Stands for a name with labels that are no text: in the cluster nothing is called so.
const NO_TEXT: &[&str] = &[""];

/// What there is to say. All of it is authoritative.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `NXDOMAIN`, or none.
    pub code: ResponseCode,
    /// Answers.
    pub answers: Vec<Record>,
    /// The SOA, where there is no answer.
    pub authorities: Vec<Record>,
    /// Addresses of what is named in the answers.
    pub additionals: Vec<Record>,
    /// The answers end in an alias outside the domain: what that stands for belongs to the answer.
    pub follow: Option<Name>,
}

/// What a name stands for.
enum Found<'a> {
    Apex,
    /// A name with others below it, and nothing at it.
    Empty,
    Version,
    NameServer,
    Service(&'a Entry, &'a Kind, [&'a str; 2]),
    /// One endpoint of a service.
    Host(&'a Entry, &'a str, [&'a str; 2]),
    /// One port of a service, by name and protocol.
    Port(&'a Entry, &'a Kind, &'a str, &'a str, [&'a str; 2]),
    Pod(IpAddr),
    Nothing,
}

impl Zone {
    /// The answer, or `None` where the question is not about the cluster. `turn` says where a list begins (another
    /// number each time), and of answers not more than `most` are given: who wants so few cannot take more.
    #[must_use]
    pub fn answer(&self, query: &Query, turn: usize, most: usize) -> Option<Answer> {
        let mut buffer = [0; 256];
        let labels = Labels::of(query.name(), &mut buffer);
        if query.query_type() == RecordType::PTR
            && let Some(address) = labels.as_ref().and_then(|labels| reverse::address(labels.as_slice()))
        {
            return self.pointers(query, address);
        }
        if !self.settings.domain.zone_of(query.name()) {
            return None;
        }
        if !self.is_complete() {
            return Some(Answer { code: ResponseCode::ServFail, ..Answer::default() });
        }
        let below = self.below(labels.as_ref());
        Some(self.data(query, below, Limits { turn, most }, 0))
    }

    /// What is left of a name in the domain without the domain.
    fn below<'a>(&self, labels: Option<&'a Labels<'a>>) -> &'a [&'a str] {
        let depth = usize::from(self.settings.domain.num_labels());
        let below = labels.and_then(|labels| labels.as_slice().get(..labels.len.checked_sub(depth)?));
        below.unwrap_or(NO_TEXT)
    }

    fn data(&self, query: &Query, below: &[&str], limits: Limits, aliases: usize) -> Answer {
        let found = self.find(below);
        let name = query.name();
        let (kind, mut answer) = (query.query_type(), Answer::default());
        if matches!(found, Found::Nothing) {
            answer.code = ResponseCode::NXDomain;
            answer.authorities = vec![self.soa()];
            return answer;
        }
        if let Found::Service(_, Kind::External(Some(target)), _) = &found
            && kind != RecordType::ANY
        {
            return self.alias(query, target, limits, aliases);
        }
        match kind {
            // RFC 8482: whoever asks for everything gets something.
            RecordType::ANY => {
                let data = HINFO::new("RFC8482".to_owned(), String::new());
                answer.answers.push(self.record(name, RData::HINFO(data)));
            }
            RecordType::A => {
                let addresses = found.v4(self);
                answer.answers =
                    limits.of(&addresses).map(|address| self.record(name, RData::A(A(*address)))).collect();
            }
            RecordType::AAAA => {
                let addresses = found.v6(self);
                answer.answers = limits
                    .of(&addresses)
                    .map(|address| self.record(name, RData::AAAA(AAAA(*address))))
                    .collect();
            }
            RecordType::SRV => self.services_at(&mut answer, name, &found, limits),
            RecordType::TXT if matches!(found, Found::Version) => {
                answer.answers.push(self.record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()]))));
            }
            RecordType::SOA if matches!(found, Found::Apex) => {
                let Record { data, .. } = self.soa();
                answer.answers.push(self.record(name, data));
            }
            RecordType::NS if matches!(found, Found::Apex) => {
                let server = self.name_server();
                answer.additionals = self.addresses(&server, &self.settings.servers);
                answer.answers.push(self.record(name, RData::NS(NS(server))));
            }
            _ => {}
        }
        if answer.answers.is_empty() {
            answer.authorities = vec![self.soa()];
        }
        answer
    }

    /// The alias, and what it stands for where that is ours too.
    fn alias(&self, query: &Query, target: &Name, limits: Limits, aliases: usize) -> Answer {
        let record = self.record(query.name(), RData::CNAME(CNAME(target.clone())));
        let mut answer = Answer { answers: vec![record], ..Answer::default() };
        if query.query_type() == RecordType::CNAME {
            return answer;
        }
        if !self.settings.domain.zone_of(target) {
            answer.follow = Some(target.clone());
            return answer;
        }
        let next = Query::query(target.clone(), query.query_type());
        let mut buffer = [0; 256];
        let labels = Labels::of(target, &mut buffer);
        let below = self.below(labels.as_ref());
        if aliases == MOST_ALIASES {
            return Answer { code: ResponseCode::ServFail, ..Answer::default() };
        }
        let rest = self.data(&next, below, limits, aliases + 1);
        if rest.code == ResponseCode::ServFail {
            return rest;
        }
        answer.answers.extend(rest.answers);
        Answer { answers: answer.answers, ..rest }
    }

    fn find<'a>(&'a self, labels: &[&'a str]) -> Found<'a> {
        match *labels {
            [] => Found::Apex,
            ["dns-version"] => Found::Version,
            ["ns", "dns"] => Found::NameServer,
            ["dns" | "svc" | "pod"] => Found::Empty,
            [namespace, "svc" | "pod"] if self.has_namespace(namespace, false) => Found::Empty,
            [address, namespace, "pod"] if self.has_namespace(namespace, true) => {
                undashed(address).map_or(Found::Nothing, Found::Pod)
            }
            [ref below @ .., name, namespace, "svc"] => self.find_service(below, name, namespace),
            _ => Found::Nothing,
        }
    }

    fn find_service<'a>(&'a self, below: &[&'a str], name: &'a str, namespace: &'a str) -> Found<'a> {
        let Some(entry) = self.entry(namespace, name) else { return Found::Nothing };
        let Some(kind) = &entry.service else { return Found::Nothing };
        let of = [name, namespace];
        match (below, kind) {
            ([], Kind::External(None)) => Found::Nothing,
            ([], Kind::External(Some(_)) | Kind::Cluster { .. }) => Found::Service(entry, kind, of),
            ([], Kind::Headless) if entry.v4.is_empty() && entry.v6.is_empty() => Found::Nothing,
            ([], Kind::Headless) => Found::Service(entry, kind, of),
            (_, Kind::External(_)) => Found::Nothing,
            ([protocol], _) if protocol.starts_with('_') => {
                let there = |port: &Port| !port.name.is_empty() && protocol[1..] == *port.protocol;
                if entry.ports(kind).any(there) { Found::Empty } else { Found::Nothing }
            }
            ([label], _) => {
                let there = entry.endpoints().any(|(endpoint, _)| *endpoint.label == **label);
                if there { Found::Host(entry, label, of) } else { Found::Nothing }
            }
            ([port, protocol], _) => {
                let bare = (port.strip_prefix('_'), protocol.strip_prefix('_'));
                let (Some(port), Some(protocol)) = bare else { return Found::Nothing };
                let there = entry.ports(kind).any(|known| known.is(port, protocol));
                if there { Found::Port(entry, kind, port, protocol, of) } else { Found::Nothing }
            }
            _ => Found::Nothing,
        }
    }

    /// SRV: each port of each target, the targets' addresses besides.
    fn services_at(&self, answer: &mut Answer, name: &Name, found: &Found<'_>, limits: Limits) {
        let (entry, of, wanted) = match *found {
            Found::Service(entry, _, of) => (entry, of, None),
            Found::Host(entry, _, of) => (entry, of, None),
            Found::Port(entry, _, port, protocol, of) => (entry, of, Some((port, protocol))),
            _ => return,
        };
        let wanted = |port: &&Port| wanted.is_none_or(|(name, protocol)| port.is(name, protocol));
        // Targets with the ports that they have under this name.
        let mut targets: Vec<(Vec<&str>, IpAddr, u16)> = Vec::new();
        match (found, &entry.service) {
            (Found::Host(_, label, _), _) => {
                for (endpoint, ports) in entry.endpoints().filter(|(known, _)| *known.label == **label) {
                    let all = ports.iter().filter(wanted);
                    targets.extend(all.map(|port| (vec![*label], endpoint.address, port.number)));
                }
            }
            (_, Some(Kind::Cluster { addresses, ports })) => {
                for port in ports.iter().filter(wanted) {
                    targets.extend(addresses.iter().map(|address| (Vec::new(), *address, port.number)));
                }
            }
            (_, Some(Kind::Headless)) => {
                for (endpoint, ports) in entry.endpoints() {
                    let all = ports.iter().filter(wanted);
                    let label = &*endpoint.label;
                    targets.extend(all.map(|port| (vec![label], endpoint.address, port.number)));
                }
            }
            _ => {}
        }
        targets.sort_unstable();
        targets.dedup();
        // A target with addresses of both families is one target.
        let mut named: Vec<(Name, u16)> = Vec::new();
        let mut addresses: Vec<(Name, IpAddr)> = Vec::new();
        for (below, address, port) in limits.of(&targets) {
            let Some(target) = self.name(&[below.as_slice(), &of, &["svc"]].concat()) else { continue };
            if !named.contains(&(target.clone(), *port)) {
                named.push((target.clone(), *port));
            }
            if addresses.len() < MOST_ADDITIONALS && !addresses.contains(&(target.clone(), *address)) {
                addresses.push((target, *address));
            }
        }
        // As upstream: all are alike, and together they weigh 100.
        let weight = u16::try_from(100 / named.len().max(1)).unwrap_or(1).max(1);
        for (target, port) in named {
            answer.answers.push(self.record(name, RData::SRV(SRV::new(0, weight, port, target))));
        }
        for (target, address) in addresses {
            answer.additionals.extend(self.addresses(&target, &[address]));
        }
    }

    fn pointers(&self, query: &Query, address: IpAddr) -> Option<Answer> {
        let names = self.reverse.names(address);
        let targets = names.iter().filter_map(|labels| {
            let labels: Vec<_> = labels.split('.').chain(["svc"]).collect();
            // Slices may be there without their service: then the name is none.
            let [.., service, namespace, _] = labels.as_slice() else { return None };
            self.entry(namespace, service)?.service.as_ref()?;
            self.name(&labels)
        });
        let answers: Vec<_> =
            targets.map(|target| self.record(query.name(), RData::PTR(PTR(target)))).collect();
        (!answers.is_empty()).then(|| Answer { answers, ..Answer::default() })
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl, data)
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        let data = addresses.iter().map(|address| match *address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        });
        data.map(|data| self.record(name, data)).collect()
    }

    /// A name of the domain.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        let labels = labels.iter().map(|label| label.as_bytes());
        Name::from_labels(labels).ok()?.append_domain(&self.settings.domain).ok()
    }

    fn name_server(&self) -> Name {
        self.name(&["ns", "dns"]).unwrap_or_else(|| self.settings.domain.clone())
    }

    /// Who is responsible, and how long it may be believed that there is nothing.
    fn soa(&self) -> Record {
        let contact = self.name(&["hostmaster"]).unwrap_or_else(|| self.settings.domain.clone());
        let ttl = self.settings.ttl;
        let data = SOA::new(self.name_server(), contact, self.serial, 7200, 1800, 86400, ttl);
        self.record(&self.settings.domain, RData::SOA(data))
    }
}

impl Entry {
    fn ports<'a>(&'a self, kind: &'a Kind) -> Box<dyn Iterator<Item = &'a Port> + 'a> {
        match kind {
            Kind::Cluster { ports, .. } => Box::new(ports.iter()),
            Kind::Headless => Box::new(self.endpoints().flat_map(|(_, ports)| ports)),
            Kind::External(_) => Box::new(std::iter::empty()),
        }
    }
}

impl Port {
    fn is(&self, name: &str, protocol: &str) -> bool {
        !name.is_empty() && *self.name == *name && *self.protocol == *protocol
    }
}

impl Found<'_> {
    fn v4(&self, zone: &Zone) -> Vec<Ipv4Addr> {
        match self {
            Found::Service(Entry { v4, .. }, Kind::Headless, _) => v4.clone(),
            _ => self.addresses(zone, |address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
        }
    }

    fn v6(&self, zone: &Zone) -> Vec<Ipv6Addr> {
        match self {
            Found::Service(Entry { v6, .. }, Kind::Headless, _) => v6.clone(),
            _ => self.addresses(zone, |address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
        }
    }

    fn addresses<T: Ord>(&self, zone: &Zone, family: impl Fn(IpAddr) -> Option<T>) -> Vec<T> {
        let some: &mut dyn Iterator<Item = IpAddr> = match self {
            Found::NameServer => &mut zone.settings.servers.iter().copied(),
            Found::Pod(address) => &mut std::iter::once(*address),
            Found::Service(_, Kind::Cluster { addresses, .. }, _)
            | Found::Port(_, Kind::Cluster { addresses, .. }, ..) => &mut addresses.iter().copied(),
            Found::Host(entry, label, _) => &mut entry
                .endpoints()
                .filter(|(endpoint, _)| *endpoint.label == **label)
                .map(|(endpoint, _)| endpoint.address),
            Found::Port(entry, _, port, protocol, _) => &mut entry
                .endpoints()
                .filter(|(_, ports)| ports.iter().any(|known| known.is(port, protocol)))
                .map(|(endpoint, _)| endpoint.address),
            _ => &mut std::iter::empty(),
        };
        let mut some: Vec<T> = some.filter_map(family).collect();
        some.sort_unstable();
        some.dedup();
        some
    }
}

/// Where a list begins, and how much of it is given.
#[derive(Clone, Copy)]
struct Limits {
    turn: usize,
    most: usize,
}

impl Limits {
    fn of<T>(self, all: &[T]) -> impl Iterator<Item = &T> {
        let start = self.turn.checked_rem(all.len()).unwrap_or_default();
        let (before, after) = all.split_at(start);
        after.iter().chain(before).take(self.most)
    }
}

/// The labels of a name in lower case, leaf first.
struct Labels<'a> {
    all: [&'a str; 128],
    len: usize,
}

impl<'a> Labels<'a> {
    /// `None` where a label is no text: it names nothing here.
    fn of(name: &Name, buffer: &'a mut [u8; 256]) -> Option<Labels<'a>> {
        let (mut all, mut len) = ([""; 128], 0);
        let mut rest = buffer.as_mut_slice();
        for label in name.iter() {
            let (own, more) = rest.split_at_mut_checked(label.len())?;
            rest = more;
            own.copy_from_slice(label);
            own.make_ascii_lowercase();
            *all.get_mut(len)? = str::from_utf8(own).ok()?;
            len += 1;
        }
        Some(Labels { all, len })
    }

    fn as_slice(&self) -> &[&'a str] {
        &self.all[..self.len]
    }
}

/// The address in the name of a `pod` record.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.matches('-').count() == 3 && !label.contains("--");
    let text = label.replace('-', if v4 { "." } else { ":" });
    text.parse().ok().filter(|address: &IpAddr| address.is_ipv4() == v4)
}

//! Tables as the bytes of one nfnetlink batch. Pure.

use std::net::IpAddr;

use orlop_model::net::{Family, IpNet};

use super::{Field, Match, Rule, Table};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const NEW_TABLE: u16 = SUBSYSTEM << 8;
pub(super) const DEL_TABLE: u16 = (SUBSYSTEM << 8) | 2;
pub(super) const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
pub(super) const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;
pub(super) const DEL_RULE: u16 = (SUBSYSTEM << 8) | 8;
pub(super) const NEW_SET: u16 = (SUBSYSTEM << 8) | 9;
pub(super) const NEW_SET_ELEMENT: u16 = (SUBSYSTEM << 8) | 12;
pub(super) const DEL_SET_ELEMENT: u16 = (SUBSYSTEM << 8) | 14;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

const FAMILY_UNSPEC: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;
pub(super) const POLICY_ACCEPT: u32 = 1;
pub(super) const REGISTER: u32 = 1;
pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;
pub(super) const EQUAL: u32 = 0;
pub(super) const NOT_EQUAL: u32 = 1;
const PORTS_FULLY_RANDOM: u32 = 1 << 4;

/// Attribute numbers.
pub(super) mod attr {
    pub(in super::super) const TABLE_NAME: u16 = 1;
    pub(in super::super) const CHAIN_TABLE: u16 = 1;
    pub(in super::super) const CHAIN_NAME: u16 = 3;
    pub(in super::super) const CHAIN_HOOK: u16 = 4;
    pub(in super::super) const CHAIN_POLICY: u16 = 5;
    pub(in super::super) const CHAIN_TYPE: u16 = 7;
    pub(in super::super) const HOOK_NUMBER: u16 = 1;
    pub(in super::super) const HOOK_PRIORITY: u16 = 2;
    pub(in super::super) const RULE_TABLE: u16 = 1;
    pub(in super::super) const RULE_CHAIN: u16 = 2;
    pub(in super::super) const RULE_EXPRESSIONS: u16 = 4;
    pub(in super::super) const RULE_USERDATA: u16 = 7;
    pub(in super::super) const SET_TABLE: u16 = 1;
    pub(in super::super) const SET_NAME: u16 = 2;
    pub(in super::super) const SET_FLAGS: u16 = 3;
    pub(in super::super) const SET_KEY_TYPE: u16 = 4;
    pub(in super::super) const SET_KEY_LENGTH: u16 = 5;
    pub(in super::super) const SET_ID: u16 = 10;
    pub(in super::super) const ELEMENTS_TABLE: u16 = 1;
    pub(in super::super) const ELEMENTS_SET: u16 = 2;
    pub(in super::super) const ELEMENTS: u16 = 3;
    pub(in super::super) const ELEMENT_KEY: u16 = 1;
    pub(in super::super) const LIST_ELEMENT: u16 = 1;
    pub(in super::super) const EXPRESSION_NAME: u16 = 1;
    pub(in super::super) const EXPRESSION_DATA: u16 = 2;
    pub(in super::super) const DATA_VALUE: u16 = 1;
}

/// Batch that ends with exactly these tables.
pub(super) fn replace(tables: &[Table]) -> Vec<u8> {
    batch(tables.iter().flat_map(table))
}

/// Asks for all rules of a chain.
pub(super) fn list(family: Family, table: &str, chain: &str) -> Vec<u8> {
    message(family, GET_RULE, DUMP, |b| {
        b.text(attr::RULE_TABLE, table);
        b.text(attr::RULE_CHAIN, chain);
    })
}

/// Batch that ends without the tables.
pub(super) fn remove(tables: &[Table]) -> Vec<u8> {
    // "add" before "delete", because deleting what is not there fails.
    batch(tables.iter().flat_map(|table| [new_table(table), del_table(table)]))
}

fn table(table: &Table) -> Vec<Vec<u8>> {
    let chain = message(table.family, NEW_CHAIN, CREATE, |b| {
        b.text(attr::CHAIN_TABLE, &table.name);
        b.text(attr::CHAIN_NAME, table.chain);
        b.nested(attr::CHAIN_HOOK, |hook| {
            hook.number(attr::HOOK_NUMBER, HOOK_POSTROUTING);
            hook.number(attr::HOOK_PRIORITY, PRIORITY_SRCNAT);
        });
        b.number(attr::CHAIN_POLICY, POLICY_ACCEPT);
        b.text(attr::CHAIN_TYPE, "nat");
    });
    let rules = table.rules.iter().map(|rule| rule_message(table, rule));
    let first = [new_table(table), del_table(table), new_table(table), chain];
    first.into_iter().chain(rules).collect()
}

fn new_table(table: &Table) -> Vec<u8> {
    message(table.family, NEW_TABLE, CREATE, |b| b.text(attr::TABLE_NAME, &table.name))
}

fn del_table(table: &Table) -> Vec<u8> {
    message(table.family, DEL_TABLE, 0, |b| b.text(attr::TABLE_NAME, &table.name))
}

fn rule_message(table: &Table, rule: &Rule) -> Vec<u8> {
    message(table.family, NEW_RULE, CREATE | APPEND, |b| {
        b.text(attr::RULE_TABLE, &table.name);
        b.text(attr::RULE_CHAIN, table.chain);
        b.nested(attr::RULE_EXPRESSIONS, |list| {
            rule.matches.iter().for_each(|m| match_address(list, m));
            expression(list, "masq", |masq| masq.number(1, PORTS_FULLY_RANDOM));
        });
        b.bytes(attr::RULE_USERDATA, &comment(rule.comment));
    })
}

/// Load the address, mask it, compare it.
fn match_address(list: &mut Attributes, wanted: &Match) {
    let (length, offset) = match (wanted.net.family(), wanted.field) {
        (Family::V4, Field::Source) => (4, 12),
        (Family::V4, Field::Destination) => (4, 16),
        (Family::V6, Field::Source) => (16, 8),
        (Family::V6, Field::Destination) => (16, 24),
    };
    expression(list, "payload", |load| {
        load.number(1, REGISTER);
        load.number(2, NETWORK_HEADER);
        load.number(3, offset);
        load.number(4, length);
    });
    expression(list, "bitwise", |and| {
        and.number(1, REGISTER);
        and.number(2, REGISTER);
        and.number(3, length);
        and.nested(4, |mask| mask.bytes(attr::DATA_VALUE, &octets(wanted.net.netmask())));
        and.nested(5, |xor| {
            xor.bytes(attr::DATA_VALUE, &octets(IpNet::everything(wanted.net.family()).network()))
        });
    });
    expression(list, "cmp", |compare| {
        compare.number(1, REGISTER);
        compare.number(2, if wanted.inside { EQUAL } else { NOT_EQUAL });
        compare.nested(3, |data| data.bytes(attr::DATA_VALUE, &octets(wanted.net.network())));
    });
}

pub(super) fn expression(list: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    list.nested(attr::LIST_ELEMENT, |element| {
        element.text(attr::EXPRESSION_NAME, name);
        element.nested(attr::EXPRESSION_DATA, data);
    });
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// How `nft` stores a comment: type 0, length with the closing zero.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let kept = &text.as_bytes()[..usize::from(length) - 1];
    [&[0, length], kept, &[0]].concat()
}

pub(super) fn batch(messages: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let edge = |kind| frame(kind, REQUEST, FAMILY_UNSPEC, SUBSYSTEM, &[]);
    let inner: Vec<u8> = messages.flatten().collect();
    [edge(BATCH_BEGIN), inner, edge(BATCH_END)].concat()
}

pub(super) fn message(family: Family, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes)) -> Vec<u8> {
    let mut attributes = Attributes(Vec::new());
    fill(&mut attributes);
    let family = match family {
        Family::V4 => FAMILY_IPV4,
        Family::V6 => FAMILY_IPV6,
    };
    frame(kind, REQUEST | ACK | flags, family, 0, &attributes.0)
}

/// `nlmsghdr`, `nfgenmsg`, attributes. The attributes are padded already.
fn frame(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(20 + attributes.len());
    frame.extend(length.to_ne_bytes());
    frame.extend(kind.to_ne_bytes());
    frame.extend(flags.to_ne_bytes());
    frame.extend([0; 8]);
    frame.extend([family, 0]);
    frame.extend(resource.to_be_bytes());
    frame.extend(attributes);
    frame
}

/// Attributes under construction; numbers are big-endian throughout nf_tables.
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let net = "10.244.0.0/16".parse().unwrap();
        let matches = vec![
            Match { field: Field::Source, inside: true, net },
            Match { field: Field::Destination, inside: false, net },
        ];
        let rules = vec![Rule { comment: "why", matches }];
        Table { family: Family::V4, name: "t".into(), chain: "c", rules }
    }

    /// Lengths of the messages in a batch, and their types.
    fn messages(mut batch: &[u8]) -> Vec<(u16, usize)> {
        let mut found = Vec::new();
        while batch.len() >= 20 {
            let length = u32::from_ne_bytes(batch[..4].try_into().unwrap()) as usize;
            found.push((u16::from_ne_bytes([batch[4], batch[5]]), length));
            batch = &batch[length..];
        }
        assert!(batch.is_empty());
        found
    }

    #[test]
    fn a_batch_is_framed_and_swaps_the_table_in_one_go() {
        let kinds: Vec<_> = messages(&replace(&[table()])).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, DEL_TABLE, NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_END]);
        let kinds: Vec<_> = messages(&remove(&[table()])).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, DEL_TABLE, BATCH_END]);
    }

    #[test]
    fn attributes_are_padded_to_four_bytes_and_lengths_are_not() {
        let mut a = Attributes(Vec::new());
        a.text(1, "t");
        assert_eq!(a.0, [6, 0, 1, 0, b't', 0, 0, 0]);
    }

    #[test]
    fn comments_are_stored_as_nft_stores_them() {
        assert_eq!(comment("why"), [0, 4, b'w', b'h', b'y', 0]);
    }
}

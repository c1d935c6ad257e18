//! The table that keeps pods from speaking under addresses that are not theirs, as the bytes of nfnetlink batches. Pure.
//!
//! ```text
//!  table ip orlop-pods {
//!      set addresses { type ifname . ipv4_addr }
//!      chain sources { type filter hook prerouting priority raw
//!          iifname "orl*" iifname != "orlop*" iifname . ip saddr != @addresses counter drop
//!      }
//!  }
//! ```
//!
//! That of IPv6 first drops what stations of a link tell each other: both ends of a pod's link know each other already,
//! and all that a pod could do with it is to fill the node's tables. One table serves all networks of a node, each with its own elements.

use std::net::IpAddr;

use orlop_model::net::Family;

use super::encode::{
    APPEND, Attributes, CREATE, DEL_RULE, DEL_SET_ELEMENT, DEL_TABLE, EQUAL, NETWORK_HEADER, NEW_CHAIN,
    NEW_RULE, NEW_SET, NEW_SET_ELEMENT, NEW_TABLE, NOT_EQUAL, POLICY_ACCEPT, REGISTER, TRANSPORT_HEADER,
    attr, batch, comment, expression, message, octets,
};
use crate::names::{LINK_PREFIX, LinkName};

const TABLE: &str = "orlop-pods";
/// What devices may be called that are not pods' links: those go on with a hexadecimal digit.
const OTHERS: &str = "orlop";
const CHAIN: &str = "sources";
const SET: &str = "addresses";

const HOOK_PREROUTING: u32 = 0;
/// Before connections are looked at.
const PRIORITY_RAW: i32 = -300;
/// The next 16 bytes of registers.
const SECOND_REGISTER: u32 = 2;
const VERDICT_REGISTER: u32 = 0;
const DROP: u32 = 0;
const INVERT: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
const META_INTERFACE: u32 = 6;
const META_PROTOCOL: u32 = 16;
const ICMPV6: u8 = 58;
/// What stations of one link tell each other: who listens to which group, who is where, who routes (RFC 2710 to 3810).
const LINK_TALK: [u8; 2] = [130, 143];
/// `nft`'s numbers of the set's types: two in one for a concatenation.
const TYPE_INTERFACE: u32 = 41;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const INTERFACE_LENGTH: usize = 16;

/// An address that a pod's link may send under.
pub(crate) type Permit = (LinkName, IpAddr);

/// Batch that ends with the tables of these families as they should be, and these elements besides what is there.
pub(super) fn put_up(families: &[Family], permits: &[Permit]) -> Vec<u8> {
    let tables = families.iter().flat_map(|family| table(*family));
    batch(tables.chain(elements(NEW_SET_ELEMENT, CREATE, permits)))
}

/// Batch that ends with these elements.
pub(super) fn permit(permits: &[Permit]) -> Vec<u8> {
    batch(elements(NEW_SET_ELEMENT, CREATE, permits).into_iter())
}

/// Batch that ends without these elements. Added before, because deleting what is not there fails.
pub(super) fn forbid(permits: &[Permit]) -> Vec<u8> {
    let add = elements(NEW_SET_ELEMENT, CREATE, permits);
    batch(add.into_iter().chain(elements(DEL_SET_ELEMENT, 0, permits)))
}

/// Asks for the family's rules.
pub(super) fn list(family: Family) -> Vec<u8> {
    super::encode::list(family, TABLE, CHAIN)
}

/// Batch that ends without the family's table.
pub(super) fn remove(family: Family) -> Vec<u8> {
    batch([new_table(family), del_table(family)].into_iter())
}

fn new_table(family: Family) -> Vec<u8> {
    message(family, NEW_TABLE, CREATE, |b| b.text(attr::TABLE_NAME, TABLE))
}

fn del_table(family: Family) -> Vec<u8> {
    message(family, DEL_TABLE, 0, |b| b.text(attr::TABLE_NAME, TABLE))
}

/// Table, set and chain, made if they are missing; the rules anew; the set keeps its elements.
fn table(family: Family) -> Vec<Vec<u8>> {
    let set = message(family, NEW_SET, CREATE, |b| {
        let (kind, length) = match family {
            Family::V4 => (TYPE_IPV4, 4),
            Family::V6 => (TYPE_IPV6, 16),
        };
        b.text(attr::SET_TABLE, TABLE);
        b.text(attr::SET_NAME, SET);
        b.number(attr::SET_FLAGS, 0);
        b.number(attr::SET_KEY_TYPE, (TYPE_INTERFACE << 6) | kind);
        b.number(attr::SET_KEY_LENGTH, 16 + length);
        b.number(attr::SET_ID, 1);
    });
    let chain = message(family, NEW_CHAIN, CREATE, |b| {
        b.text(attr::CHAIN_TABLE, TABLE);
        b.text(attr::CHAIN_NAME, CHAIN);
        b.nested(attr::CHAIN_HOOK, |hook| {
            hook.number(attr::HOOK_NUMBER, HOOK_PREROUTING);
            hook.number(attr::HOOK_PRIORITY, PRIORITY_RAW.cast_unsigned());
        });
        b.number(attr::CHAIN_POLICY, POLICY_ACCEPT);
        b.text(attr::CHAIN_TYPE, "filter");
    });
    let flush = message(family, DEL_RULE, 0, |b| {
        b.text(attr::RULE_TABLE, TABLE);
        b.text(attr::RULE_CHAIN, CHAIN);
    });
    let link_talk = (family == Family::V6).then(|| rule(family, "neighbours are known", link_talk));
    let source = rule(family, "only under its own address", |list| stranger(family, list));
    [new_table(family), set, chain, flush].into_iter().chain(link_talk).chain([source]).collect()
}

/// A rule about what pods send that drops what it matches.
fn rule(family: Family, why: &str, matches: impl FnOnce(&mut Attributes)) -> Vec<u8> {
    message(family, NEW_RULE, CREATE | APPEND, |b| {
        b.text(attr::RULE_TABLE, TABLE);
        b.text(attr::RULE_CHAIN, CHAIN);
        b.nested(attr::RULE_EXPRESSIONS, |list| {
            meta(list, META_INTERFACE);
            compare(list, EQUAL, LINK_PREFIX.as_bytes());
            compare(list, NOT_EQUAL, OTHERS.as_bytes());
            matches(list);
            expression(list, "counter", |_| {});
            expression(list, "immediate", |verdict| {
                verdict.number(1, VERDICT_REGISTER);
                verdict.nested(2, |data| data.nested(2, |code| code.number(1, DROP)));
            });
        });
        b.bytes(attr::RULE_USERDATA, &comment(why));
    })
}

fn link_talk(list: &mut Attributes) {
    meta(list, META_PROTOCOL);
    compare(list, EQUAL, &[ICMPV6]);
    load(list, REGISTER, TRANSPORT_HEADER, (0, 1));
    compare(list, AT_LEAST, &LINK_TALK[..1]);
    compare(list, AT_MOST, &LINK_TALK[1..]);
}

/// Whose source address is none of its link. The interface's name is loaded already.
fn stranger(family: Family, list: &mut Attributes) {
    let source = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    load(list, SECOND_REGISTER, NETWORK_HEADER, source);
    expression(list, "lookup", |lookup| {
        lookup.text(1, SET);
        lookup.number(2, REGISTER);
        lookup.number(4, 1);
        lookup.number(5, INVERT);
    });
}

fn meta(list: &mut Attributes, key: u32) {
    expression(list, "meta", |meta| {
        meta.number(1, REGISTER);
        meta.number(2, key);
    });
}

fn load(list: &mut Attributes, register: u32, header: u32, (offset, length): (u32, u32)) {
    expression(list, "payload", |load| {
        load.number(1, register);
        load.number(2, header);
        load.number(3, offset);
        load.number(4, length);
    });
}

fn compare(list: &mut Attributes, how: u32, with: &[u8]) {
    expression(list, "cmp", |compare| {
        compare.number(1, REGISTER);
        compare.number(2, how);
        compare.nested(3, |data| data.bytes(attr::DATA_VALUE, with));
    });
}

/// One message for each family that there are elements of.
fn elements(kind: u16, flags: u16, permits: &[Permit]) -> Vec<Vec<u8>> {
    let of = |family: Family| {
        let own: Vec<_> = permits.iter().filter(|(_, address)| Family::of(*address) == family).collect();
        (!own.is_empty()).then(|| {
            message(family, kind, flags, |b| {
                b.text(attr::ELEMENTS_TABLE, TABLE);
                b.text(attr::ELEMENTS_SET, SET);
                b.nested(attr::ELEMENTS, |list| own.iter().for_each(|permit| element(list, permit)));
            })
        })
    };
    [Family::V4, Family::V6].into_iter().filter_map(of).collect()
}

fn element(list: &mut Attributes, (link, address): &Permit) {
    let mut key = link.as_str().as_bytes().to_vec();
    key.resize(INTERFACE_LENGTH, 0);
    key.extend(octets(*address));
    list.nested(attr::LIST_ELEMENT, |element| {
        element.nested(attr::ELEMENT_KEY, |data| data.bytes(attr::DATA_VALUE, &key));
    });
}

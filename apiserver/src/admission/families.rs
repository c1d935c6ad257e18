//! `[p]` Which addresses a Service has, of which IP families (KEP-563): what it asks for is settled with what it had
//! and what the cluster has, in upstream's order and words.
//!
//! Not for: which address is free (`Surroundings`), nor for names and ports (`service`).

use std::net::IpAddr;

use orlop_model::net::Family;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{Fields, items, text};
use super::podrules;

/// In place of an address of a Service that has none.
pub(super) const NONE: &str = "None";
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &[PREFER, REQUIRE, SINGLE];
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// `spec.clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`; empty is not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) ip: String,
    pub(super) ips: Vec<String>,
    pub(super) families: Vec<String>,
    policy: String,
}

/// What else is asked of a Service here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature<'a> {
    /// `spec.type`.
    pub(super) kind: &'a str,
    /// Whether it selects pods.
    pub(super) selects: bool,
}

impl Addresses {
    pub(super) fn read(spec: &Value) -> Self {
        let list = |key| items(spec, key).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            ip: text(spec, "clusterIP").to_owned(),
            ips: list("clusterIPs"),
            families: list("ipFamilies"),
            policy: text(spec, "ipFamilyPolicy").to_owned(),
        }
    }

    pub(super) fn write(self, spec: &mut Fields) {
        let lists = [("clusterIPs", self.ips), ("ipFamilies", self.families)];
        let words = [("clusterIP", self.ip), ("ipFamilyPolicy", self.policy)];
        let lists = lists.map(|(key, list)| (key, (!list.is_empty()).then(|| json!(list))));
        let words = words.map(|(key, word)| (key, (!word.is_empty()).then(|| json!(word))));
        for (key, value) in lists.into_iter().chain(words) {
            crate::rest::object::set(spec, key, value);
        }
    }

    pub(super) fn is_headless(&self) -> bool {
        self.ip == NONE
    }

    /// What an update leaves out of what the server gave it stays.
    pub(super) fn keep(&mut self, old: &Self) {
        if self.ip.is_empty() {
            self.ip.clone_from(&old.ip);
        }
        if self.ips.is_empty() && self.ip == old.ip {
            self.ips.clone_from(&old.ips);
        }
    }

    /// Clients that know one address only mean that one.
    pub(super) fn synchronize(&mut self, old: Option<&Self>) {
        let Some(old) = old else {
            if !self.ip.is_empty() && self.ips.is_empty() {
                self.ips = vec![self.ip.clone()];
            }
            return;
        };
        if self.ips.is_empty() && self.ip == old.ip {
            self.ips.clone_from(&old.ips);
        }
        if self.ip != old.ip && self.ips == old.ips {
            let cleared = self.ip.is_empty() && !old.ip.is_empty();
            self.ips = if cleared { Vec::new() } else { vec![self.ip.clone()] };
        }
    }

    /// Says of every family that the Service is to have, and how strictly. `ranges` are the cluster's, the main one
    /// first.
    pub(super) fn settle(
        &mut self,
        nature: Nature<'_>,
        old: Option<(&Self, Nature<'_>)>,
        ranges: &[Family],
        causes: &mut Causes,
    ) {
        // Whoever prefers both keeps what it has when the cluster becomes one of both, or of one.
        let prefers = |addresses: &Self| addresses.policy.is_empty() || addresses.policy == PREFER;
        if let Some((was, old_nature)) = old
            && self.policy == PREFER
            && prefers(was)
            && old_nature.kind == nature.kind
            && (&self.ips, &self.families) == (&was.ips, &was.families)
        {
            return;
        }
        let free = self.is_headless() && !nature.selects;
        if self.policy.is_empty() {
            let before = old.map(|(was, _)| was.policy.clone()).unwrap_or_default();
            self.policy = match before.is_empty() {
                false => before,
                true if free => REQUIRE.to_owned(),
                true => SINGLE.to_owned(),
            };
        }
        self.validate(causes);
        if !causes.is_empty() {
            return;
        }
        if let Some((was, _)) = old {
            self.let_go(was, causes);
        }
        self.agree(ranges, causes);
        if !causes.is_empty() {
            return;
        }
        if !free {
            self.demand(ranges, causes);
        }
        if !causes.is_empty() {
            return;
        }
        if self.families.is_empty() {
            self.families = vec![ranges.first().copied().unwrap_or(Family::V4).to_string()];
        }
        // Endpoints that somebody else writes may be of a family that this cluster gives no addresses of.
        if self.policy != SINGLE && self.families.len() == 1 && (free || ranges.len() == 2) {
            let other = if self.families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            self.families.push(other.to_owned());
        }
    }

    /// A Service of both families becomes one of one.
    fn let_go(&mut self, old: &Self, causes: &mut Causes) {
        if self.policy == SINGLE {
            if self.ips == old.ips {
                self.ips.truncate(1);
            }
            if self.families == old.families {
                self.families.truncate(1);
            }
            return;
        }
        let reduced = |new: &[String], old: &[String]| !new.is_empty() && new.len() < old.len();
        let parts = [
            (reduced(&self.ips, &old.ips), "cluster IP"),
            (reduced(&self.families, &old.families), "IP family"),
        ];
        for (_, what) in parts.iter().filter(|(reduced, _)| *reduced) {
            let detail = format!("must be 'SingleStack' to release the secondary {what}");
            causes.invalid("spec.ipFamilyPolicy", &json!(self.policy), &detail);
        }
    }

    /// Policy, addresses and families must not contradict each other; an address says its family.
    fn agree(&mut self, ranges: &[Family], causes: &mut Causes) {
        if self.policy == SINGLE {
            for (count, what) in [(self.ips.len(), "cluster IPs"), (self.families.len(), "IP families")] {
                if count == 2 {
                    let detail = format!(
                        "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                    );
                    causes.invalid("spec.ipFamilyPolicy", &json!(self.policy), &detail);
                }
            }
        }
        for (i, ip) in self.ips.iter().enumerate().skip(self.families.len()) {
            let Some(family) = family(ip) else { continue };
            if ranges.contains(&family) {
                self.families.push(family.to_string());
            } else {
                let detail = format!("{family} is not configured on this cluster");
                causes.invalid(format!("spec.clusterIPs[{i}]"), &json!(self.ips), &detail);
            }
        }
    }

    /// The cluster must have what is asked for.
    fn demand(&self, ranges: &[Family], causes: &mut Causes) {
        if self.policy == REQUIRE && ranges.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            causes.invalid("spec.ipFamilyPolicy", &json!(self.policy), detail);
        }
        for (i, family) in self.families.iter().enumerate() {
            if !ranges.iter().any(|range| range.to_string() == *family) {
                let field = format!("spec.ipFamilies[{i}]");
                causes.invalid(field, &json!(family), "not configured on this cluster");
            }
        }
    }

    /// What is wrong whatever the cluster has.
    pub(super) fn validate(&self, causes: &mut Causes) {
        let listed = json!(self.ips);
        match (self.ip.as_str(), self.ips.first()) {
            ("", None) => {}
            ("", Some(_)) => {
                causes.invalid("spec.clusterIPs", &listed, "must be empty when `clusterIP` is not specified");
            }
            (_, None) => causes.required("spec.clusterIPs", ""),
            (ip, Some(first)) if ip != first => {
                causes.invalid("spec.clusterIPs", &listed, "first value must match `clusterIP`");
            }
            _ => {}
        }
        for (i, family) in self.families.iter().enumerate() {
            let field = format!("spec.ipFamilies[{i}]");
            if !FAMILIES.contains(&family.as_str()) {
                causes.not_supported(&field, &json!(family), FAMILIES);
            }
            if self.families[..i].contains(family) {
                causes.duplicate(field, &json!(family));
            }
        }
        if !self.policy.is_empty() && !POLICIES.contains(&self.policy.as_str()) {
            causes.not_supported("spec.ipFamilyPolicy", &json!(self.policy), POLICIES);
        }
        self.validate_ips(causes);
    }

    fn validate_ips(&self, causes: &mut Causes) {
        let listed = json!(self.ips);
        let mut bad = false;
        for (i, ip) in self.ips.iter().enumerate() {
            if i == 0 && ip == NONE {
                if self.ips.len() > 1 {
                    bad = true;
                    causes.invalid("spec.clusterIPs", &listed, "'None' must be the first and only value");
                }
            } else if family(ip).is_none() {
                bad = true;
                causes.invalid(format!("spec.clusterIPs[{i}]"), &json!(ip), podrules::BAD_ADDRESS);
            }
        }
        if self.ips.len() > 2 {
            causes.invalid("spec.clusterIPs", &listed, "may only hold up to 2 values");
        }
        if bad {
            return;
        }
        let both = |ips: &[String]| ips.iter().any(|ip| family(ip) != family(&ips[0]));
        if self.ips.len() > 1 && !both(&self.ips) {
            let detail = "may specify no more than one IP for each IP family";
            causes.invalid("spec.clusterIPs", &listed, detail);
        }
        for (i, (ip, said)) in self.ips.iter().zip(&self.families).enumerate() {
            let is = family(ip).map(|family| family.to_string());
            if is.is_some_and(|is| is != *said) && FAMILIES.contains(&said.as_str()) {
                let detail = format!("expected an {said} value as indicated by `ipFamilies[{i}]`");
                causes.invalid(format!("spec.clusterIPs[{i}]"), &json!(ip), &detail);
            }
        }
    }

    /// What a Service has first it has for good; the second may come and go.
    pub(super) fn validate_update(&self, old: &Self, causes: &mut Causes) {
        if old.is_headless() && self.is_headless() {
            return;
        }
        let fixed = "may not change once set";
        let (was, is, listed) = (&old.ips, &self.ips, json!(self.ips));
        for (i, ip) in was.iter().enumerate() {
            let changed = is.get(i).is_some_and(|new| new != ip);
            if changed && (i == 0 || was.len() == is.len()) {
                causes.invalid(format!("spec.clusterIPs[{i}]"), &listed, fixed);
            }
        }
        if is.is_empty() && !was.is_empty() {
            causes.invalid("spec.clusterIPs[0]", &listed, "primary clusterIP can not be unset");
        }
        if was.len() > 1 && is.len() == 1 && self.policy != SINGLE {
            let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
            causes.invalid("spec.ipFamilyPolicy", &json!(self.policy), detail);
        }
        if old.is_headless() != self.is_headless() {
            return;
        }
        let (was, is) = (&old.families, &self.families);
        let first = was.first().is_some_and(|first| is.first().is_some_and(|new| new != first));
        if first || (was.len() == is.len() && was != is) {
            causes.invalid("spec.ipFamilies[0]", &json!(self.families), fixed);
        }
        if was.len() > 1 && is.len() == 1 && self.policy != SINGLE {
            let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
            causes.invalid("spec.ipFamilyPolicy", &json!(self.policy), detail);
        }
    }
}

/// The family of an address, if it is one.
fn family(ip: &str) -> Option<Family> {
    ip.parse::<IpAddr>().ok().map(Family::of)
}

/// The family by its name in the API.
pub(super) fn named(name: &str) -> Family {
    if name == "IPv6" { Family::V6 } else { Family::V4 }
}

//! What happens to an object between decoding and the store: upstream's defaults, server-made fields, rules.
//!
//! One file per family of kinds; `kinds::rows` points at their hooks. Everything here is pure: the world is
//! seen through [`Surroundings`].

pub(crate) mod apparmor;
pub mod causes;
pub mod config;
pub mod endpoints;
pub(crate) mod ephemeral;
mod families;
mod fields;
pub mod meta;
pub mod namespace;
pub mod networkpolicy;
pub mod node;
pub mod pod;
mod podrules;
mod podspec;
pub(crate) mod resize;
mod resources;
pub mod service;
pub mod storage;
pub mod workload;

use std::collections::BTreeSet;
use std::net::IpAddr;

use orlop_model::net::Family;
use serde_json::Value;

pub use causes::Causes;

/// What hooks may know of the rest of the cluster.
pub trait Surroundings {
    /// An object by store prefix (`serviceaccounts`), namespace (empty for cluster scope) and name.
    fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a store prefix, of every namespace.
    fn all(&self, prefix: &str) -> Vec<Value>;
    /// The families that services have addresses of, the main one first.
    fn service_families(&self) -> Vec<Family>;
    /// A free service address, or the wanted one if it is free; the error is what upstream says.
    fn allocate_ip(&self, family: Family, wanted: Option<IpAddr>) -> Result<IpAddr, String>;
    /// Node ports that services hold.
    fn node_ports(&self) -> BTreeSet<i64>;
    /// Five random characters of upstream's safe alphabet.
    fn random_suffix(&self) -> String;
    /// Now, as objects spell it (`2006-01-02T15:04:05Z`).
    fn now(&self) -> String;
}

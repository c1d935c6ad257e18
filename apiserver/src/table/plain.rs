//! Kinds whose row is little more than a name.

use super::read::{age, at, count, name, selector};
use super::{Printer, text};

/// Every kind that has no printer of its own.
pub(super) const GENERIC: Printer =
    Printer { columns: &[text("Name"), text("Age")], cells: |o, now| vec![name(o), age(o, now)] };

pub(super) const NAMESPACE: Printer = Printer {
    columns: &[text("Name"), text("Status"), text("Age")],
    cells: |o, now| vec![name(o), at(o, "/status/phase").into(), age(o, now)],
};

pub(super) const CONFIG_MAP: Printer = Printer {
    columns: &[text("Name"), text("Data"), text("Age")],
    cells: |o, now| vec![name(o), (count(o, "/data") + count(o, "/binaryData")).into(), age(o, now)],
};

pub(super) const SECRET: Printer = Printer {
    columns: &[text("Name"), text("Type"), text("Data"), text("Age")],
    cells: |o, now| vec![name(o), at(o, "/type").into(), count(o, "/data").into(), age(o, now)],
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[text("Name"), text("Secrets"), text("Age")],
    cells: |o, now| vec![name(o), count(o, "/secrets").into(), age(o, now)],
};

pub(super) const NETWORK_POLICY: Printer = Printer {
    columns: &[text("Name"), text("Pod-Selector"), text("Age")],
    cells: |o, now| vec![name(o), selector(o, "/spec/podSelector").into(), age(o, now)],
};

pub(super) const LEASE: Printer = Printer {
    columns: &[text("Name"), text("Holder"), text("Age")],
    cells: |o, now| vec![name(o), at(o, "/spec/holderIdentity").into(), age(o, now)],
};

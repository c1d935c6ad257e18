//! Things that own pods.

use serde_json::Value;

use super::read::{at, labels, list, number, selector};
use super::{Printer, int, read, text, wide};

pub(super) const DEPLOYMENT: Printer = Printer {
    columns: &[
        text("Name"),
        text("Ready"),
        text("Up-to-date"),
        text("Available"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        vec![
            read::name(o),
            ready_of(o).into(),
            number(o, "/status/updatedReplicas").into(),
            number(o, "/status/availableReplicas").into(),
            read::age(o, now),
            containers(o, "/name").into(),
            containers(o, "/image").into(),
            selector(o, "/spec/selector").into(),
        ]
    },
};

pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        text("Name"),
        int("Desired"),
        int("Current"),
        int("Ready"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        vec![
            read::name(o),
            desired(o).into(),
            number(o, "/status/replicas").into(),
            number(o, "/status/readyReplicas").into(),
            read::age(o, now),
            containers(o, "/name").into(),
            containers(o, "/image").into(),
            selector(o, "/spec/selector").into(),
        ]
    },
};

pub(super) const DAEMON_SET: Printer = Printer {
    columns: &[
        text("Name"),
        int("Desired"),
        int("Current"),
        int("Ready"),
        int("Up-to-date"),
        int("Available"),
        text("Node Selector"),
        text("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o, now| {
        vec![
            read::name(o),
            number(o, "/status/desiredNumberScheduled").into(),
            number(o, "/status/currentNumberScheduled").into(),
            number(o, "/status/numberReady").into(),
            number(o, "/status/updatedNumberScheduled").into(),
            number(o, "/status/numberAvailable").into(),
            labels(o, "/spec/template/spec/nodeSelector").into(),
            read::age(o, now),
            containers(o, "/name").into(),
            containers(o, "/image").into(),
            selector(o, "/spec/selector").into(),
        ]
    },
};

pub(super) const STATEFUL_SET: Printer = Printer {
    columns: &[text("Name"), text("Ready"), text("Age"), wide("Containers"), wide("Images")],
    cells: |o, now| {
        vec![
            read::name(o),
            ready_of(o).into(),
            read::age(o, now),
            containers(o, "/name").into(),
            containers(o, "/image").into(),
        ]
    },
};

pub(super) const SCALE: Printer = Printer {
    columns: &[text("Name"), int("Desired"), int("Available"), text("Age")],
    cells: |o, now| {
        vec![
            read::name(o),
            number(o, "/spec/replicas").into(),
            number(o, "/status/replicas").into(),
            read::age(o, now),
        ]
    },
};

fn desired(o: &Value) -> i64 {
    number(o, "/spec/replicas")
}

fn ready_of(o: &Value) -> String {
    format!("{}/{}", number(o, "/status/readyReplicas"), desired(o))
}

fn containers(o: &Value, field: &str) -> String {
    let all: Vec<&str> = list(o, "/spec/template/spec/containers").iter().map(|c| at(c, field)).collect();
    all.join(",")
}

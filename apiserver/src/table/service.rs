//! Services.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::read::{at, list, number, or, strings};
use super::{Printer, read, text, wide};

pub(super) const PRINTER: Printer = Printer {
    columns: &[
        text("Name"),
        text("Type"),
        text("Cluster-IP"),
        text("External-IP"),
        text("Port(s)"),
        text("Age"),
        wide("Selector"),
    ],
    cells,
};

fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        read::name(service),
        at(service, "/spec/type").into(),
        or(at(service, "/spec/clusterIPs/0"), "<none>").into(),
        external_ip(service).into(),
        ports(service).into(),
        read::age(service, now),
        read::labels(service, "/spec/selector").into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let mut external = strings(service, "/spec/externalIPs");
    match at(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let ingress: BTreeSet<&str> = list(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|i| or(at(i, "/ip"), at(i, "/hostname")))
                .filter(|address| !address.is_empty())
                .collect();
            let mut all: Vec<&str> = ingress.into_iter().collect();
            all.append(&mut external);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => at(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (number_, node, protocol) =
                (number(port, "/port"), number(port, "/nodePort"), at(port, "/protocol"));
            if node > 0 { format!("{number_}:{node}/{protocol}") } else { format!("{number_}/{protocol}") }
        })
        .collect();
    or(&ports.join(","), "<none>").to_owned()
}

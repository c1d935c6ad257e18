//! Endpoints and EndpointSlices: the first three addresses, and how many more.

use serde_json::Value;

use super::read::{at, list, number, strings};
use super::{Printer, read, text};

const SHOWN: usize = 3;

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[text("Name"), text("Endpoints"), text("Age")],
    cells: |endpoints, now| {
        vec![read::name(endpoints), addresses(endpoints).into(), read::age(endpoints, now)]
    },
};

pub(super) const SLICE: Printer = Printer {
    columns: &[text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")],
    cells: |slice, now| {
        let endpoints =
            list(slice, "/endpoints").iter().flat_map(|e| strings(e, "/addresses")).map(str::to_owned);
        vec![
            read::name(slice),
            at(slice, "/addressType").into(),
            shortened(list(slice, "/ports").iter().map(port), "<unset>").into(),
            shortened(endpoints, "<unset>").into(),
            read::age(slice, now),
        ]
    },
};

fn port(port: &Value) -> String {
    match (port.get("port").and_then(Value::as_i64), port.get("name").and_then(Value::as_str)) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    }
}

fn addresses(endpoints: &Value) -> String {
    let subsets = list(endpoints, "/subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let all = subsets.iter().flat_map(|subset| {
        let ips: Vec<&str> = list(subset, "/addresses").iter().map(|a| at(a, "/ip")).collect();
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            ips.into_iter().map(str::to_owned).collect::<Vec<_>>()
        } else {
            ports.iter().flat_map(|p| ips.iter().map(|ip| host_port(ip, number(p, "/port")))).collect()
        }
    });
    shortened(all, "")
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn shortened(all: impl Iterator<Item = String>, empty: &str) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    match (all.is_empty(), more) {
        (true, _) => empty.to_owned(),
        (false, 0) => all.join(","),
        (false, more) => format!("{} + {more} more...", all.join(",")),
    }
}

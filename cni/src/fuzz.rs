//! What strangers' bytes reach first, for fuzzing and for property tests: any bytes get an answer.

use std::collections::BTreeMap;

use crate::{
    names::Mac,
    network::{Attached, Attachment},
    runtime::conf,
    spec::{self, Environment, Request},
};

/// A runtime's configuration for the plugin, asked for every command; what `ADD` would answer can be written.
pub fn request(text: &[u8]) {
    let Ok(config) = spec::config(text) else { return };
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let pairs = [("COMMAND", command), ("CONTAINERID", "c1"), ("IFNAME", "eth0"), ("NETNS", "/x")];
        let pairs = pairs.map(|(name, value)| (format!("CNI_{name}"), value.to_owned()));
        if let Ok(Request::Add(attachment)) = config.request(&Environment(BTreeMap::from(pairs))) {
            answer(&config, &attachment);
        }
    }
}

fn answer(config: &spec::Config, attachment: &Attachment) {
    let addresses = vec![[10, 244, 1, 2].into()];
    let mac = Mac::for_addresses(&addresses);
    let attached = Attached { addresses, interface: "eth0".into(), mac, mtu: 1500, only: Vec::new() };
    let previous = config.prev_result.as_ref();
    let dns = config.dns.as_ref();
    if let Ok(result) = spec::add_result(config.version(), attachment, &attached, dns, previous) {
        assert_eq!(result["cniVersion"], config.cni_version);
    }
}

/// The variables of a runtime: a line each.
pub fn environment(text: &str) {
    const CONFIG: &[u8] = br#"{"cniVersion":"1.1.0","name":"n","podCIDR":"10.0.0.0/24"}"#;
    let Ok(config) = spec::config(CONFIG) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let environment = Environment(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    if let Ok(Request::Add(attachment)) = config.request(&environment) {
        assert!(attachment.uid.starts_with("n/"));
    }
}

/// A network's configuration file; a list that is read from it reads back from its own text.
pub fn conf(text: &[u8]) {
    for name in ["a.conf", "a.conflist"] {
        if let Ok(list) = conf::parse(name.as_ref(), text) {
            assert_eq!(conf::parse("a.conflist".as_ref(), &list.text), Ok(list));
        }
    }
}

/// A plugin's result.
pub fn result(text: &[u8]) {
    if let Ok(value) = serde_json::from_slice(text)
        && let Ok(result) = spec::pod_result(&value, "eth0")
    {
        assert!(result.addresses.len() <= text.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "[\\[\\]{}\":,a-z0-9./ _-]{0,160}", lines in "(CNI_[A-Z]{2,9}=[ -~]{0,20}\n){0,6}") {
            super::request(text.as_bytes());
            super::conf(text.as_bytes());
            super::result(text.as_bytes());
            super::environment(&lines);
        }
    }
}

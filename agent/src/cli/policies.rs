//! `orlop policies`: which NetworkPolicies select which pods of this node, and what they let through and kept out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
};

use anyhow::{Context as _, Result};
use orlop_dataplane::{
    Hits,
    policy::{
        model::Direction,
        tables::{Names, Tables},
    },
};

use super::table;
use orlop::{args::DirArgs, policy_names};

/// Prints a row per pod of the node, direction and policy.
///
/// # Errors
/// When no dataplane has pinned its maps there, or the names cannot be read.
pub(crate) fn policies(dirs: &DirArgs) -> Result<()> {
    let bpffs = dirs.run_dir.join("bpf");
    let read = || format!("read the maps pinned in {}", bpffs.display());
    let (tables, hits) = orlop_dataplane::policies(&bpffs).with_context(read)?;
    let names = policy_names::read(&dirs.run_dir).context("read what policies are called")?;
    let here = orlop_runtime::list(&dirs.run_dir).into_iter().filter(|sandbox| sandbox.netns.is_some());
    let here = here.map(|sandbox| format!("{}/{}", sandbox.pod.namespace, sandbox.pod.name)).collect();
    let header = ["POD", "ADDRESSES", "DIRECTION", "POLICY", "ALLOWED-FLOWS", "DENIED-PACKETS"];
    let text = table(&header, &rows(&tables, &hits, &names, here));
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

/// Pods with the same rules and the same name are one, whatever addresses they have. What a policy allowed is counted
/// for all pods of the node, what was denied for all that have the same rules: nobody in particular denied it.
fn rows(
    tables: &Tables,
    hits: &BTreeMap<u32, Hits>,
    names: &Names,
    mut here: BTreeSet<String>,
) -> Vec<Vec<String>> {
    let numbers: BTreeMap<_, _> = names.policies.iter().map(|(number, key)| (key, number)).collect();
    let of = |number: &u32| hits.get(number).copied().unwrap_or_default();
    let mut pods = BTreeMap::<_, Vec<String>>::new();
    for (ip, subject) in &tables.subjects {
        let pod = names.pods.get(ip).map_or_else(|| "?".to_owned(), ToString::to_string);
        here.remove(&pod);
        pods.entry((pod, *subject)).or_default().push(ip.to_string());
    }
    let mut rows = Vec::new();
    for ((pod, subject), ips) in pods {
        for way in Direction::ALL {
            let set = subject.set(way);
            let selecting: Vec<_> = match names.sets.get(&set) {
                _ if set == 0 => continue,
                Some((_, keys)) => keys.iter().collect(),
                None => Vec::new(),
            };
            let mut row = |policy: String, allowed: String, denied: String| {
                rows.push(vec![pod.clone(), ips.join(","), way.to_string(), policy, allowed, denied]);
            };
            if selecting.is_empty() {
                row("?".to_owned(), "?".to_owned(), of(&set).denied.to_string());
            }
            for (nth, key) in selecting.into_iter().enumerate() {
                let allowed = numbers.get(key).map_or(0, |number| of(number).allowed);
                let denied = if nth == 0 { of(&set).denied.to_string() } else { String::new() };
                row(key.to_string(), allowed.to_string(), denied);
            }
        }
    }
    let free =
        here.into_iter().map(|pod| [pod.as_str(), "", "", "<none>", "", ""].map(str::to_owned).to_vec());
    rows.extend(free);
    rows
}

#[cfg(test)]
mod tests {
    use orlop_dataplane::policy::{model::Key, tables::Subject};

    use super::*;

    #[test]
    fn a_row_is_a_pod_a_direction_and_a_policy() {
        let key = |name: &str| Key { namespace: "shop".into(), name: name.into() };
        let mut tables = Tables::default();
        for ip in ["10.0.0.1", "fd00::1"] {
            tables.subjects.insert(ip.parse().unwrap(), Subject { ingress: 7, egress: 8 });
        }
        tables.subjects.insert("10.0.0.2".parse().unwrap(), Subject { ingress: 9, egress: 0 });
        let mut names = Names::default();
        names.policies.extend([(1, key("deny")), (2, key("friends"))]);
        names.sets.insert(7, (Direction::Ingress, [key("deny"), key("friends")].into()));
        names.sets.insert(8, (Direction::Egress, [key("deny")].into()));
        names.pods.extend(["10.0.0.1", "fd00::1"].map(|ip| (ip.parse().unwrap(), key("web"))));
        let hits = |allowed, denied| Hits { allowed, denied };
        let hits = [(2, hits(5, 0)), (7, hits(0, 3)), (9, hits(0, 4))].into();
        let here = ["shop/web", "shop/db"].map(str::to_owned).into();
        let header = ["POD", "ADDRESSES", "WAY", "POLICY", "ALLOWED", "DENIED"];
        expect_test::expect![[r"
            POD        ADDRESSES          WAY       POLICY         ALLOWED   DENIED
            ?          10.0.0.2           ingress   ?              ?         4
            shop/web   10.0.0.1,fd00::1   ingress   shop/deny      0         3
            shop/web   10.0.0.1,fd00::1   ingress   shop/friends   5
            shop/web   10.0.0.1,fd00::1   egress    shop/deny      0         0
            shop/db                                 <none>
        "]]
        .assert_eq(&table(&header, &rows(&tables, &hits, &names, here)));
    }
}

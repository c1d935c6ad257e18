//! kube-proxy's tables of nftables, from `nft list tables`, and the `nft -f` script that removes them.
//!
//! The kernel translates packets of connections under way only while some chain of type nat is there, and tracks them only
//! while some rule asks it to: without, it stops in the middle of them. So an empty chain of ours takes the place of
//! kube-proxy's, beside one that nothing leads to.

use std::fmt::Write as _;

/// The table that keeps the kernel translating.
pub const KEEPER: &str = "orlop-established";

/// What removes kube-proxy's tables, in one transaction; `None` if there are none.
#[must_use]
pub fn plan(tables: &str) -> Option<String> {
    let mut script = String::new();
    for family in ["ip", "ip6"] {
        if has(tables, family, "kube-proxy") {
            // Writing into a string cannot fail.
            let _written = write!(
                script,
                "add table {family} {KEEPER}\n\
                 add chain {family} {KEEPER} nat {{ type nat hook postrouting priority srcnat; policy accept; }}\n\
                 add chain {family} {KEEPER} track\n\
                 flush chain {family} {KEEPER} track\n\
                 add rule {family} {KEEPER} track ct state established return\n\
                 delete table {family} kube-proxy\n"
            );
        }
    }
    (!script.is_empty()).then_some(script)
}

/// What removes our own table again; `None` if it is not there.
#[must_use]
pub fn uninstall(tables: &str) -> Option<String> {
    let families = ["ip", "ip6"].into_iter().filter(|family| has(tables, family, KEEPER));
    let script: String = families.map(|family| format!("delete table {family} {KEEPER}\n")).collect();
    (!script.is_empty()).then_some(script)
}

fn has(tables: &str, family: &str, name: &str) -> bool {
    tables.lines().any(|line| line.split_whitespace().eq(["table", family, name]))
}

#[cfg(test)]
mod tests {
    use super::{plan, uninstall};

    #[test]
    fn its_tables_go_and_leave_a_chain_that_keeps_connections() {
        let tables = "table ip nat\ntable ip6 kube-proxy\ntable ip kube-proxy-2\ntable inet kube-proxy\n";
        let chain = "add chain ip6 orlop-established nat { type nat hook postrouting priority srcnat; policy accept; }";
        let track = "add chain ip6 orlop-established track\nflush chain ip6 orlop-established track\n\
                     add rule ip6 orlop-established track ct state established return";
        let wanted =
            format!("add table ip6 orlop-established\n{chain}\n{track}\ndelete table ip6 kube-proxy\n");
        assert_eq!(plan(tables), Some(wanted));
        assert_eq!(plan("table ip nat\n"), None);
        assert_eq!(plan(""), None);
    }

    #[test]
    fn nothing_of_ours_is_left_behind() {
        let tables = "table ip orlop-established\ntable ip nat\n";
        assert_eq!(uninstall(tables).as_deref(), Some("delete table ip orlop-established\n"));
        assert_eq!(uninstall("table ip nat\n"), None);
    }
}

//! Which program is run where, and what cannot be looked at for want of one.

use std::path::{Path, PathBuf};

/// Where system programs are: here if nobody said so, and of the host nowhere else.
pub(super) const SYSTEM: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A program's file, and whose root it is below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Ours.
    Here(PathBuf),
    /// The host's, for one in a container.
    OnHost(PathBuf),
}

/// Here as a shell would find it, then where system programs are, then on the host.
pub(super) fn place(
    program: &str,
    path: &[PathBuf],
    here: impl Fn(&Path) -> bool,
    on_host: impl Fn(&Path) -> bool,
) -> Option<Place> {
    let system = || SYSTEM.iter().map(|dir| Path::new(dir).join(program));
    let mut own = path.iter().map(|dir| dir.join(program)).chain(system());
    let own = own.find(|file| here(file)).map(Place::Here);
    own.or_else(|| system().find(|file| on_host(file)).map(Place::OnHost))
}

/// Whether a file may be run on the host: a system program, by a name that leads nowhere else.
pub(super) fn is_system(file: &Path) -> bool {
    let dir = file.parent().and_then(Path::to_str);
    file.file_name().is_some() && dir.is_some_and(|dir| SYSTEM.contains(&dir))
}

/// The programs that a family has: the kernel has two sets of rules, each with its own.
pub(super) fn variants(family: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let named = ["legacy", "nft"].map(|kind| format!("{family}-{kind}"));
    let mut found: Vec<_> = named.into_iter().filter(|name| is_there(&format!("{name}-save"))).collect();
    if found.is_empty() && is_there(&format!("{family}-save")) {
        found.push(family.to_owned());
    }
    found
}

/// What is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blind {
    /// These rule sets; others are.
    Partly(Vec<&'static str>),
    /// Any.
    Wholly,
}

/// The programs without which a rule set stays unseen; `None` if all are there.
pub(super) fn blind(is_there: impl Fn(&str) -> bool) -> Option<Blind> {
    const SETS: [(&str, &str); 3] = [
        ("iptables", "chains of iptables (no iptables-save)"),
        ("ip6tables", "chains of ip6tables (no ip6tables-save)"),
        ("nft", "tables of nftables (no nft)"),
    ];
    let sees = |set: &str| if set == "nft" { is_there(set) } else { !variants(set, &is_there).is_empty() };
    let unseen: Vec<_> = SETS.iter().filter(|(set, _)| !sees(set)).map(|(_, words)| *words).collect();
    match unseen.len() {
        0 => None,
        all if all == SETS.len() => Some(Blind::Wholly),
        _ => Some(Blind::Partly(unseen)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// `here` and `host` list files; shows where each program that the clean-up may want is run.
    fn check(path: &[&str], here: &[&str], host: &[&str], expected: Expect) {
        let path: Vec<_> = path.iter().map(PathBuf::from).collect();
        let has = |files: &[&str], file: &Path| files.iter().any(|one| Path::new(one) == file);
        let find = |program: &str| place(program, &path, |file| has(here, file), |file| has(host, file));
        let is_there = |program: &str| find(program).is_some();
        let families = ["iptables", "ip6tables"].into_iter().flat_map(|family| variants(family, is_there));
        let programs = families.flat_map(|name| [format!("{name}-save"), format!("{name}-restore")]);
        let mut lines: Vec<_> = programs
            .chain(["nft", "ipvsadm"].map(str::to_owned))
            .filter_map(|program| find(&program))
            .map(|place| match place {
                Place::Here(file) => format!("here {}", file.display()),
                Place::OnHost(file) => format!("host {}", file.display()),
            })
            .collect();
        lines.extend(blind(is_there).map(|blind| format!("{blind:?}")));
        expected.assert_eq(&lines.join("\n"));
    }

    const DEBIAN: [&str; 7] = [
        "/usr/sbin/iptables-legacy-save",
        "/usr/sbin/iptables-legacy-restore",
        "/usr/sbin/iptables-nft-save",
        "/usr/sbin/iptables-nft-restore",
        "/usr/sbin/iptables-save",
        "/usr/sbin/ip6tables-save",
        "/usr/sbin/nft",
    ];

    #[test]
    fn an_empty_image_runs_what_the_host_has() {
        check(
            &[],
            &[],
            &DEBIAN,
            expect![[r#"
                host /usr/sbin/iptables-legacy-save
                host /usr/sbin/iptables-legacy-restore
                host /usr/sbin/iptables-nft-save
                host /usr/sbin/iptables-nft-restore
                host /usr/sbin/ip6tables-save
                host /usr/sbin/nft"#]],
        );
    }

    #[test]
    fn ones_own_programs_go_first_and_by_the_path() {
        check(
            &["/opt/bin"],
            &["/opt/bin/iptables-save", "/opt/bin/iptables-restore", "/sbin/iptables-save", "/bin/nft"],
            &["/usr/sbin/nft", "/sbin/ip6tables-save"],
            expect![[r#"
                here /opt/bin/iptables-save
                here /opt/bin/iptables-restore
                host /sbin/ip6tables-save
                here /bin/nft"#]],
        );
    }

    #[test]
    fn the_path_says_nothing_of_the_host() {
        check(&["/opt/bin"], &[], &["/opt/bin/nft", "/opt/bin/iptables-save"], expect!["Wholly"]);
    }

    #[test]
    fn what_is_not_looked_at_is_named() {
        check(
            &[],
            &["/sbin/nft"],
            &["/sbin/ip6tables-legacy-save"],
            expect![[r#"
                host /sbin/ip6tables-legacy-save
                here /sbin/nft
                Partly(["chains of iptables (no iptables-save)"])"#]],
        );
    }

    #[test]
    fn only_system_programs_are_run_on_the_host() {
        let is_system = |file: &str| super::is_system(Path::new(file));
        assert!(is_system("/usr/sbin/nft") && is_system("/bin/ip"));
        for other in ["nft", "/nft", "/usr/sbin/../../tmp/nft", "/usr/sbin/..", "/usr/sbin", "/tmp/nft", ""] {
            assert!(!is_system(other), "{other:?}");
        }
    }
}

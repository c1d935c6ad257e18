//! Taking kube-proxy's place while connections run: removes what it left in netfilter and IPVS, and nothing else.
//!
//! ```text
//! nft list tables ─▶ nftables::plan ─▶ nft -f
//! ipvsadm, ipset, ip ─▶ ipvs::plan ─▶ the same                      (what has no connections; the rest when nothing has any)
//! iptables-save ─▶ iptables::plan ─▶ iptables-restore --noflush     (each variant, each family, table by table)
//! ```
//! Idempotent: what is not there is not missed. What cannot be looked at, because no program for it is installed, is named.
//! Connections that kube-proxy began are netfilter's until they end: the packet programs leave packets alone that are in
//! the middle of a connection they do not know.
//! Not for: deciding when (only once our programs stand where its rules did), or ending kube-proxy itself.

use std::io;
use std::path::Path;

use rustix::net::{self, AddressFamily, SocketType};

use crate::loader;
use crate::maps::{MapError, seen};

mod conntrack;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
mod place;
mod programs;
pub mod reserve;

pub use programs::{ON_HOST, on_host};

use place::Blind;
use programs::Programs;

/// Keeps our programs from giving out ports that connections of netfilter's to services answer to. Says how many those are.
///
/// # Errors
/// When they cannot be read, or remembered.
pub fn reserve(bpffs: &Path) -> Result<usize, ReserveError> {
    let tracked = conntrack::list().map_err(ReserveError::List)?;
    let reserved: Vec<_> = reserve::reserve(tracked).collect();
    seen::reserve(&loader::pins(bpffs), &reserved)?;
    Ok(reserved.len())
}

/// Why ports in use could not be kept apart.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Who has them.
    #[error("list the connections that netfilter tracks")]
    List(#[source] io::Error),
    /// The table of ours.
    #[error(transparent)]
    Maps(#[from] MapError),
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// What was removed.
    pub removed: Vec<String>,
    /// What stays for now, and why.
    pub waiting: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
    /// What could not be read or removed.
    pub failures: Vec<String>,
    /// What was not looked at for want of a program, while other things were.
    pub unseen: Vec<String>,
}

impl Report {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.removed.is_empty() && self.waiting.is_empty() && self.failures.is_empty()
    }
}

/// Somebody else may change the rules between reading and writing.
const TRIES: usize = 3;

/// Removes kube-proxy's rules from the network namespace of the calling thread. Every step is tried; but what masquerades for
/// IPVS stays as long as that has connections, or does not say.
#[must_use]
pub fn clean_up() -> Report {
    let programs = Programs::look();
    let mut report = Report::default();
    nftables(&programs, nftables::plan, "nftables: the tables kube-proxy", &mut report);
    match virtual_services(&programs, &mut report) {
        Ok(last) => {
            for variant in variants(&programs) {
                iptables(&programs, &variant, &mut report);
            }
            for command in last {
                // A set that a chain uses which stays for somebody else.
                if let Err(error) = do_one(&programs, &command, &mut report) {
                    report.kept.push(error);
                }
            }
        }
        Err(error) => report.failures.extend(error),
    }
    match place::blind(|program| programs.is_there(program)) {
        None => {}
        Some(Blind::Partly(sets)) => {
            report.unseen.extend(sets.iter().map(|set| format!("{set} {}", programs.places())));
        }
        Some(Blind::Wholly) => report.failures.push(format!(
            "neither iptables-save nor nft is to be found {}: end kube-proxy by its own `kube-proxy --cleanup`, or install them",
            programs.places()
        )),
    }
    report
}

/// Removes what a take-over left in place for connections that were under way.
///
/// # Errors
/// In words, when it is there and cannot be removed.
pub fn uninstall() -> Result<(), String> {
    let programs = Programs::look();
    let mut report = Report::default();
    nftables(&programs, nftables::uninstall, "nftables: the tables of a take-over", &mut report);
    for variant in variants(&programs) {
        let script = programs
            .output(&format!("{variant}-save"), &[], "")
            .and_then(|saved| iptables::uninstall(&saved).map_err(|error| error.to_string()));
        let done = script.and_then(|script| match script {
            Some(script) => restore(&programs, &variant, &script),
            None => Ok(()),
        });
        report.failures.extend(done.err().map(|error| format!("{variant}: {error}")));
    }
    if report.failures.is_empty() { Ok(()) } else { Err(report.failures.join("; ")) }
}

fn variants(programs: &Programs) -> Vec<String> {
    let of_family = |family| place::variants(family, |program| programs.is_there(program));
    ["iptables", "ip6tables"].into_iter().flat_map(of_family).collect()
}

fn iptables(programs: &Programs, variant: &str, report: &mut Report) {
    let mut kept = Vec::new();
    let mut failed = None;
    for _ in 0..TRIES {
        failed = None;
        kept.clear();
        let saved = programs.output(&format!("{variant}-save"), &[], "");
        let plans = saved.and_then(|saved| iptables::plan(&saved).map_err(|error| error.to_string()));
        let plans = match plans {
            Ok(plans) => plans,
            Err(error) => {
                failed = Some(format!("{variant}: {error}"));
                continue;
            }
        };
        for plan in plans {
            kept.extend(plan.kept.iter().map(|(chain, why)| format!("{variant}: {chain}: {why}")));
            if plan.script.is_empty() {
                continue;
            }
            match restore(programs, variant, &plan.script) {
                Ok(()) => report.removed.push(format!("{variant}: its chains of the table {}", plan.table)),
                Err(error) => failed = Some(format!("{variant}: table {}: {error}", plan.table)),
            }
        }
        if failed.is_none() {
            break;
        }
    }
    report.kept.extend(kept);
    report.failures.extend(failed);
}

fn restore(programs: &Programs, variant: &str, script: &str) -> Result<(), String> {
    programs.output(&format!("{variant}-restore"), &["--noflush", "-w", "5"], script).map(drop)
}

fn nftables(programs: &Programs, plan: fn(&str) -> Option<String>, what: &str, report: &mut Report) {
    if !programs.is_there("nft") {
        return;
    }
    let done = programs.output("nft", &["list", "tables"], "").and_then(|tables| match plan(&tables) {
        Some(script) => programs.output("nft", &["-f", "-"], &script).map(|_| true),
        None => Ok(false),
    });
    match done {
        Ok(removed) => report.removed.extend(removed.then(|| what.to_owned())),
        Err(error) => report.failures.push(format!("nftables: {error}")),
    }
}

/// Removes the virtual services that have no connections. What is to be done when the rules beside them are gone; an error if
/// those must not go yet, which says so if it is one.
fn virtual_services(programs: &Programs, report: &mut Report) -> Result<Vec<Vec<String>>, Option<String>> {
    if !has_device() {
        return Ok(Vec::new());
    }
    let printed = || {
        let addresses = programs.output("ip", &["-o", "address", "show", "dev", ipvs::DEVICE], "")?;
        // Without sets there are no node ports; without virtual services the device is all there is.
        let sets =
            if programs.is_there("ipset") { programs.output("ipset", &["save"], "")? } else { String::new() };
        let list = |more: &[&str]| programs.output("ipvsadm", &[&["-L", "-n"], more].concat(), "");
        Ok::<_, String>((addresses, sets, list(&[])?, list(&["-c"])?))
    };
    let (addresses, sets, services, connections) =
        printed().map_err(|error| Some(format!("IPVS: {error}")))?;
    let plan = ipvs::plan(&ipvs::Seen {
        addresses: &addresses,
        sets: &sets,
        services: &services,
        connections: &connections,
    });
    report
        .waiting
        .extend(plan.waiting.iter().map(|at| format!("IPVS: {at} until its connections have ended")));
    for command in plan.idle {
        if let Err(error) = do_one(programs, &command, report) {
            report.failures.push(error);
        }
    }
    if plan.waiting.is_empty() { Ok(plan.last) } else { Err(None) }
}

/// Asked of the namespace, not of `/sys`, which may be another's.
fn has_device() -> bool {
    let socket = net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    socket.is_ok_and(|socket| net::netdevice::name_to_index(socket, ipvs::DEVICE).is_ok())
}

fn do_one(programs: &Programs, command: &[String], report: &mut Report) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    programs.output(program, &arguments, "").map_err(|error| format!("IPVS: {error}"))?;
    report.removed.push(format!("IPVS: {}", command.join(" ")));
    Ok(())
}

//! Taking kube-proxy's place while connections run: removes what it left in netfilter and IPVS, and nothing else.
//!
//! ```text
//! iptables-save ─▶ iptables::plan ─▶ iptables-restore --noflush     (each variant, each family, table by table)
//! nft list tables ─▶ nftables::plan ─▶ nft -f
//! ipvsadm, ipset, ip ─▶ ipvs::plan ─▶ the same
//! ```
//! Idempotent: what is not there is not missed. Programs that are not installed are not asked. Connections that kube-proxy
//! began are netfilter's until they end: the packet programs leave packets alone that are in the middle of a connection
//! they do not know.
//! Not for: deciding when (only once our programs stand where its rules did), or ending kube-proxy itself.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::loader;
use crate::maps::{MapError, seen};

mod conntrack;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
pub mod reserve;

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
    /// What stays, and why.
    pub kept: Vec<String>,
    /// What could not be read or removed.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.removed.is_empty() && self.failures.is_empty()
    }
}

/// Somebody else may change the rules between reading and writing.
const TRIES: usize = 3;

/// Removes kube-proxy's rules from the network namespace of the calling thread. Every step is tried.
#[must_use]
pub fn clean_up() -> Report {
    let mut report = Report::default();
    for family in ["iptables", "ip6tables"] {
        for variant in variants(family) {
            iptables(&variant, &mut report);
        }
    }
    nftables(nftables::plan, "nftables: the tables kube-proxy", &mut report);
    ipvs(&mut report);
    report
}

/// Removes what a take-over left in place for connections that were under way.
///
/// # Errors
/// In words, when it is there and cannot be removed.
pub fn uninstall() -> Result<(), String> {
    let mut report = Report::default();
    nftables(nftables::uninstall, "nftables: the tables of a take-over", &mut report);
    for variant in ["iptables", "ip6tables"].iter().flat_map(|family| variants(family)) {
        let script = output(&format!("{variant}-save"), &[], "")
            .and_then(|saved| iptables::uninstall(&saved).map_err(|error| error.to_string()));
        let done = script.and_then(|script| match script {
            Some(script) => restore(&variant, &script),
            None => Ok(()),
        });
        report.failures.extend(done.err().map(|error| format!("{variant}: {error}")));
    }
    if report.failures.is_empty() { Ok(()) } else { Err(report.failures.join("; ")) }
}

/// The programs that a family has: the kernel has two sets of rules, each with its own.
fn variants(family: &str) -> Vec<String> {
    let named = ["legacy", "nft"].map(|kind| format!("{family}-{kind}"));
    let mut found: Vec<_> = named.into_iter().filter(|name| is_there(&format!("{name}-save"))).collect();
    if found.is_empty() && is_there(&format!("{family}-save")) {
        found.push(family.to_owned());
    }
    found
}

fn iptables(variant: &str, report: &mut Report) {
    let mut kept = Vec::new();
    let mut failed = None;
    for _ in 0..TRIES {
        failed = None;
        kept.clear();
        let saved = output(&format!("{variant}-save"), &[], "");
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
            match restore(variant, &plan.script) {
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

fn restore(variant: &str, script: &str) -> Result<(), String> {
    output(&format!("{variant}-restore"), &["--noflush", "-w", "5"], script).map(drop)
}

fn nftables(plan: fn(&str) -> Option<String>, what: &str, report: &mut Report) {
    if !is_there("nft") {
        return;
    }
    let done = output("nft", &["list", "tables"], "").and_then(|tables| match plan(&tables) {
        Some(script) => output("nft", &["-f", "-"], &script).map(|_| true),
        None => Ok(false),
    });
    match done {
        Ok(removed) => report.removed.extend(removed.then(|| what.to_owned())),
        Err(error) => report.failures.push(format!("nftables: {error}")),
    }
}

fn ipvs(report: &mut Report) {
    if !Path::new("/sys/class/net").join(ipvs::DEVICE).exists() {
        return;
    }
    let printed = || {
        let addresses = output("ip", &["-o", "address", "show", "dev", ipvs::DEVICE], "")?;
        // Without sets there are no node ports; without virtual services the device is all there is.
        let sets = if is_there("ipset") { output("ipset", &["save"], "")? } else { String::new() };
        let services = output("ipvsadm", &["-L", "-n"], "")?;
        Ok::<_, String>((addresses, sets, services))
    };
    let (addresses, sets, services) = match printed() {
        Ok(printed) => printed,
        Err(error) => return report.failures.push(format!("IPVS: {error}")),
    };
    let plan = ipvs::plan(&ipvs::Seen { addresses: &addresses, sets: &sets, services: &services });
    report.kept.extend(plan.waiting.iter().map(|at| format!("IPVS: {at} until its connections have ended")));
    for command in plan.commands {
        let Some((program, arguments)) = command.split_first() else { continue };
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        match output(program, &arguments, "") {
            Ok(_) => report.removed.push(format!("IPVS: {}", command.join(" "))),
            Err(error) => report.failures.push(format!("IPVS: {error}")),
        }
    }
}

/// Runs a program and gives what it prints; the error is what it says of itself.
fn output(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let run = || -> io::Result<_> {
        let mut child = Command::new(find(program).ok_or(io::ErrorKind::NotFound)?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        // One that ended before it read all says why itself.
        let _told = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|_| format!("{program}: what it prints is no text"));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}: {}", output.status, said.trim()))
}

fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// As a shell would, and where system programs are if that was not said.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

//! `orlop services`, `connections`, `explain`: what the kernel's maps hold and would decide, in words.

use std::{
    fmt::Display,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use orlop_dataplane::{explain::Packet, model::Protocol};

use orlop::{args::DirArgs, policy_names};

/// Prints the services of the node in `dirs`.
///
/// # Errors
/// When no dataplane has pinned its maps there.
pub(crate) fn services(dirs: &DirArgs) -> Result<()> {
    let bpffs = bpffs(dirs);
    print(orlop_dataplane::describe(&bpffs).with_context(|| read(&bpffs))?)
}

/// Prints the connections of the node in `dirs`.
///
/// # Errors
/// As above.
pub(crate) fn connections(dirs: &DirArgs) -> Result<()> {
    let bpffs = bpffs(dirs);
    print(orlop_dataplane::connections(&bpffs).with_context(|| read(&bpffs))?)
}

/// Prints what would become of a packet.
///
/// # Errors
/// As above, and for a protocol that no service can have.
pub(crate) fn explain(source: IpAddr, destination: SocketAddr, protocol: &str, dirs: &DirArgs) -> Result<()> {
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => bail!("--protocol {other:?}: must be tcp, udp or sctp"),
    };
    let bpffs = bpffs(dirs);
    let packet = Packet { source, destination, protocol };
    let names = policy_names::read(&dirs.run_dir).context("read what policies are called")?;
    let explained = orlop_dataplane::explain_pinned(&bpffs, &packet, &names).with_context(|| read(&bpffs));
    let (explanation, policies) = explained?;
    let mut out = std::io::stdout().lock();
    write!(out, "{explanation}").context("print")?;
    policies.iter().try_for_each(|judgement| write!(out, "{judgement}")).context("print")
}

fn bpffs(dirs: &DirArgs) -> PathBuf {
    dirs.run_dir.join("bpf")
}

fn read(bpffs: &std::path::Path) -> String {
    format!("read the maps pinned in {}", bpffs.display())
}

fn print(lines: impl IntoIterator<Item = impl Display>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    lines.into_iter().try_for_each(|line| writeln!(out, "{line}")).context("print")
}

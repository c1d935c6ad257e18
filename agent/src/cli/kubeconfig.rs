//! `orlop kubeconfig`: a new client certificate of the standalone cluster's CA, as a kubeconfig on standard output.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kube::config::Kubeconfig;
use orlop_apiserver::pki::Pki;

use orlop::args::KubeconfigArgs;

/// Prints the kubeconfig.
///
/// # Errors
/// When there is no cluster in the state directory.
pub(crate) fn kubeconfig(args: &KubeconfigArgs) -> Result<()> {
    let data = args.dirs.state_dir.join("apiserver/pki");
    anyhow::ensure!(
        data.join("ca.key").exists(),
        "no cluster in {}: {} has no CA",
        args.dirs.state_dir.display(),
        data.display()
    );
    let pki =
        Pki::open(&data, Timestamp::now()).with_context(|| format!("open the keys in {}", data.display()))?;
    let server = match &args.server {
        Some(server) => server.clone(),
        None => admin_server(args)?,
    };
    let leaf =
        pki.issue_client(&args.user, &args.groups, Timestamp::now()).context("issue a client certificate")?;
    let text = orlop_apiserver::pki::kubeconfig::render(
        &server,
        &args.user,
        pki.ca_pem(),
        &leaf.cert_pem,
        &leaf.key_pem,
    );
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

fn admin_server(args: &KubeconfigArgs) -> Result<String> {
    let path = args.dirs.state_dir.join("admin.kubeconfig");
    let admin =
        Kubeconfig::read_from(&path).with_context(|| format!("read {}; or give --server", path.display()))?;
    let cluster = admin.clusters.into_iter().next().and_then(|named| named.cluster);
    cluster.and_then(|cluster| cluster.server).with_context(|| format!("{} names no server", path.display()))
}

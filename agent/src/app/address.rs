//! The node's addresses when they change: the process begins anew with those it has then.
//!
//! A start costs a second and touches neither pods nor connections, so nothing that has learned an address has to unlearn
//! it: certificates, routes, the Node's status, masquerade. Not for: choosing (`node::address`).

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use orlop::{
    config::{Config, look_for_addresses},
    node::address::{Wanted, moved},
};
use tokio_util::sync::CancellationToken;

/// How often is looked; a change counts when it is seen twice.
const LOOK: Duration = Duration::from_secs(5);

/// How a mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As it was told to.
    Stopped,
    /// To be begun anew, by the same process.
    Anew,
}

/// Runs a mode until it ends, or the node's addresses are others than those it was begun with.
///
/// # Errors
/// What the mode ended with.
pub(crate) async fn until_moved(
    known: Vec<IpAddr>,
    wanted: Option<Wanted>,
    stop: CancellationToken,
    mode: impl Future<Output = Result<()>>,
) -> Result<Ending> {
    let mut mode = std::pin::pin!(mode);
    let now = tokio::select! {
        ended = &mut mode => return ended.map(|()| Ending::Stopped),
        now = other_addresses(&known, wanted) => now,
    };
    tracing::warn!(?known, ?now, "the node's addresses are others: beginning anew; pods and services go on");
    stop.cancel();
    mode.await.map(|()| Ending::Anew)
}

async fn other_addresses(known: &[IpAddr], wanted: Option<Wanted>) -> Vec<IpAddr> {
    let Some(wanted) = wanted else { return std::future::pending().await };
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(sight) = tokio::task::spawn_blocking(look_for_addresses).await else { continue };
        match (moved(known, &sight, wanted), &before) {
            (Some(now), Some(before)) if now == *before => return now,
            (now, _) => before = now,
        }
    }
}

/// Addresses of a configuration that has to have some.
///
/// # Errors
/// When it has none.
pub(crate) fn needed(config: &Config) -> Result<()> {
    anyhow::ensure!(
        !config.node_ips.is_empty(),
        "--node-ip is needed: the machine has no address that others know"
    );
    Ok(())
}

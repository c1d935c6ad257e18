//! `--cleanup-kube-proxy`: once our programs stand where kube-proxy's rules did, those go.
//!
//! Looks again every minute until two looks found nothing: kube-proxy may be running still, and IPVS has connections to wait
//! for. Never before the services are in the maps and the programs at every device.

use std::{future::pending, time::Duration};

use orlop_dataplane::{
    Status,
    kube_proxy::{Report, clean_up},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

const AGAIN: Duration = Duration::from_secs(60);
/// Looks that find nothing before it is over.
const CLEAN: u32 = 2;

/// Does it if it is `wanted`. Does not end: what it waits for may never come.
pub(super) async fn run(wanted: bool, mut status: watch::Receiver<Status>) {
    let mut known = Report::default();
    let mut clean = 0;
    while wanted && clean < CLEAN {
        if status.wait_for(in_place).await.is_err() {
            break;
        }
        let report = spawn_blocking(clean_up).await.unwrap_or_default();
        clean = if report.is_clean() { clean + 1 } else { 0 };
        tell(&report, &known);
        known = report;
        sleep(AGAIN).await;
    }
    pending().await
}

/// Whether nothing would be missed of kube-proxy's rules.
fn in_place(status: &Status) -> bool {
    status.synced && status.placed && status.bare_devices.is_empty()
}

fn tell(report: &Report, known: &Report) {
    for what in &report.removed {
        tracing::info!(what, "removed what kube-proxy had left");
    }
    for what in report.waiting.iter().filter(|what| !known.waiting.contains(what)) {
        tracing::info!(what, "waits with what kube-proxy had left");
    }
    for what in report.kept.iter().filter(|what| !known.kept.contains(what)) {
        tracing::warn!(what, "kept what kube-proxy had left");
    }
    for what in report.unseen.iter().filter(|what| !known.unseen.contains(what)) {
        tracing::warn!(what, "not looked for among what kube-proxy may have left");
    }
    for error in report.failures.iter().filter(|error| !known.failures.contains(error)) {
        tracing::warn!(error, "kube-proxy's rules cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use orlop_dataplane::Status;

    use super::in_place;

    #[test]
    fn nothing_is_removed_before_ours_is_there() {
        let ready = Status { synced: true, placed: true, ..Status::default() };
        assert!(in_place(&ready));
        assert!(!in_place(&Status { synced: false, ..ready.clone() }));
        assert!(!in_place(&Status { placed: false, ..ready.clone() }));
        assert!(!in_place(&Status { bare_devices: vec!["eth0: no TCX".to_owned()], ..ready }));
    }
}

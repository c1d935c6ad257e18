//! `orlop flows`: who asks for which service, what they get, and why not; as it happens.

use std::{collections::HashMap, io::Write as _, net::IpAddr, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use orlop::args::{DirArgs, FlowFilter};
use orlop_dataplane::flows::{FlowView, Flows};

/// Prints a line per decision until it is ended.
///
/// # Errors
/// When no dataplane has pinned its maps there, somebody else listens, or nobody reads.
pub(crate) fn flows(filter: &FlowFilter, dirs: &DirArgs) -> Result<()> {
    let bpffs = dirs.run_dir.join("bpf");
    let mut flows = Flows::listen(&bpffs, &dirs.run_dir.join("flows.lock"))
        .with_context(|| format!("flows of {}", bpffs.display()))?;
    let mut out = std::io::stdout().lock();
    loop {
        let Some(flow) = flows.wait()? else { continue };
        let pod = flow.process.as_ref().and_then(|(pid, _)| pod_of(*pid, dirs));
        if wanted(filter, &flow, pod.as_deref()) {
            let of = pod.map(|pod| format!("  [{pod}]")).unwrap_or_default();
            let when = Timestamp::try_from(flow.when()).map(|when| format!("{when:.3}")).unwrap_or_default();
            writeln!(out, "{when} {flow}{of}").context("print")?;
            out.flush().context("print")?;
        }
    }
}

/// The pod in whose network a process is, by `namespace/name`; none if it is gone already, or the node's own.
fn pod_of(pid: u32, dirs: &DirArgs) -> Option<String> {
    let netns = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    let pods = orlop_runtime::list(&dirs.run_dir);
    let by_netns: HashMap<u64, _> = pods
        .iter()
        .filter_map(|sandbox| Some((std::fs::metadata(sandbox.netns.as_ref()?).ok()?.ino(), &sandbox.pod)))
        .collect();
    by_netns.get(&netns).map(|pod| format!("{}/{}", pod.namespace, pod.name))
}

/// All that is asked for must fit. Pure.
fn wanted(filter: &FlowFilter, flow: &FlowView, pod: Option<&str>) -> bool {
    let FlowFilter { pod: of_pod, service, port } = filter;
    let is_pod = |wanted: &String| match wanted.parse::<IpAddr>() {
        Ok(ip) => [flow.source, flow.backend].iter().flatten().any(|at| at.ip() == ip),
        Err(_) => pod
            .is_some_and(|pod| pod == wanted || pod.rsplit_once('/').is_some_and(|(_, name)| name == wanted)),
    };
    of_pod.as_ref().is_none_or(is_pod)
        && service.is_none_or(|ip| flow.asked.ip() == ip)
        && port.is_none_or(|port| flow.asked.port() == port)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn filters_hold_together() {
        let flow = FlowView {
            at: Duration::ZERO,
            protocol: "TCP",
            source: None,
            process: Some((7, "curl".into())),
            asked: "10.96.0.1:80".parse().unwrap(),
            backend: Some("10.42.0.7:8080".parse().unwrap()),
            refused: None,
        };
        let fits = |pod: Option<&str>, service: Option<&str>, port| {
            let service = service.map(|ip| ip.parse().unwrap());
            wanted(&FlowFilter { pod: pod.map(str::to_owned), service, port }, &flow, Some("default/web-1"))
        };
        assert!(fits(None, None, None) && fits(Some("web-1"), Some("10.96.0.1"), Some(80)));
        assert!(fits(Some("default/web-1"), None, None) && fits(Some("10.42.0.7"), None, None));
        assert!(!fits(Some("web"), None, None) && !fits(Some("10.42.0.8"), None, None));
        assert!(!fits(Some("web-1"), Some("10.96.0.2"), None) && !fits(None, None, Some(8080)));
    }
}

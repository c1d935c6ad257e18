//! Pods of another kubelet whose sockets are to be left alone, for the dataplane beside it: which they are, and which network
//! namespaces they have.
//!
//! ```text
//! watch of this node's pods ─▶ annotated? ─▶ looked for in the cgroup until there ─▶ Update::Sockets
//! ```
//! A pod is found when its first process runs: what that asks for in the first moments is translated as for other pods.
//! Not for: our own kubelet's pods, which wait for it (`policies`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, runtime::watcher};
use orlop_dataplane::{Sockets, Update, netns};
use orlop_model::event::Event;
use tokio::time::timeout;

use orlop::{pod::network, source};

/// How often a pod is looked for that has no process yet.
const AGAIN: Duration = Duration::from_millis(250);

/// By UID; nothing where none was found yet.
type Found = BTreeMap<String, Option<u64>>;

/// Follows them for as long as there is a watch.
pub(super) fn follow(
    client: &Client,
    node: &str,
    cgroup: PathBuf,
) -> impl Stream<Item = Update> + Send + use<> {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = source::watch(Api::<Pod>::all(client.clone()), own).boxed();
    let steps = stream::unfold((pods, Found::new()), move |(mut pods, mut found)| {
        let cgroup = cgroup.clone();
        async move {
            let before: BTreeSet<u64> = found.values().flatten().copied().collect();
            let listed = match timeout(wait(&found), pods.next()).await {
                Ok(Some(event)) => take(&mut found, &event),
                Ok(None) => return None,
                Err(_) => false,
            };
            found = tokio::task::spawn_blocking(move || look(found, &cgroup)).await.ok()?;
            let updates = updates(&before, &found, listed);
            Some((stream::iter(updates), (pods, found)))
        }
    });
    steps.flatten()
}

fn wait(found: &Found) -> Duration {
    if found.values().any(Option::is_none) { AGAIN } else { Duration::MAX }
}

/// Whether that was all there are.
fn take(found: &mut Found, event: &Event<Arc<Pod>>) -> bool {
    match event {
        Event::Apply(pod) => {
            if let Some(uid) = asks(pod) {
                found.entry(uid).or_insert(None);
            }
            false
        }
        Event::Delete(pod) => {
            found.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            false
        }
        Event::Reset(pods) => {
            let all: BTreeSet<String> = pods.iter().filter_map(|pod| asks(pod)).collect();
            found.retain(|uid, _| all.contains(uid));
            for uid in all {
                found.entry(uid).or_insert(None);
            }
            true
        }
    }
}

/// The UID of a pod that has a network of its own, runs, and asks for it.
fn asks(pod: &Pod) -> Option<String> {
    let in_hosts = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    // What is wrong in an annotation the kubelet beside us does not say, either.
    let wishes = network::wishes(pod).ok()?;
    (wishes.packets_only && !in_hosts && !ended).then(|| pod.metadata.uid.clone()).flatten()
}

fn look(mut found: Found, cgroup: &Path) -> Found {
    for (uid, cookie) in found.iter_mut().filter(|(_, cookie)| cookie.is_none()) {
        match netns::of_pod(cgroup, uid) {
            Ok(seen) => *cookie = seen,
            Err(error) => tracing::debug!(uid, %error, "network namespace of a pod"),
        }
    }
    found
}

fn updates(before: &BTreeSet<u64>, found: &Found, listed: bool) -> Vec<Update> {
    let now: BTreeSet<u64> = found.values().flatten().copied().collect();
    let leave = now.difference(before).map(|netns| Sockets::Leave(*netns, None));
    let forget = before.difference(&now).map(|netns| Sockets::Forget(*netns));
    let only = listed.then(|| Sockets::Only(now.clone()));
    only.into_iter().chain(forget).chain(leave).map(Update::Sockets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, more: &str) -> Arc<Pod> {
        let text =
            format!("metadata: {{uid: {uid}, annotations: {{orlop.dev/socket-services: 'false'}}}}\n{more}");
        Arc::new(serde_norway::from_str(&text).unwrap())
    }

    #[test]
    fn pods_that_ask_for_it_are_looked_for_until_they_end() {
        let mut found = Found::new();
        let host = pod("c", "spec: {containers: [], hostNetwork: true}");
        assert!(take(&mut found, &Event::Reset(vec![pod("a", ""), Arc::new(Pod::default()), host])));
        assert_eq!(found, [("a".to_owned(), None)].into());
        found.insert("a".to_owned(), Some(7));
        // News of a pod that was found changes nothing about it.
        assert!(!take(&mut found, &Event::Apply(pod("a", ""))));
        take(&mut found, &Event::Apply(pod("b", "status: {phase: Running}")));
        assert_eq!(found, [("a".to_owned(), Some(7)), ("b".to_owned(), None)].into());
        take(&mut found, &Event::Delete(pod("a", "")));
        take(&mut found, &Event::Reset(vec![pod("b", "status: {phase: Failed}")]));
        assert_eq!(found, Found::new());
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_an_agent_before_left_too() {
        let found = [("a".to_owned(), Some(7)), ("b".to_owned(), Some(8)), ("c".to_owned(), None)].into();
        let said = |before: &[u64], listed| {
            format!("{:?}", updates(&before.iter().copied().collect(), &found, listed))
        };
        assert_eq!(said(&[7, 8], false), "[]");
        assert_eq!(said(&[6, 7], false), "[Sockets(Forget(6)), Sockets(Leave(8, None))]");
        assert_eq!(said(&[7, 8], true), "[Sockets(Only({7, 8}))]");
    }
}

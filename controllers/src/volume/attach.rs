//! Attaches volumes of CSI drivers that need it to the nodes of the pods that use them, and detaches them afterwards.
//!
//! ```text
//!  pods, claims, volumes, drivers ─▶ wanted [pure] ─▶ VolumeAttachments ◀─ the driver's attacher says `attached`
//!                                                          └─▶ status.volumesAttached of the node
//! ```
//! An attachment goes when no pod of the node uses the volume and the node says that it does not either
//! (`status.volumesInUse`). Not here: attaching itself, which the driver's own attacher does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found, reason};
use crate::object::{Key, is_deleting, is_finished, name, node_name};
use crate::queue::Queue;
use crate::record::Recorder;

use super::protect::claims_of;
use super::words::{is_bound, volume_name};

/// A volume that a node needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    attacher: String,
    volume: String,
    unique: String,
}

/// The attachable volume behind a persistent one: driver and the name that nodes have for it.
fn attachable(volume: &PersistentVolume, driver: impl Fn(&str) -> Option<Arc<CSIDriver>>) -> Option<Wanted> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    let needs = driver(&source.driver).is_none_or(|driver| driver.spec.attach_required.unwrap_or(true));
    needs.then(|| Wanted {
        attacher: source.driver.clone(),
        volume: name(&volume.metadata).to_owned(),
        unique: format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle),
    })
}

/// By the name that the attachment has to have, as nodes look for it.
fn attachment_name(wanted: &Wanted, handle: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{}{node}", wanted.attacher))))
}

fn wanted(cache: &Cache, node: &str) -> BTreeMap<String, Wanted> {
    let pods = cache.pods.list();
    let here = pods.iter().filter(|pod| node_name(pod) == Some(node) && !is_finished(pod));
    let volumes = here.flat_map(|pod: &Arc<Pod>| claims_of(pod)).filter_map(|key| {
        let claim = cache.claims.get(&key).filter(|claim| is_bound(claim))?;
        cache.volumes.get(&Key::new("", volume_name(&claim)))
    });
    let driver = |name: &str| cache.csi_drivers.get(&Key::new("", name));
    let named = volumes.filter_map(|volume| {
        let wanted = attachable(&volume, driver)?;
        let handle = volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
        Some((attachment_name(&wanted, &handle, node), wanted))
    });
    named.collect()
}

/// What is to be done about the attachments of a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    attach: Vec<(String, Wanted)>,
    detach: Vec<String>,
    /// Names for the node's status.
    attached: BTreeSet<String>,
}

fn plan(
    wanted: &BTreeMap<String, Wanted>,
    known: &[Arc<VolumeAttachment>],
    in_use: &BTreeSet<String>,
    unique: impl Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let names: BTreeSet<_> = known.iter().map(|known| name(&known.metadata)).collect();
    for (name, volume) in wanted.iter().filter(|(name, _)| !names.contains(name.as_str())) {
        plan.attach.push((name.clone(), volume.clone()));
    }
    for attachment in known {
        let found = name(&attachment.metadata);
        let volume = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let unique = unique(volume);
        let used =
            wanted.contains_key(found) || unique.as_ref().is_some_and(|unique| in_use.contains(unique));
        if !used && !is_deleting(&attachment.metadata) {
            plan.detach.push(found.to_owned());
        }
        if used && attachment.status.as_ref().is_some_and(|status| status.attached) {
            plan.attached.extend(unique);
        }
    }
    plan
}

/// Attaches until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let recorder = recorder.named("attachdetach-controller");
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.pods.on_change(move |old, new| {
        for node in [old, new].into_iter().flatten().filter_map(|pod| node_name(pod)) {
            add.add(node.to_owned());
        }
    });
    let add = Arc::clone(&queue);
    cache.attachments.on_change(move |old, new| {
        if let Some(attachment) = new.or(old) {
            add.add(attachment.spec.node_name.clone());
        }
    });
    let add = Arc::clone(&queue);
    cache.nodes.on_change(move |old, new| {
        if let Some(node) = new.filter(|new| old.is_none_or(|old| in_use(old) != in_use(new))) {
            add.add(name(&node.metadata).to_owned());
        }
    });
    cache.synced().await;
    queue.work("attachdetach", 4, |node| sync(&client, &cache, &recorder, node)).await;
}

fn in_use(node: &Node) -> BTreeSet<String> {
    let listed = node.status.as_ref().and_then(|status| status.volumes_in_use.clone());
    listed.unwrap_or_default().into_iter().collect()
}

async fn sync(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    node: String,
) -> Result<Option<Duration>, SyncError> {
    let found = cache.nodes.get(&Key::new("", &*node));
    let wanted = if found.is_some() { wanted(cache, &node) } else { BTreeMap::new() };
    let known: Vec<_> = cache.attachments.list();
    let known: Vec<_> = known.into_iter().filter(|known| known.spec.node_name == node).collect();
    if wanted.is_empty() && known.is_empty() {
        return Ok(None);
    }
    let in_use = found.as_ref().map(|node| in_use(node)).unwrap_or_default();
    let driver = |name: &str| cache.csi_drivers.get(&Key::new("", name));
    let unique = |volume: &str| {
        let volume = cache.volumes.get(&Key::new("", volume))?;
        attachable(&volume, driver).map(|wanted| wanted.unique)
    };
    let plan = plan(&wanted, &known, &in_use, unique);
    let api = Api::<VolumeAttachment>::all(client.clone());
    for (name, wanted) in plan.attach {
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: wanted.attacher,
                node_name: node.clone(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(wanted.volume),
                    inline_volume_spec: None,
                },
            },
            status: None,
        };
        match api.create(&PostParams::default(), &attachment).await {
            Err(error) if reason(&error) == "AlreadyExists" => {}
            answer => cache.attachments.absorb(answer.trying(|| format!("create attachment {name}"))?),
        }
    }
    for name in plan.detach {
        match api.delete(&name, &DeleteParams::default()).await {
            Err(error) if is_not_found(&error) => {}
            answer => drop(answer.trying(|| format!("delete attachment {name}"))?),
        }
    }
    match found {
        Some(found) => {
            if tell_node(client, &found, &plan.attached).await? {
                let told = attached_before(&found);
                tell_pods(cache, recorder, &node, &wanted, &plan.attached - &told);
            }
            Ok(None)
        }
        None => Ok(None),
    }
}

/// What the node was told last.
fn attached_before(node: &Node) -> BTreeSet<String> {
    let told = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    told.into_iter().map(|volume| volume.name).collect()
}

fn tell_pods(
    cache: &Cache,
    recorder: &Recorder,
    node: &str,
    wanted: &BTreeMap<String, Wanted>,
    fresh: BTreeSet<String>,
) {
    for volume in wanted.values().filter(|wanted| fresh.contains(&wanted.unique)).map(|wanted| &wanted.volume)
    {
        let uses = |pod: &&Arc<Pod>| {
            node_name(pod) == Some(node)
                && claims_of(pod)
                    .filter_map(|key| cache.claims.get(&key))
                    .any(|claim| volume_name(&claim) == volume)
        };
        for pod in cache.pods.list().iter().filter(uses) {
            let text = format!("AttachVolume.Attach succeeded for volume \"{volume}\"");
            recorder.normal(&**pod, "SuccessfulAttachVolume", text);
        }
    }
}

/// Whether there was something to tell.
async fn tell_node(client: &Client, node: &Node, attached: &BTreeSet<String>) -> Result<bool, SyncError> {
    if attached_before(node) == *attached {
        return Ok(false);
    }
    let entry = |name: &String| AttachedVolume { name: name.clone(), device_path: String::new() };
    let list: Vec<_> = attached.iter().map(entry).collect();
    let patch = Patch::Merge(json!({ "status": { "volumesAttached": list } }));
    let api = Api::<Node>::all(client.clone());
    let name = name(&node.metadata);
    match api.patch_status(name, &PatchParams::default(), &patch).await {
        Err(error) if is_not_found(&error) => Ok(false),
        answer => answer.trying(|| format!("say what is attached to {name}")).map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn volume(driver: &str) -> PersistentVolume {
        yaml(&format!("{{metadata: {{name: pv}}, spec: {{csi: {{driver: {driver}, volumeHandle: h}}}}}}"))
    }

    #[test]
    fn drivers_say_whether_they_attach() {
        let driver = |name: &str| match name {
            "no" => Some(Arc::new(yaml("{metadata: {name: no}, spec: {attachRequired: false}}"))),
            _ => None,
        };
        assert_eq!(attachable(&volume("silent"), driver).unwrap().unique, "kubernetes.io/csi/silent^h");
        assert!(attachable(&volume("no"), driver).is_none());
        assert!(attachable(&yaml("{metadata: {name: pv}, spec: {local: {path: /x}}}"), driver).is_none());
    }

    #[test]
    fn attached_while_a_pod_or_the_node_needs_it() {
        let of = |text: &str| Arc::new(yaml::<VolumeAttachment>(text));
        let a = "metadata: {name: a}, spec: {attacher: d, nodeName: n, source: {persistentVolumeName: pv}}";
        let attached = of(&format!("{{{a}, status: {{attached: true}}}}"));
        let wish = Wanted { attacher: "d".into(), volume: "pv".into(), unique: "u".into() };
        let wishes = BTreeMap::from([("a".to_owned(), wish.clone())]);
        let none = BTreeMap::new();
        let unique = |_: &str| Some("u".to_owned());
        let in_use = BTreeSet::from(["u".to_owned()]);
        let empty = BTreeSet::new();

        let first = plan(&wishes, &[], &empty, unique);
        assert_eq!((first.attach, first.detach.len()), (vec![("a".to_owned(), wish)], 0));
        let there = plan(&wishes, &[Arc::clone(&attached)], &empty, unique);
        assert_eq!(there, Plan { attached: in_use.clone(), ..Plan::default() });
        let mounted = plan(&none, &[Arc::clone(&attached)], &in_use, unique);
        assert_eq!(mounted, Plan { attached: in_use.clone(), ..Plan::default() });
        let over = plan(&none, &[Arc::clone(&attached)], &empty, unique);
        assert_eq!(over, Plan { detach: vec!["a".into()], ..Plan::default() });
        // A volume that was deleted meanwhile is nobody's either.
        let gone = plan(&none, &[attached], &in_use, |_| None);
        assert_eq!(gone.detach, ["a"]);
    }
}

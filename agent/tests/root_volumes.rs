//! Volumes against the kernel: tmpfs, bind mounts of sub paths, removal that never walks into a mount.
//!
//! Each test has directories of its own and unmounts what it mounted, also when it fails.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service},
    storage::v1::{CSIDriver, VolumeAttachment},
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use orlop::{
    csi::Csi,
    pod::{
        container::MountPlan,
        desired::pod_ref,
        machine::{Mount, Propagation},
        observed::Volumes,
        settings::{Allocatable, Settings},
    },
    volume::{Disk, storage::StorageObjects},
    worker::ports::{
        Clock, MountRequest, ObjectFailure, ObjectRef, Objects, PodFiles as _, PodRef, Token, TokenRequest,
    },
};

struct Api;

impl Objects for Api {
    fn config_map<'a>(
        &'a self,
        _: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        let data = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
        let found = ConfigMap { data: Some(data), ..ConfigMap::default() };
        let missing = ObjectFailure::NotFound { kind: "configmap", name: name.into() };
        async move { if name == "m" { Ok(Arc::new(found)) } else { Err(missing) } }.boxed()
    }

    fn secret<'a>(
        &'a self,
        _: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move { Err(ObjectFailure::NotFound { kind: "secret", name: name.into() }) }.boxed()
    }

    fn token<'a>(&'a self, _: &'a TokenRequest) -> BoxFuture<'a, Result<Token, ObjectFailure>> {
        let expires_at = Timestamp::now().checked_add(std::time::Duration::from_secs(3600)).unwrap();
        async move { Ok(Token { token: "jwt".into(), expires_at }) }.boxed()
    }

    fn services(&self, _: &PodRef) -> Option<Vec<Arc<Service>>> {
        None
    }

    fn kubernetes(&self) -> Option<Arc<Service>> {
        None
    }

    fn follow(&self, _: &str, _: BTreeSet<ObjectRef>) {}
}

/// Claims and volumes by name.
#[derive(Default)]
struct Storage(BTreeMap<String, String>);

impl Storage {
    fn get<T: serde::de::DeserializeOwned>(
        &self,
        kind: &'static str,
        name: &str,
    ) -> Result<Arc<T>, ObjectFailure> {
        let found = self.0.get(&format!("{kind}/{name}"));
        let found = found.ok_or_else(|| ObjectFailure::NotFound { kind, name: name.to_owned() })?;
        Ok(Arc::new(serde_norway::from_str(found).unwrap()))
    }
}

impl StorageObjects for Storage {
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move { Err(ObjectFailure::NotFound { kind: "secret", name: name.into() }) }.boxed()
    }

    fn claim<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, ObjectFailure>> {
        async move { self.get("persistentvolumeclaims", name) }.boxed()
    }

    fn volume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<PersistentVolume>, ObjectFailure>> {
        async move { self.get("persistentvolumes", name) }.boxed()
    }

    fn driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ObjectFailure>> {
        async move { Ok(self.get("csidrivers", name).ok()) }.boxed()
    }

    fn resized<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Quantity,
    ) -> BoxFuture<'a, Result<(), ObjectFailure>> {
        async { Ok(()) }.boxed()
    }

    fn attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, ObjectFailure>> {
        async move { self.get("volumeattachments", name) }.boxed()
    }
}

impl Clock for Api {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A node's directories, unmounted and removed at the end.
struct Node {
    dir: tempfile::TempDir,
    disk: Disk,
}

impl Node {
    fn new() -> Node {
        Node::with(|_| BTreeMap::new())
    }

    /// One whose API server has claims and volumes, in YAML by `kind/name`; they may be in its directory.
    fn with(objects: impl FnOnce(&Path) -> BTreeMap<String, String>) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            node_name: "n".into(),
            node_labels: BTreeMap::from([("kubernetes.io/hostname".into(), "n".into())]),
            node_ips: Vec::new(),
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            log_dir: dir.path().join("logs"),
            seccomp_dir: dir.path().join("seccomp"),
            cgroup_root: "none".into(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            node_resolv: String::new(),
            node_hosts: String::new(),
            allocatable: Allocatable::default(),
            memory_capacity: 1 << 30,
            swap_capacity: 0,
            apparmor: false,
            hugepages: vec![2 << 20],
            policy: orlop::pod::settings::ResourcePolicy::default(),
            allowed_unsafe_sysctls: Vec::new(),
        };
        let storage = Arc::new(Storage(objects(dir.path())));
        let csi = Csi::new("n".into(), settings.state_dir.clone(), storage.clone(), Arc::new(Api));
        let disk =
            Disk::open(Arc::new(settings), Arc::new(Api), storage, Arc::new(csi), Arc::new(Api)).unwrap();
        Node { dir, disk }
    }

    fn mounts_below(&self) -> Vec<String> {
        mounts_below(self.dir.path())
    }

    async fn mounts(&self, pod: &Pod, volumes: &Volumes, plans: &[MountPlan]) -> Result<Vec<Mount>, String> {
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let ips = [IpAddr::from([10, 0, 0, 2])];
        let request = MountRequest { pod, container, attempt: 0, plans, volumes, pod_ips: &ips };
        self.disk.mounts(request).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in mounts_below(self.dir.path()).iter().rev() {
            Command::new("umount").args(["-l", mount]).status().unwrap();
        }
    }
}

/// Read by another eye than ours.
fn mounts_below(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| Path::new(place).starts_with(dir)).map(Into::into).collect()
}

fn pod(spec: &str) -> Arc<Pod> {
    let mut pod: Pod =
        serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u, labels: {a: b}}}").unwrap();
    pod.spec = Some(serde_norway::from_str(spec).unwrap());
    Arc::new(pod)
}

fn plan(volume: &str, sub_path: Option<&str>) -> MountPlan {
    MountPlan {
        volume: volume.into(),
        sub_path: sub_path.map(Into::into),
        destination: PathBuf::from("/x"),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
    }
}

#[tokio::test]
#[ignore = "root tier"]
async fn secrets_and_memory_volumes_are_on_tmpfs_and_leave_nothing() {
    let node = Node::new();
    let pod = pod(
        "{containers: [{name: c}], volumes: [{name: e, emptyDir: {medium: Memory, sizeLimit: 8Mi}}, \
         {name: t, projected: {sources: [{serviceAccountToken: {path: token}}]}}, {name: m, configMap: {name: m}}]}",
    );
    let volumes = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap();
    let again = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap();
    assert_eq!(volumes.paths, again.paths);
    let kind = |volume: &str| {
        let out = Command::new("stat").args(["-f", "-c", "%T"]).arg(&volumes.paths[volume]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    assert_eq!((&*kind("e"), &*kind("t")), ("tmpfs", "tmpfs"));
    assert_eq!(fs::read_to_string(volumes.paths["t"].join("token")).unwrap(), "jwt");
    assert_eq!(fs::read_to_string(volumes.paths["m"].join("key")).unwrap(), "value");
    fs::write(volumes.paths["e"].join("big"), vec![0; 9 << 20]).unwrap_err();

    node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
    node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
    let left = node.mounts_below();
    assert_eq!(
        left,
        [node.dir.path().join("run/volumes").display().to_string()],
        "only the node's own tmpfs"
    );
    assert!(node.disk.pods().await.is_empty());
}

#[tokio::test]
#[ignore = "root tier"]
async fn sub_path_is_what_it_was_when_it_was_opened() {
    let node = Node::new();
    let pod = pod("{containers: [{name: c}], volumes: [{name: e, emptyDir: {}}]}");
    let volumes = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap();
    let volume = &volumes.paths["e"];
    assert_eq!(fs::metadata(volume).unwrap().permissions().mode() & 0o7777, 0o777);

    let mounts = node.mounts(&pod, &volumes, &[plan("e", Some("a/b"))]).await.unwrap();
    let bound = &mounts.last().unwrap().source;
    assert_eq!(fs::metadata(bound).unwrap().ino(), fs::metadata(volume.join("a/b")).unwrap().ino());
    // A later swap of the name for a link to the outside changes nothing.
    fs::rename(volume.join("a"), volume.join("old")).unwrap();
    symlink("/etc", volume.join("a")).unwrap();
    fs::write(bound.join("f"), "x").unwrap();
    assert!(volume.join("old/b/f").exists());
    let error = node.mounts(&pod, &volumes, &[plan("e", Some("a/passwd"))]).await.unwrap_err();
    assert_eq!(error, "failed to prepare subPath for volumeMount \"e\" of container \"c\"");

    node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
    assert!(node.mounts_below().iter().all(|mount| mount.ends_with("run/volumes")));
}

#[tokio::test]
#[ignore = "root tier"]
async fn removal_spares_what_is_mounted_inside() {
    let node = Node::new();
    let outside = node.dir.path().join("precious");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("data"), "x").unwrap();
    let pod = pod("{containers: [{name: c}], volumes: [{name: e, emptyDir: {}}]}");
    let volumes = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap();
    let inside = volumes.paths["e"].join("mounted");
    fs::create_dir(&inside).unwrap();
    let bound = Command::new("mount").arg("--bind").args([&outside, &inside]).status().unwrap();
    assert!(bound.success());
    let error = node.disk.remove_pod(&pod_ref(&pod)).await.unwrap_err();
    assert!(error.contains("still mounted"), "{error}");
    assert_eq!(fs::read_to_string(outside.join("data")).unwrap(), "x");

    Command::new("umount").arg(&inside).status().unwrap();
    node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
}

/// A claim bound to a volume, and the volume.
fn bound(name: &str, spec: &str) -> [(String, String); 2] {
    let claim = format!(
        "{{metadata: {{name: {name}, uid: u-{name}}}, spec: {{volumeName: pv-{name}}}, status: {{phase: Bound}}}}"
    );
    let volume = format!(
        "{{metadata: {{name: pv-{name}, annotations: {{pv.beta.kubernetes.io/gid: '4242'}}}}, spec: {{claimRef: {{uid: u-{name}}}, {spec}}}}}"
    );
    [(format!("persistentvolumeclaims/{name}"), claim), (format!("persistentvolumes/pv-{name}"), volume)]
}

const HERE: &str = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n]}]}]}}";

#[tokio::test]
#[ignore = "root tier"]
async fn local_volumes_are_bound_owned_and_left_alone() {
    let node = Node::with(|dir| {
        fs::create_dir(dir.join("data")).unwrap();
        fs::write(dir.join("data/old"), "kept").unwrap();
        let path = dir.join("data").display().to_string();
        let objects = [
            bound("data", &format!("local: {{path: {path}}}, mountOptions: [noexec], {HERE}")),
            bound("host", &format!("hostPath: {{path: {}/host, type: DirectoryOrCreate}}", dir.display())),
        ];
        objects.into_iter().flatten().collect()
    });
    let pod = pod(
        "{securityContext: {fsGroup: 777}, containers: [{name: c, volumeMounts: [{name: d, mountPath: /d}, {name: h, mountPath: /h}]}], \
         volumes: [{name: d, persistentVolumeClaim: {claimName: data}}, {name: h, persistentVolumeClaim: {claimName: host, readOnly: true}}, \
         {name: unused, persistentVolumeClaim: {claimName: nobody}}]}",
    );
    let volumes = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap();
    let (data, mount) = (node.dir.path().join("data"), &volumes.paths["d"]);
    assert!(mount.ends_with("pods/u/volumes/kubernetes.io~local-volume/pv-data"), "{mount:?}");
    let kept = fs::metadata(data.join("old")).unwrap();
    assert_eq!((kept.gid(), kept.permissions().mode() & 0o777), (777, 0o664));
    let shown = Command::new("findmnt").args(["-n", "-o", "OPTIONS"]).arg(mount).output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains("noexec"));
    fs::write(mount.join("new"), "x").unwrap();
    assert!(data.join("new").exists());
    // No group for what is the node's own; whoever may use it is in the volume's group.
    assert_eq!(fs::metadata(&volumes.paths["h"]).unwrap().gid(), 0);
    assert_eq!(volumes.gids.iter().collect::<Vec<_>>(), [&4242]);
    let mounts = node.mounts(&pod, &volumes, &[plan("h", None), plan("d", Some("deep"))]).await.unwrap();
    assert!(mounts[mounts.len() - 2].read_only && !mounts[mounts.len() - 1].read_only);
    assert!(data.join("deep").is_dir());

    // What was promised once is not asked for again.
    let record = node.dir.path().join("state/pods/u/claims/d.json");
    assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&record, "{").unwrap();
    assert_eq!(node.disk.make_volumes(Arc::clone(&pod)).await.unwrap(), volumes);

    node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
    assert_eq!(fs::read_to_string(data.join("old")).unwrap(), "kept");
    assert!(node.mounts_below().iter().all(|mount| mount.ends_with("run/volumes")));
    assert!(node.disk.pods().await.is_empty());
}

#[tokio::test]
#[ignore = "root tier"]
async fn what_keeps_a_claimed_volume_away_is_said_in_upstreams_words() {
    let node = Node::with(|dir| {
        let elsewhere = HERE.replace("[n]", "[m]");
        let mut objects: BTreeMap<_, _> = [
            bound("gone", &format!("local: {{path: {}/no}}, {HERE}", dir.display())),
            bound("far", &format!("local: {{path: /}}, {elsewhere}")),
            bound("disk", &format!("volumeMode: Block, local: {{path: {}}}, {HERE}", dir.display())),
            bound("nfs", "nfs: {server: s, path: /x}"),
        ]
        .into_iter()
        .flatten()
        .collect();
        objects.insert("persistentvolumeclaims/waits".into(), "{status: {phase: Pending}}".into());
        objects
    });
    for (claim, reason, text) in [
        (
            "nope",
            "FailedMount",
            "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC ns/nope: failed to fetch PVC from API server: persistentvolumeclaims \"nope\" not found",
        ),
        (
            "waits",
            "FailedMount",
            "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC ns/waits: PVC is not bound",
        ),
        (
            "nfs",
            "FailedMount",
            "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC ns/nfs: failed to get Plugin from volumeSpec for volume \"v\" err=no volume plugin matched",
        ),
        (
            "gone",
            "FailedMount",
            "MountVolume.NewMounter initialization failed for volume \"pv-gone\" : path \"DIR/no\" does not exist",
        ),
        (
            "far",
            "FailedMount",
            "MountVolume.NodeAffinity check failed for volume \"pv-far\" : no matching NodeSelectorTerms",
        ),
        (
            "disk",
            "FailedMapVolume",
            "MapVolume.SetUp failed for volume \"pv-disk\" : DIR is not a block device",
        ),
    ] {
        let uses = if claim == "disk" {
            "volumeDevices: [{name: v, devicePath: /dev/v}]"
        } else {
            "volumeMounts: [{name: v, mountPath: /v}]"
        };
        let pod = pod(&format!(
            "{{containers: [{{name: c, {uses}}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]}}"
        ));
        let failures = node.disk.make_volumes(Arc::clone(&pod)).await.unwrap_err();
        let told: Vec<_> = failures.iter().map(|failure| (failure.reason, failure.text.as_str())).collect();
        assert_eq!(told, [(reason, &*text.replace("DIR", &node.dir.path().display().to_string()))]);
        node.disk.remove_pod(&pod_ref(&pod)).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "root tier"]
async fn huge_pages_are_a_file_system_of_their_own() {
    let node = Node::new();
    let of = |medium: &str, size: &str| {
        pod(&format!(
            "{{containers: [{{name: c, resources: {{limits: {{hugepages-{size}: 2Gi}}}}}}], volumes: [{{name: e, emptyDir: {{medium: {medium}}}}}]}}"
        ))
    };
    let small = of("HugePages-2Mi", "2Mi");
    let volumes = node.disk.make_volumes(Arc::clone(&small)).await.unwrap();
    let shown =
        Command::new("findmnt").args(["-n", "-o", "FSTYPE,OPTIONS"]).arg(&volumes.paths["e"]).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.starts_with("hugetlbfs") && shown.contains("pagesize=2M"), "{shown}");
    node.disk.remove_pod(&pod_ref(&small)).await.unwrap();
    assert!(node.mounts_below().iter().all(|mount| mount.ends_with("run/volumes")));
    let failures = node.disk.make_volumes(of("HugePages", "1Gi")).await.unwrap_err();
    assert_eq!(
        failures[0].text,
        "MountVolume.SetUp failed for volume \"e\" : medium HugePages: this node has no huge pages of 1048576 KiB"
    );
}

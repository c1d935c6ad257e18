//! Volumes that outlive pods: a claim that just works, volumes that an operator made, and drivers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use orlop_tests::{Playground, leaks, playground::run, wait::until};

const IMAGE: &str = "orlop.dev/example/busybox:v1";

/// One pod of a StatefulSet, as its controller makes it, which writes a line at each start.
fn replica(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{hostname: {name}, subdomain: web, \
         terminationGracePeriodSeconds: 1, securityContext: {{runAsUser: 1000, fsGroup: 2000}}, \
         containers: [{{name: c, image: '{IMAGE}', command: [sh, -c, 'echo started >> /data/log; exec sleep 4321'], \
         volumeMounts: [{{name: data, mountPath: /data}}]}}], \
         volumes: [{{name: data, persistentVolumeClaim: {{claimName: data-{name}}}}}]}}}}"
    )
}

fn claim(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: 1Gi}}}}, {more}}}}}"
    )
}

fn wait_ready(p: &Playground, pod: &str) {
    p.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).text();
}

/// Everything that a boot of the machine takes: processes, mounts, the run directory.
fn reboot(p: &mut Playground) {
    p.kill_agent(1);
    let cgroup = p.json["nodes"][0]["cgroup"].as_str().unwrap().to_owned();
    until("the node's processes are gone", Duration::from_secs(20), || {
        let mut left = Vec::new();
        for root in fs::read_dir("/sys/fs/cgroup").unwrap() {
            pids(&root.unwrap().path().join(&cgroup), &mut left);
        }
        pids(&Path::new("/sys/fs/cgroup").join(&cgroup), &mut left);
        left.extend(leaks::processes_of(&p.dir).into_iter().map(|(pid, _)| i32::try_from(pid).unwrap()));
        for pid in &left {
            // Gone meanwhile is fine.
            let _gone = rustix::process::kill_process(
                rustix::process::Pid::from_raw(*pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    for mount in leaks::mounts_below(&p.dir).iter().rev() {
        run(Command::new("umount").args(["-l", mount])).text();
    }
    fs::remove_dir_all(p.dir.join("run")).unwrap();
    p.up();
}

fn pids(cgroup: &Path, found: &mut Vec<i32>) {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids(&child.path(), found);
        }
    }
}

#[test]
#[ignore = "e2e tier"]
fn a_claim_just_works_and_outlives_pods_agents_and_boots() {
    let mut p = Playground::start();
    let classes = p.wait_for(&["get", "storageclass"], |text| text.contains("orlop-local"));
    assert!(classes.contains("orlop-local (default)   orlop.dev/local   Delete"), "{classes}");
    p.apply(&claim("data-web-0", "")).text();
    p.wait_for(&["describe", "pvc", "data-web-0"], |text| {
        text.contains("WaitForFirstConsumer")
            && text.contains("waiting for first consumer to be created before binding")
    });
    p.apply(&replica("web-0")).text();
    wait_ready(&p, "web-0");
    let claims = p.kubectl(&["get", "pvc", "data-web-0"]).text();
    assert!(claims.contains("Bound") && claims.contains("1Gi        RWO            orlop-local"), "{claims}");
    let name = p.kubectl(&["get", "pvc", "data-web-0", "-o", "jsonpath={.spec.volumeName}"]).text();
    let dir = p.dir.join("state/local-volumes").join(&name);
    let lines = || fs::read_to_string(dir.join("log")).unwrap_or_default().lines().count();
    let started = |times: usize| {
        until("the pod starts", Duration::from_secs(60), || match lines() {
            found if found == times => Ok(()),
            found => Err(format!("{found} starts")),
        });
    };
    started(1);
    let log = fs::metadata(dir.join("log")).unwrap();
    assert_eq!((lines(), log.uid(), log.gid()), (1, 1000, 2000));

    p.kill_agent(1);
    p.up();
    wait_ready(&p, "web-0");
    assert_eq!(lines(), 1, "the pod went on");
    // Its place is taken by one of the same name.
    p.kubectl(&["delete", "pod", "web-0", "--timeout=30s"]).text();
    p.apply(&replica("web-0")).text();
    wait_ready(&p, "web-0");
    started(2);

    reboot(&mut p);
    started(3);
    wait_ready(&p, "web-0");
    let seen = p.exec("web-0", &["cat", "/data/log"]).text();
    assert_eq!(seen.lines().count(), 3, "the same volume as before");

    // What is in use stays, and then everything goes.
    p.kubectl(&["delete", "pvc", "data-web-0", "--wait=false"]).text();
    let claims = p.kubectl(&["get", "pvc", "data-web-0"]).text();
    assert!(claims.contains("Terminating"), "{claims}");
    p.kubectl(&["delete", "pod", "web-0", "--timeout=30s"]).text();
    p.wait_for(&["get", "pvc,pv", "-o", "name"], str::is_empty);
    assert!(!dir.exists());
}

#[test]
#[ignore = "e2e tier"]
fn volumes_that_an_operator_made() {
    let p = Playground::start();
    let disks = p.dir.join("disks");
    fs::create_dir(&disks).unwrap();
    fs::write(disks.join("here"), "local\n").unwrap();
    let node = p.kubectl(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]).text();
    let volume = |name: &str, node: &str, source: &str| {
        format!(
            "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 5Gi}}, \
             accessModes: [ReadWriteOnce], storageClassName: '', nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: \
             [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}, {source}}}}}"
        )
    };
    let (host, far) = (p.dir.join("on-node"), p.dir.join("far"));
    p.apply(&volume(
        "local",
        &node,
        &format!("local: {{path: {}}}, mountOptions: [noexec]", disks.display()),
    ))
    .text();
    p.apply(&volume(
        "host",
        &node,
        &format!("hostPath: {{path: {}, type: DirectoryOrCreate}}", host.display()),
    ))
    .text();
    p.apply(&volume("far", "elsewhere", &format!("local: {{path: {}}}", far.display()))).text();
    for name in ["local", "host", "far"] {
        p.apply(&claim(name, &format!("storageClassName: '', volumeName: {name}"))).text();
        p.wait_for(&["get", "pvc", name], |text| text.contains("Bound"));
    }
    let pod = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {more}}}}}"
        )
    };
    let script = "cat /l/here; echo deep > /h/file; ! touch /l/here 2> /dev/null || exit 9; exec sleep 4321";
    p.apply(&pod(
        "p",
        &format!(
            "containers: [{{name: c, image: '{IMAGE}', command: [sh, -c, '{script}'], volumeMounts: [{{name: l, mountPath: /l}}, \
             {{name: h, mountPath: /h, subPath: some/where}}]}}], volumes: [{{name: l, persistentVolumeClaim: {{claimName: local, readOnly: true}}}}, \
             {{name: h, persistentVolumeClaim: {{claimName: host}}}}]"
        ),
    ))
    .text();
    wait_ready(&p, "p");
    p.wait_for(&["logs", "p"], |text| text == "local\n");
    until("the file is there", Duration::from_secs(10), || {
        match fs::read_to_string(host.join("some/where/file")) {
            Ok(text) if text == "deep\n" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    p.apply(&pod(
        "far",
        &format!(
            "containers: [{{name: c, image: '{IMAGE}', volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: far}}}}]"
        ),
    ))
    .text();
    p.wait_for(&["describe", "pod", "far"], |text| {
        text.contains("0/1 nodes are available: 1 node(s) had volume node affinity conflict.")
    });
    // A claim that does not exist, on a pod that no scheduler saw.
    p.apply(&pod(
        "lost",
        &format!(
            "nodeName: {node}, containers: [{{name: c, image: '{IMAGE}', volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: nope}}}}]"
        ),
    ))
    .text();
    p.wait_for(&["describe", "pod", "lost"], |text| {
        text.contains("FailedMount") && text.contains("persistentvolumeclaims \"nope\" not found")
    });
    p.wait_for(&["get", "pod", "lost"], |text| text.contains("ContainerCreating"));
    // It starts when the claim comes.
    p.apply(&claim("nope", "")).text();
    wait_ready_after(&p, "lost");

    p.kubectl(&["delete", "pod", "--all", "--timeout=30s"]).text();
    p.kubectl(&["delete", "pvc", "--all", "--timeout=30s"]).text();
    let left = p.kubectl(&["get", "pv"]).text();
    assert_eq!(left.matches("Released").count(), 3, "what an operator made is the operator's: {left}");
    assert_eq!(fs::read_to_string(disks.join("here")).unwrap(), "local\n");
    assert!(host.join("some/where/file").exists());
}

/// A loop device over a file, for as long as it is kept.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Loop {
        Loop(run(Command::new("losetup").args(["-f", "--show"]).arg(file)).text().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["-d", &self.0]));
    }
}

#[test]
#[ignore = "e2e tier"]
fn devices_of_the_node_are_given_for_what_the_claim_says() {
    let p = Playground::start();
    let file = p.dir.join("disk");
    fs::write(&file, [b'x'; 1 << 20]).unwrap();
    let device = Loop::over(&file);
    let node = p.kubectl(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]).text();
    p.apply(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: disk}}, spec: {{capacity: {{storage: 5Gi}}, volumeMode: Block, accessModes: \
         [ReadWriteOnce], storageClassName: '', nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, \
         operator: In, values: [{node}]}}]}}]}}}}, local: {{path: {}}}}}}}",
        device.0
    ))
    .text();
    p.apply(&claim("disk", "storageClassName: '', volumeName: disk, volumeMode: Block")).text();
    let pod = |name: &str, read_only: bool, script: &str| {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{{name: c, \
             image: '{IMAGE}', command: [sh, -c, '{script}'], volumeDevices: [{{name: d, devicePath: /dev/disk}}]}}], \
             volumes: [{{name: d, persistentVolumeClaim: {{claimName: disk, readOnly: {read_only}}}}}]}}}}"
        ))
        .text();
        let done = p.wait_for(&["get", "pod", name, "-o", "jsonpath={.status.phase}"], |phase| {
            matches!(phase, "Succeeded" | "Failed")
        });
        assert_eq!(done, "Succeeded", "{}", p.kubectl(&["logs", name]).text());
    };
    let write = "printf new | dd of=/dev/disk conv=notrunc";
    pod("reader", true, &format!("head -c 3 /dev/disk | grep xxx && ! {write} 2> /dev/null"));
    pod("writer", false, &format!("{write} && sync"));
    assert!(fs::read(&file).unwrap().starts_with(b"new"));
    p.kubectl(&["delete", "pod", "--all", "--timeout=30s"]).text();
}

/// A pod that was never scheduled cannot wait for a first consumer: its claim gets a volume by name.
fn wait_ready_after(p: &Playground, pod: &str) {
    let text = p.wait_for(&["describe", "pod", pod], |text| text.contains("PVC is not bound"));
    assert!(text.contains("error processing PVC default/nope: PVC is not bound"), "{text}");
}

/// Mounts of volumes; the directories that drivers share with the node are mounts of their own.
fn volumes_mounted(p: &Playground) -> Vec<String> {
    let state = p.dir.join("state");
    let shared = ["pods", "plugins"].map(|name| state.join(name));
    let all = leaks::mounts_below(&state).into_iter();
    all.filter(|mount| !shared.iter().any(|dir| dir == Path::new(mount))).collect()
}

/// The driver of the tests, as a process of its own.
struct Driver {
    process: std::process::Child,
    name: &'static str,
    dir: PathBuf,
}

const NAME: &str = "test.orlop.dev";

impl Driver {
    fn start(p: &Playground, name: &'static str) -> Driver {
        let dir = p.dir.join(name);
        let process = Command::new(env!("CARGO_BIN_EXE_orlop-csi-driver"))
            .args(["--name", name, "--node-id", "id-of-node1", "--dir"])
            .arg(&dir)
            .arg("--kubelet-dir")
            .arg(p.dir.join("state"))
            .spawn()
            .unwrap();
        Driver { process, name, dir }
    }

    /// Ends it, and with it what announces it.
    fn retire(self, p: &Playground) {
        let socket = p.dir.join(format!("state/plugins_registry/{}-reg.sock", self.name));
        drop(self);
        fs::remove_file(socket).unwrap();
    }

    /// Calls of a kind for a volume, in their order.
    fn calls(&self, what: &str) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(what)).map(str::to_owned).collect()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended with a boot.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
        for file in fs::read_dir(self.dir.join("volumes")).into_iter().flatten().flatten() {
            let known = run(Command::new("losetup").arg("-j").arg(file.path())).stdout;
            if let Some((device, _)) = known.split_once(':') {
                run(Command::new("losetup").args(["-d", device]));
            }
        }
    }
}

fn csi_volume(name: &str, more: &str, csi: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 5Gi}}, accessModes: \
         [ReadWriteOnce], storageClassName: '', {more} csi: {{driver: {NAME}, volumeHandle: {name}-handle, {csi}}}}}}}"
    )
}

#[test]
#[ignore = "e2e tier"]
fn a_driver_mounts_for_pods_through_crashes_and_boots() {
    let mut p = Playground::start();
    let mut driver = Driver::start(&p, NAME);
    p.wait_for(&["get", "csinode"], |text| text.contains("node1   1"));
    let node = p.kubectl(&["get", "csinode", "-o", "jsonpath={.items[0].spec.drivers[0]}"]).text();
    for said in ["\"count\":16", "\"nodeID\":\"id-of-node1\"", "\"topologyKeys\":[\"test.orlop.dev/rack\"]"] {
        assert!(node.contains(said), "{node}");
    }
    assert!(p.kubectl(&["get", "nodes", "--show-labels"]).text().contains("test.orlop.dev/rack=r1"));
    until("the driver hears of it", Duration::from_secs(5), || match driver.calls("registered").first() {
        Some(line) if line.trim() == "registered true" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    p.apply(&format!(
        "{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {{name: {NAME}}}, spec: {{attachRequired: false, podInfoOnMount: true, \
         fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral], tokenRequests: [{{audience: vault}}]}}}}"
    ))
    .text();
    p.apply("{apiVersion: v1, kind: Secret, metadata: {name: key}, stringData: {user: root}}").text();
    p.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: words}, data: {a: b}}").text();
    let secret =
        "nodeStageSecretRef: {name: key, namespace: default}, fsType: ext4, volumeAttributes: {a: b}";
    p.apply(&csi_volume("files", "mountOptions: [noatime],", secret)).text();
    p.apply(&csi_volume("disk", "volumeMode: Block,", "")).text();
    p.apply(&csi_volume("bad", "", "volumeAttributes: {refuse: please}")).text();
    p.apply(&claim("files", "storageClassName: '', volumeName: files")).text();
    p.apply(&claim("disk", "storageClassName: '', volumeName: disk, volumeMode: Block")).text();
    p.apply(&claim("bad", "storageClassName: '', volumeName: bad")).text();
    let script = "id -G >> /f/log; printf raw | dd of=/dev/disk conv=notrunc 2> /dev/null; sync; echo tmp > /t/x; exec sleep 4321";
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: 1, securityContext: {{fsGroup: 4242}}, \
         containers: [{{name: c, image: '{IMAGE}', command: [sh, -c, '{script}'], volumeMounts: [{{name: f, mountPath: /f}}, {{name: t, mountPath: /t}}, {{name: m, mountPath: /m}}], \
         volumeDevices: [{{name: d, devicePath: /dev/disk}}]}}], volumes: [{{name: f, persistentVolumeClaim: {{claimName: files}}}}, \
         {{name: m, configMap: {{name: words}}}}, \
         {{name: d, persistentVolumeClaim: {{claimName: disk}}}}, {{name: t, csi: {{driver: {NAME}, volumeAttributes: {{size: small}}}}}}]}}}}"
    ))
    .text();
    wait_ready(&p, "p");
    let data = driver.dir.join("volumes");
    let starts = || fs::read_to_string(data.join("files-handle/log")).unwrap_or_default().lines().count();
    until("the pod has started", Duration::from_secs(10), || {
        match fs::read(data.join("disk-handle")).is_ok_and(|disk| disk.starts_with(b"raw")) {
            true => Ok(()),
            false => Err("nothing on the device".to_owned()),
        }
    });
    assert_eq!(starts(), 1);
    assert_eq!(fs::metadata(data.join("files-handle/log")).unwrap().gid(), 4242);
    let staged = &driver.calls("stage files-handle")[0];
    assert!(staged.contains("ext4:noatime secrets[user=root]"), "{staged}");
    let published = &driver.calls("publish files-handle")[0];
    for said in
        ["readonly=false", "a=b", "csi.storage.k8s.io/pod.name=p", "csi.storage.k8s.io/ephemeral=false"]
    {
        assert!(published.contains(said), "{published}");
    }
    assert!(published.contains("serviceAccount.tokens={\"vault\":{\"expirationTimestamp\":"), "{published}");
    let inline = driver.calls("publish csi-");
    assert!(
        inline[0].contains("csi.storage.k8s.io/ephemeral=true") && inline[0].contains("size=small"),
        "{inline:?}"
    );
    let uid = p.kubectl(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]).text();
    let record = p.dir.join(format!("state/pods/{uid}/volumes/kubernetes.io~csi/files/vol_data.json"));
    assert_eq!(fs::metadata(&record).unwrap().mode() & 0o777, 0o600);

    // It has grown, as an external resizer tells; the node sees that when it looks at the pod's volumes again.
    let larger = r#"{"spec":{"capacity":{"storage":"7Gi"}}}"#;
    p.kubectl(&["patch", "pv", "files", "--type=merge", "-p", larger]).text();
    p.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: words}, data: {a: c}}").text();
    p.wait_for(&["get", "pvc", "files", "-ojsonpath={.status.capacity.storage}"], |size| size == "7Gi");
    let grown = driver.calls("expand files-handle");
    assert!(grown.len() == 1 && grown[0].ends_with(&format!(" {}", 7_u64 << 30)), "{grown:?}");
    let told = "MountVolume.NodeExpandVolume succeeded for volume \"files\" node1";
    p.wait_for(&["describe", "pod", "p"], |text| text.contains(told));

    // A new agent finds all of it.
    p.kill_agent(1);
    p.up();
    p.kubectl(&["annotate", "pod", "p", "new=agent"]).text();
    wait_ready(&p, "p");
    p.exec("p", &["sh", "-c", "echo more >> /f/log"]).text();
    assert_eq!((starts(), driver.calls("publish").len(), driver.calls("unpublish").len()), (2, 3, 0));

    // A boot takes the mounts; the volumes come back, and the pod with them.
    reboot(&mut p);
    drop(driver);
    driver = Driver::start(&p, NAME);
    until("the pod runs again", Duration::from_secs(60), || match starts() {
        3 => Ok(()),
        other => Err(format!("{other} starts")),
    });
    wait_ready(&p, "p");
    assert_eq!(p.exec("p", &["tail", "-n1", "/f/log"]).text().trim(), "0 4242");

    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: bad}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{IMAGE}', \
         volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: bad}}}}]}}}}"
    ))
    .text();
    let why = "MountVolume.SetUp failed for volume \"bad\" : rpc error: code = FailedPrecondition desc = the volume does not want to";
    p.wait_for(&["describe", "pod", "bad"], |text| text.contains(why));

    // A record that a crash has left half written is no reason to leave a mount behind.
    fs::write(&record, "{\"specVolID\": \"fi").unwrap();
    p.kubectl(&["delete", "pod", "--all", "--timeout=60s"]).text();
    for volume in ["files-handle", "disk-handle", "bad-handle"] {
        assert_eq!(driver.calls(&format!("unpublish {volume}")).len(), 1, "{volume}");
        assert_eq!(driver.calls(&format!("unstage {volume}")).len(), 1, "{volume}");
    }
    assert_eq!(driver.calls("unpublish csi-").len(), 1);
    let left = volumes_mounted(&p);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(starts(), 3, "what is in the volume stays");

    // A driver that goes says so by its socket.
    driver.retire(&p);
    p.wait_for(&["get", "csinode"], |text| text.contains("node1   0"));
}

#[test]
#[ignore = "e2e tier"]
fn a_volume_is_attached_before_it_is_mounted_and_detached_after() {
    let p = Playground::start();
    // It says nothing of itself: somebody has to attach its volumes, which is the test here.
    let driver = Driver::start(&p, NAME);
    p.apply(&csi_volume("far", "", "fsType: ext4")).text();
    p.apply(&claim("far", "storageClassName: '', volumeName: far")).text();
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{IMAGE}', \
         command: [sh, -c, 'exec sleep 4321'], volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: far}}}}]}}}}"
    ))
    .text();
    let why =
        "MountVolume.WaitForAttach failed for volume \"far\" : volume far-handle has not been attached yet";
    p.wait_for(&["describe", "pod", "p"], |text| text.contains(why));
    let attachment = p.kubectl(&["get", "volumeattachment", "-o", "name"]).text();
    let attachment = attachment.trim();
    let patch = "{\"status\": {\"attached\": true, \"attachmentMetadata\": {\"lun\": \"7\"}}}";
    p.kubectl(&["patch", attachment, "--subresource=status", "--type=merge", "-p", patch]).text();
    wait_ready(&p, "p");
    p.wait_for(&["describe", "pod", "p"], |text| {
        text.contains("SuccessfulAttachVolume")
            && text.contains("AttachVolume.Attach succeeded for volume \"far\"")
    });
    let staged = driver.calls("stage far-handle");
    assert!(staged[0].contains("attached[lun=7]"), "{staged:?}");
    let unique = format!("kubernetes.io/csi/{NAME}^far-handle");
    let status = "jsonpath={.items[0].status.volumesInUse[0]} {.items[0].status.volumesAttached[0].name}";
    p.wait_for(&["get", "nodes", "-o", status], |text| text == format!("{unique} {unique}"));
    p.kubectl(&["delete", "pod", "p", "--timeout=30s"]).text();
    assert_eq!(driver.calls("unstage far-handle").len(), 1);
    p.wait_for(&["get", "volumeattachment", "-o", "name"], str::is_empty);
    let status = "jsonpath={.items[0].status.volumesInUse}{.items[0].status.volumesAttached}";
    p.wait_for(&["get", "nodes", "-o", status], |text| text == "[][]");
    driver.retire(&p);
}

#[test]
#[ignore = "e2e tier"]
fn an_agent_killed_at_any_moment_leaves_no_mount() {
    let mut p = Playground::start();
    let driver = Driver::start(&p, NAME);
    p.apply(&format!(
        "{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {{name: {NAME}}}, spec: {{attachRequired: false}}}}"
    ))
    .text();
    p.apply(&csi_volume("files", "", "fsType: ext4")).text();
    p.apply(&claim("files", "storageClassName: '', volumeName: files")).text();
    p.apply(&claim("made", "")).text();
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{IMAGE}', \
         command: [sh, -c, 'date > /f/new && date > /m/new && exec sleep 4321'], volumeMounts: [{{name: f, mountPath: /f}}, {{name: f, mountPath: /s, subPath: sub}}, \
         {{name: m, mountPath: /m}}]}}], volumes: [{{name: f, persistentVolumeClaim: {{claimName: files}}}}, {{name: m, persistentVolumeClaim: {{claimName: made}}}}]}}}}"
    );
    for pause in [60, 300] {
        p.apply(&pod).text();
        std::thread::sleep(Duration::from_millis(pause));
        p.kill_agent(1);
        p.up();
        wait_ready(&p, "p");
        p.kubectl(&["delete", "pod", "p", "--wait=false"]).text();
        std::thread::sleep(Duration::from_millis(pause + 900));
        p.kill_agent(1);
        p.up();
        p.wait_for(&["get", "pods", "-o", "name"], str::is_empty);
        until("no mount is left", Duration::from_secs(20), || {
            let left = volumes_mounted(&p);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        until("the volume is off the node", Duration::from_secs(20), || {
            let log = fs::read_to_string(driver.dir.join("log")).unwrap_or_default();
            let last = log.lines().rfind(|line| line.contains("files-handle")).unwrap_or_default().to_owned();
            if last.starts_with("unstage") { Ok(()) } else { Err(last) }
        });
    }
    assert!(driver.dir.join("volumes/files-handle/new").exists(), "what is in the volume stays");
    driver.retire(&p);
}

#[test]
#[ignore = "e2e tier"]
fn a_driver_in_a_pod_mounts_for_other_pods() {
    let p = Playground::start();
    let (state, driver) = (p.dir.join("state"), p.dir.join(NAME));
    let program = env!("CARGO_BIN_EXE_orlop-csi-driver");
    let args =
        format!("--name {NAME} --node-id here --dir {} --kubelet-dir {}", driver.display(), state.display());
    let shared = |name: &str| {
        let dir = state.join(name);
        format!("{{name: {name}, mountPath: /host{}, mountPropagation: Bidirectional}}", dir.display())
    };
    let volume = |name: &str| {
        format!("{{name: {name}, hostPath: {{path: {}, type: Directory}}}}", state.join(name).display())
    };
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: driver}}, spec: {{hostPID: true, terminationGracePeriodSeconds: 1, containers: [{{name: c, \
         image: '{IMAGE}', command: [sh, -c, 'exec chroot /host {program} {args}'], securityContext: {{privileged: true}}, \
         volumeMounts: [{{name: host, mountPath: /host}}, {}, {}]}}], volumes: [{{name: host, hostPath: {{path: /}}}}, {}, {}]}}}}",
        shared("pods"),
        shared("plugins"),
        volume("pods"),
        volume("plugins"),
    ))
    .text();
    p.wait_for(&["get", "csinode"], |text| text.contains("node1   1"));
    p.apply(&format!(
        "{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {{name: {NAME}}}, spec: {{attachRequired: false}}}}"
    ))
    .text();
    p.apply(&csi_volume("files", "", "fsType: ext4")).text();
    p.apply(&claim("files", "storageClassName: '', volumeName: files")).text();
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{IMAGE}', \
         command: [sh, -c, 'echo hello > /f/file && exec sleep 4321'], volumeMounts: [{{name: f, mountPath: /f}}]}}], \
         volumes: [{{name: f, persistentVolumeClaim: {{claimName: files}}}}]}}}}"
    ))
    .text();
    wait_ready(&p, "p");
    let file = driver.join("volumes/files-handle/file");
    until("the file is in the volume", Duration::from_secs(10), || {
        fs::read_to_string(&file).map_err(|error| error.to_string())
    });
    assert_eq!(volumes_mounted(&p).len(), 2, "staged and published are seen on the host");
    p.kubectl(&["delete", "pod", "p", "--timeout=30s"]).text();
    let left = volumes_mounted(&p);
    assert!(left.is_empty(), "{left:?}");
    p.kubectl(&["delete", "pod", "driver", "--timeout=30s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn a_volume_is_made_on_the_node_that_has_the_pod() {
    let p = Playground::with_args(&["--nodes", "2"]);
    p.apply(&claim("data", "")).text();
    let pod = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {more} containers: [{{name: c, image: '{IMAGE}', \
             command: [sh, -c, 'echo {name} >> /d/log && exec sleep 4321'], volumeMounts: [{{name: d, mountPath: /d}}]}}], \
             volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]}}}}"
        )
    };
    p.apply(&pod("first", "nodeSelector: {kubernetes.io/hostname: node2},")).text();
    wait_ready(&p, "first");
    let path = p.kubectl(&["get", "pv", "-o", "jsonpath={.items[0].spec.local.path}"]).text();
    let log = Path::new(&path).join("log");
    assert!(!log.starts_with(p.dir.join("state")), "{path}: of the second node");
    // Who shares the volume has to go where it is, however full that node is in comparison.
    p.apply(&pod("second", "")).text();
    wait_ready(&p, "second");
    until("both have written", Duration::from_secs(10), || match fs::read_to_string(&log) {
        Ok(text) if text == "first\nsecond\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    p.kubectl(&["delete", "pod", "--all", "--timeout=30s"]).text();
    p.kubectl(&["delete", "pvc", "data", "--timeout=30s"]).text();
    p.wait_for(&["get", "pv", "-o", "name"], str::is_empty);
    assert!(!Path::new(&path).exists());
}

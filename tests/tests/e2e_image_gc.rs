//! A disk that is too small for all images: the agent removes those that nobody needs, and says when that is not enough.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use orlop_tests::{Playground, playground::run, until};

/// Of the disk, in MiB. One image has 8 of its own.
const DISK: u64 = 96;
/// A `docker save` archive: a shell, and bytes that no other image has.
const ARCHIVE: &str = "mkdir -p root/bin && cp /bin/busybox root/bin/busybox && ln -s busybox root/bin/sleep
    head -c 8M /dev/urandom > root/weight && tar -cf layer.tar -C root . && rm -r root
    layer=$(sha256sum layer.tar | cut -d' ' -f1)
    printf '{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\"]}}' $layer > config.json
    printf '[{\"Config\":\"config.json\",\"RepoTags\":[\"weights.example/%s:v1\"],\"Layers\":[\"layer.tar\"]}]' $1 > manifest.json
    tar -cf $1.tar manifest.json config.json layer.tar && rm manifest.json config.json layer.tar";

/// A small file system in memory, gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("orlop-e2e-disk-").tempdir().unwrap();
        let size = format!("size={DISK}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path())).text();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}

fn orlop(p: &Playground, args: &[&str]) -> String {
    let state = format!("--state-dir={}", p.dir.join("state").display());
    run(Command::new(p.dir.join("bin/orlop")).args(args).arg(state)).text()
}

fn load(p: &Playground, name: &str, pin: bool) {
    run(Command::new("sh").args(["-ec", ARCHIVE, "sh", name]).current_dir(&p.dir)).text();
    let archive = p.dir.join(format!("{name}.tar"));
    let pin: &[&str] = if pin { &[] } else { &["--no-pin"] };
    orlop(p, &[&["image", "load", archive.to_str().unwrap()], pin].concat());
    fs::remove_file(archive).unwrap();
}

/// Names of the heavy images that are there.
fn weights(p: &Playground) -> Vec<String> {
    let listed = orlop(p, &["image", "ls"]);
    let names = listed.lines().filter_map(|line| line.strip_prefix("weights.example/"));
    let mut names: Vec<_> = names.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn events(p: &Playground, reason: &str) -> Vec<String> {
    let all = p.get(&["events", "--all-namespaces", "--field-selector", &format!("reason={reason}")]);
    let texts = all["items"].as_array().unwrap().iter();
    texts.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

fn used(disk: &SmallDisk) -> u64 {
    let found = rustix::fs::statvfs(disk.path()).unwrap();
    100 - found.f_bavail * 100 / found.f_blocks
}

#[test]
#[ignore = "e2e tier"]
fn unused_images_make_room_and_needed_ones_stay() {
    let disk = SmallDisk::new();
    let env = [
        ("ORLOP_IMAGE_GC_HIGH_THRESHOLD_PERCENT", "65"),
        ("ORLOP_IMAGE_GC_LOW_THRESHOLD_PERCENT", "55"),
        ("ORLOP_IMAGE_MINIMUM_GC_AGE", "1s"),
        ("ORLOP_IMAGE_GC_PERIOD", "3s"),
    ];
    let p = Playground::prepared(&[], &env, |dir| {
        fs::create_dir_all(dir.join("state")).unwrap();
        symlink(disk.path(), dir.join("state/images")).unwrap();
    });
    let pod = |name: &str, more: &str| {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, \
             containers: [{{name: c, image: 'weights.example/{name}:v1', command: [sleep, '1000']{more}}}]}}}}"
        ))
        .text();
    };
    load(&p, "running", false);
    pod("running", "");
    p.kubectl(&["wait", "--for=condition=Ready", "pod/running", "--timeout=60s"]).text();
    // Known, and not startable: no container of it holds its image.
    load(&p, "waiting", false);
    pod("waiting", ", envFrom: [{configMapRef: {name: later}}]");
    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    p.wait_for(&["get", "pod", "waiting", "-o", reason], |text| text == "CreateContainerConfigError");
    load(&p, "pinned", true);
    load(&p, "old", false);
    // One that was needed until now is not the first to go.
    load(&p, "left", false);
    pod("left", "");
    p.kubectl(&["wait", "--for=condition=Ready", "pod/left", "--timeout=60s"]).text();
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(weights(&p), ["left", "old", "pinned", "running", "waiting"], "{}% used", used(&disk));
    p.kubectl(&["delete", "pod", "left", "--timeout=30s"]).text();
    load(&p, "last", false);
    until("the disk is no longer too full", Duration::from_secs(30), || {
        let (found, used) = (weights(&p), used(&disk));
        if used <= 55 { Ok(()) } else { Err(format!("{used}% used by {found:?}")) }
    });
    let found = weights(&p);
    assert!(!found.contains(&"old".to_owned()), "what was never used goes first: {found:?}");
    for needed in ["pinned", "running", "waiting"] {
        assert!(found.contains(&needed.to_owned()), "{needed}: {found:?}");
    }
    assert_eq!(events(&p, "FreeDiskSpaceFailed"), Vec::<String>::new());

    // Somebody else's data: no image can make up for it.
    fs::write(disk.path().join("foreign"), vec![1; 40 << 20]).unwrap();
    until("that is told", Duration::from_secs(30), || {
        let (failed, again) = (events(&p, "FreeDiskSpaceFailed"), events(&p, "ImageGCFailed"));
        if again.is_empty() { Err(format!("{failed:?}")) } else { Ok(()) }
    });
    let told = events(&p, "FreeDiskSpaceFailed");
    let text = "Failed to garbage collect required amount of images. Attempted to free ";
    assert!(told.len() >= 2 && told.iter().all(|one| one.starts_with(text)), "{told:?}");
    assert_eq!(weights(&p), ["pinned", "running", "waiting"]);
    fs::remove_file(disk.path().join("foreign")).unwrap();
    // Their images are still whole.
    p.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}}").text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/waiting", "pod/running", "--timeout=60s"]).text();
}

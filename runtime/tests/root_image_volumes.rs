//! Images that containers read: what is seen of them, what cannot be done with them, and that nothing of them stays.

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use common::{Node, chain};
use orlop_runtime::{
    Container, ContainerSpec, ContainerState, ExecRequest, ImageVolume, SandboxSpec, image::Image,
};

/// An image of two layers: the upper one replaces `a` and takes `gone` away.
fn image(node: &Node) -> PathBuf {
    let dir = node.dir.path().join("data");
    let (above, below) = (dir.join("0"), dir.join("1"));
    fs::create_dir_all(&above).expect("a directory for the test");
    fs::create_dir_all(below.join("sub")).expect("a directory for the test");
    let write = |path: PathBuf, text: &str| fs::write(path, text).expect("a file for the test");
    write(above.join("a"), "above\n");
    write(below.join("a"), "below\n");
    write(below.join("gone"), "gone\n");
    write(below.join("sub/file"), "file\n");
    write(below.join("sub/run"), "#!/bin/sh\necho ran\n");
    fs::set_permissions(below.join("sub/run"), fs::Permissions::from_mode(0o755)).expect("ours");
    symlink("/sub", below.join("inside")).expect("a link for the test");
    symlink("../../../../etc/passwd", below.join("out")).expect("a link for the test");
    let whiteout = Command::new("mknod").arg(above.join("gone")).args(["c", "0", "0"]).status();
    assert!(whiteout.expect("mknod").success());
    dir
}

fn volume(id: &str, sub_path: &str, destination: &str) -> ImageVolume {
    let image = Arc::new(Image { id: id.into(), ..Image::default() });
    ImageVolume { image, sub_path: sub_path.into(), destination: destination.into() }
}

async fn start(node: &Node, sandbox: &SandboxSpec, spec: &ContainerSpec) -> (Container, u32) {
    node.runtime.create_sandbox(sandbox).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let started = node.runtime.start_container(&sandbox.pod.uid, spec).await;
    let container = started.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    node.wait_for_log(spec, "up\n").await;
    (container, pid)
}

const LOOK: &str = "exec 2>&1; cat /img/a /sub/file /etc/thing; ls /img; stat -c %u:%g /img /img/a /sub/run; \
    echo x > /img/a; echo x > /img/new; echo x > /etc/thing; /sub/run; sh /sub/run; mount -o remount,rw /img; \
    echo up; exec sleep 1000";

fn spec(node: &Node) -> ContainerSpec {
    let mut spec = node.shell("a", LOOK);
    spec.image_volumes = vec![
        volume("data", "", "/img"),
        volume("data", "sub", "/sub"),
        volume("data", "inside/file", "/etc/thing"),
        volume("none", "", "/none"),
    ];
    fs::create_dir_all(node.dir.path().join("none")).expect("an image without layers");
    spec
}

const SEEN: &str = "above\nfile\nfile\na\ninside\nout\nsub\n0:0\n0:0\n0:0\n\
    /bin/sh: can't create /img/a: Read-only file system\n\
    /bin/sh: can't create /img/new: Read-only file system\n\
    /bin/sh: can't create /etc/thing: Read-only file system\n\
    ran\n\
    ran\n\
    mount: permission denied (are you root?)\n\
    up\n";

/// Of each mount of an image: where and with which restrictions, as the kernel tells.
fn restrictions(pid: u32) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|fields| ["/img", "/sub", "/etc/thing", "/none"].contains(&fields[4]));
    ours.map(|fields| format!("{} {}", fields[4], fields[5])).collect()
}

const RESTRICTED: [&str; 4] = [
    "/img ro,nosuid,nodev,relatime",
    "/sub ro,nosuid,nodev,relatime",
    "/none ro,nosuid,nodev,relatime",
    "/etc/thing ro,nosuid,nodev,relatime",
];

async fn images_are_read(users: bool) {
    let mut node = Node::new().await;
    let dir = image(&node);
    let sandbox = SandboxSpec { user_namespace: users, ..node.sandbox("u1") };
    let spec = spec(&node);
    let (container, pid) = start(&node, &sandbox, &spec).await;
    assert_eq!(node.log(&spec), SEEN);
    assert_eq!(restrictions(pid), RESTRICTED);
    // The very files of the layer, with nothing changed about them for the others who have it.
    let (layer, seen) = (dir.join("1/sub/run"), PathBuf::from(format!("/proc/{pid}/root/sub/run")));
    let [layer, seen] = [layer, seen].map(|path| fs::metadata(path).expect("both are there"));
    assert_eq!((layer.ino(), layer.uid()), (seen.ino(), 0));
    assert_eq!(seen.uid(), if users { 65_536 } else { 0 });
    assert_eq!(fs::read_to_string(dir.join("1/a")).expect("it is there"), "below\n");
    // Whoever comes after the agent finds it as it was, and takes it away.
    node.reopen().await;
    let command = ["/bin/cat", "/img/a"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, env: vec![], timeout: None, max_output: 100 };
    let output =
        node.runtime.exec("u1", &container.id, request).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(output.output, b"above\n");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn images_are_read_and_nothing_else() {
    images_are_read(false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn users_of_ones_own_read_them_as_everybody() {
    images_are_read(true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_part_that_is_not_in_the_image_is_an_error() {
    let node = Node::new().await;
    image(&node);
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    for (sub_path, why) in [
        ("nothing", "No such file or directory (os error 2)"),
        // Inside of the image it leads to its own /etc/passwd, and there is none.
        ("out", "No such file or directory (os error 2)"),
        ("a/b", "Not a directory (os error 20)"),
    ] {
        let mut spec = node.shell("a", "true");
        spec.image_volumes = vec![volume("data", "sub", "/other"), volume("data", sub_path, "/img")];
        let refused = node.runtime.start_container("u1", &spec).await.unwrap_err();
        assert_eq!(chain(&refused), format!("mount image volume at /img: subPath \"{sub_path}\": {why}"));
        assert!(!node.mounts().iter().any(|line| line.contains("/images")), "{:?}", node.mounts());
    }
    assert!(Path::new("/etc/passwd").exists());
    node.finish(&["u1"]).await;
}

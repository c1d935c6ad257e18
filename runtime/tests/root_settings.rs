//! Every setting of security and resources: set it, look from inside the container and from the host.
//!
//! One row, one pod. What a row says nothing about is as in a plain pod, which is the first row.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use common::{Node, chain};
use orlop_runtime::{
    ContainerSpec, ContainerState, Mount, Propagation, Resources, SandboxSpec, Seccomp, User, UserRequest,
    cgroup::Hierarchies,
};

type Set = fn(&mut SandboxSpec, &mut ContainerSpec);
/// What is looked at, and what is to be seen.
type View<Look> = (Look, &'static str);

struct Row {
    name: &'static str,
    set: Set,
    /// A script of the container's shell and its output.
    inside: View<&'static str>,
    outside: View<fn(&Host) -> String>,
}

const fn row(
    name: &'static str,
    set: Set,
    inside: View<&'static str>,
    outside: View<fn(&Host) -> String>,
) -> Row {
    Row { name, set, inside, outside }
}

/// The first process of the container, as the host sees it.
struct Host {
    pid: u32,
    cgroup: String,
}

impl Host {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap()
    }
    /// A line of `status`, its words.
    fn status(&self, field: &str) -> String {
        let text = self.read("status");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }
    /// Soft and hard value.
    fn ulimit(&self, name: &str) -> String {
        let text = self.read("limits");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }
    /// Whether a namespace is the host's.
    fn namespace(&self, name: &str) -> String {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        if of(&self.pid.to_string()) == of("self") { "host" } else { "own" }.to_owned()
    }
    fn namespaces(&self) -> String {
        let names = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"];
        names.map(|name| format!("{name} {}", self.namespace(name))).join(", ")
    }
    /// Options and propagation of the topmost mount there.
    fn mount(&self, at: &str) -> String {
        let table = self.read("mountinfo");
        let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(at));
        let Some(line) = line else { return "not mounted".to_owned() };
        let (mount, system) = line.split_once(" - ").unwrap();
        let mut fields = mount.split(' ').skip(5);
        let options = fields.next().unwrap().replace(",relatime", "");
        let tags = fields.map(|tag| tag.split(':').next().unwrap().to_owned());
        let kind = system.split(' ').next().unwrap().to_owned();
        [options, kind].into_iter().chain(tags).collect::<Vec<_>>().join(" ")
    }
    /// A file of the container's cgroup, v1's or v2's.
    fn limit(&self, controller: &str, v1: &str, v2: &str) -> String {
        let hierarchies = Hierarchies::discover().unwrap();
        let file = match hierarchies.controller(controller) {
            Some(root) => root.join(&self.cgroup).join(v1),
            None => hierarchies.unified.unwrap().join(&self.cgroup).join(v2),
        };
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }
    /// Owner of a file in the container, on the host's terms.
    fn owner(&self, path: &str) -> String {
        let meta = fs::metadata(format!("/proc/{}/root{path}", self.pid)).unwrap();
        format!("{} {}", meta.uid(), meta.gid())
    }
}

fn plain(_: &mut SandboxSpec, _: &mut ContainerSpec) {}

fn user(uid: Option<u32>, gid: Option<u32>, groups: &[u32]) -> UserRequest {
    UserRequest { uid, gid, additional_gids: groups.to_vec(), ..UserRequest::default() }
}

fn image(spec: &mut ContainerSpec) -> &mut orlop_runtime::image::Image {
    std::sync::Arc::make_mut(&mut spec.image)
}

/// A directory of the host's that every machine has, and nobody writes to.
fn volume(read_only: bool, propagation: Propagation) -> Vec<Mount> {
    vec![Mount {
        source: "/usr/share".into(),
        destination: "/vol".into(),
        read_only,
        propagation,
        ..Mount::default()
    }]
}

/// A shell cannot say which capabilities it has, but the kernel can.
const CAPS: &str = "grep CapEff /proc/self/status";

fn users() -> Vec<Row> {
    vec![
        row(
            "image without a user",
            plain,
            ("id -u; id -g; id -G", "0\n0\n0\n"),
            (|h| h.status("Uid"), "0 0 0 0"),
        ),
        row(
            "runAsUser alone: the group is the one of the image's passwd",
            |_, c| c.user = user(Some(33), None, &[]),
            ("id -u; id -g; id -G", "33\n34\n34 50\n"),
            (|h| h.status("Gid"), "34 34 34 34"),
        ),
        row(
            "a user that the image does not know",
            |_, c| c.user = user(Some(4711), None, &[]),
            ("id -u; id -g", "4711\n0\n"),
            (|h| h.status("Uid"), "4711 4711 4711 4711"),
        ),
        row(
            "runAsGroup",
            |_, c| c.user = user(Some(33), Some(99), &[]),
            ("id -g", "99\n"),
            (|h| h.status("Gid"), "99 99 99 99"),
        ),
        row(
            "supplementalGroups, merged with the image's",
            |_, c| c.user = user(Some(33), None, &[7]),
            ("id -u", "33\n"),
            (|h| h.status("Groups"), "7 34 50"),
        ),
        row(
            "supplementalGroupsPolicy: Strict",
            |_, c| c.user = UserRequest { strict: true, ..user(Some(33), None, &[7]) },
            ("id -u", "33\n"),
            (|h| h.status("Groups"), "7 34"),
        ),
        row(
            "the image's user by name",
            |_, c| image(c).config.user = "web".into(),
            ("id -u; id -g", "33\n34\n"),
            (|h| h.status("Uid"), "33 33 33 33"),
        ),
        row(
            "the image's user and group by name",
            |_, c| image(c).config.user = "web:logs".into(),
            ("id -u; id -g", "33\n50\n"),
            (|h| h.status("Gid"), "50 50 50 50"),
        ),
        row(
            "HOME from the image's passwd",
            |_, c| image(c).config.user = "33".into(),
            ("echo $HOME", "/srv\n"),
            (|h| h.status("Uid"), "33 33 33 33"),
        ),
        row(
            "standard streams belong to the user",
            |_, c| c.user = User { uid: 33, gid: 34, additional_gids: vec![] }.into(),
            ("echo y > /dev/stdout", "y\n"),
            (|h| fs::metadata(format!("/proc/{}/fd/1", h.pid)).unwrap().uid().to_string(), "33"),
        ),
        row(
            "ulimits",
            |_, _| {},
            ("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Sl", "1000\n2000\n0\n4\n"),
            (|h| h.ulimit("Max open files"), "1000 2000"),
        ),
        row(
            "ulimits with hostUsers: false",
            |s, _| s.user_namespace = true,
            ("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Sl", "1000\n2000\n0\n4\n"),
            (|h| h.ulimit("Max core file size"), "0 0"),
        ),
        row(
            "hostUsers: false",
            |s, _| s.user_namespace = true,
            ("cat /proc/self/uid_map | tr -s ' '; id -u", " 0 65536 65536\n0\n"),
            (|h| h.status("Uid"), "65536 65536 65536 65536"),
        ),
    ]
}

fn rights() -> Vec<Row> {
    vec![
        row(
            "capabilities by default",
            plain,
            (CAPS, "CapEff:\t00000000a80425fb\n"),
            (|h| h.status("CapBnd"), "00000000a80425fb"),
        ),
        row(
            "capabilities of a user that is not root",
            |_, c| c.user = user(Some(33), None, &[]),
            (CAPS, "CapEff:\t0000000000000000\n"),
            (|h| h.status("CapBnd"), "00000000a80425fb"),
        ),
        row(
            "capabilities: add",
            |_, c| c.add_capabilities = vec!["NET_ADMIN".into()],
            ("ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu", "1400\n"),
            (|h| h.status("CapEff"), "00000000a80435fb"),
        ),
        row(
            "capabilities: drop",
            |_, c| c.drop_capabilities = vec!["CHOWN".into()],
            ("touch /tmp/x; chown 5 /tmp/x 2>&1", "chown: /tmp/x: Operation not permitted\n"),
            (|h| h.status("CapEff"), "00000000a80425fa"),
        ),
        row(
            "capabilities: drop ALL",
            |_, c| c.drop_capabilities = vec!["ALL".into()],
            (CAPS, "CapEff:\t0000000000000000\n"),
            (|h| h.status("CapBnd"), "0000000000000000"),
        ),
        row(
            "capabilities: drop ALL, add one",
            |_, c| (c.drop_capabilities, c.add_capabilities) = (vec!["ALL".into()], vec!["CAP_KILL".into()]),
            (CAPS, "CapEff:\t0000000000000020\n"),
            (|h| h.status("CapBnd"), "0000000000000020"),
        ),
        row(
            "nothing is inheritable or ambient",
            |_, c| c.add_capabilities = vec!["SYS_ADMIN".into()],
            ("grep -c 'Cap[IA][nm][hb]:.0000000000000000' /proc/self/status", "2\n"),
            (|h| h.status("CapAmb"), "0000000000000000"),
        ),
        row(
            "allowPrivilegeEscalation: false",
            |_, c| c.no_new_privileges = true,
            ("grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
            (|h| h.status("NoNewPrivs"), "1"),
        ),
        row(
            "allowPrivilegeEscalation by default",
            plain,
            ("grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"),
            (|h| h.status("NoNewPrivs"), "0"),
        ),
        row(
            "privileged",
            |_, c| c.privileged = true,
            ("ls /dev/kmsg; mount -t tmpfs x /tmp && echo mounted", "/dev/kmsg\nmounted\n"),
            (
                |h| {
                    (h.status("CapEff")
                        == Host { pid: std::process::id(), cgroup: String::new() }.status("CapPrm"))
                    .to_string()
                },
                "true",
            ),
        ),
        row(
            "privileged: no filter",
            |_, c| c.privileged = true,
            ("grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
            (|h| h.status("Seccomp"), "0"),
        ),
        row(
            "privileged: /sys can be written to",
            |_, c| c.privileged = true,
            ("ls /sys/firmware | wc -l | tr -d 0 | wc -w", "1\n"),
            (|h| h.mount("/sys"), "rw,nosuid,nodev,noexec sysfs"),
        ),
        row(
            "seccomp: RuntimeDefault",
            plain,
            ("unshare -U true 2>&1", "unshare: unshare(0x10000000): Operation not permitted\n"),
            (|h| h.status("Seccomp"), "2"),
        ),
        row(
            "seccomp: Unconfined",
            |_, c| c.seccomp = Seccomp::Unconfined,
            ("unshare -U true && echo made", "made\n"),
            (|h| h.status("Seccomp"), "0"),
        ),
        row(
            "seccomp: RuntimeDefault opens up for SYS_ADMIN",
            |_, c| c.add_capabilities = vec!["SYS_ADMIN".into()],
            ("unshare -m true && echo made", "made\n"),
            (|h| h.status("Seccomp"), "2"),
        ),
    ]
}

fn files() -> Vec<Row> {
    vec![
        row(
            "readOnlyRootFilesystem",
            |_, c| c.read_only_rootfs = true,
            ("touch /x 2>&1; touch /dev/shm/x && echo shm", "touch: /x: Read-only file system\nshm\n"),
            (|h| h.mount("/"), "ro overlay"),
        ),
        row("root file system", plain, ("touch /x && echo made", "made\n"), (|h| h.mount("/"), "rw overlay")),
        row(
            "masked file",
            plain,
            ("cat /proc/interrupts | wc -c", "0\n"),
            (|h| h.mount("/proc/interrupts"), "rw,nosuid tmpfs"),
        ),
        row(
            "masked directory",
            plain,
            (
                "ls /sys/firmware | wc -l; touch /sys/firmware/x 2>&1",
                "0\ntouch: /sys/firmware/x: Read-only file system\n",
            ),
            (|h| h.mount("/sys/firmware"), "ro tmpfs"),
        ),
        row(
            "read-only path",
            plain,
            (
                "(echo 1 > /proc/sys/kernel/panic) 2>&1",
                "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system\n",
            ),
            (|h| h.mount("/proc/sys"), "ro,nosuid,nodev,noexec proc"),
        ),
        row(
            "/proc is the container's",
            plain,
            ("echo $$", "1\n"),
            (|h| h.mount("/proc"), "rw,nosuid,nodev,noexec proc"),
        ),
        row(
            "/sys",
            plain,
            ("touch /sys/x 2>&1", "touch: /sys/x: Read-only file system\n"),
            (|h| h.mount("/sys"), "ro,nosuid,nodev,noexec sysfs"),
        ),
        row(
            "cgroups are its own, and only to be read",
            plain,
            (
                "cat /proc/self/cgroup | grep -cv ':/$'; touch /sys/fs/cgroup/x 2>&1 | tail -c 22",
                "0\nRead-only file system\n",
            ),
            (
                |h| h.mount("/sys/fs/cgroup").split(' ').next().unwrap_or_default().to_owned(),
                "ro,nosuid,nodev,noexec",
            ),
        ),
        row(
            "/dev",
            plain,
            (
                "ls /dev | grep -v core | tr '\\n' ' '",
                "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
            ),
            (|h| h.mount("/dev"), "rw,nosuid tmpfs"),
        ),
        row(
            "devices that are not the usual ones",
            plain,
            (
                "mknod /tmp/d b 254 0 && cat /tmp/d 2>&1 | head -1",
                "cat: can't open '/tmp/d': Operation not permitted\n",
            ),
            (|h| h.namespace("mnt"), "own"),
        ),
        row(
            "usual devices",
            plain,
            (
                "head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo x > /dev/null && echo null",
                "3\n3\nnull\n",
            ),
            (|h| h.owner("/dev/null"), "0 0"),
        ),
        row(
            "terminals of its own",
            plain,
            ("ls /dev/pts; readlink /dev/ptmx", "ptmx\npts/ptmx\n"),
            (|h| h.mount("/dev/pts"), "rw,nosuid,noexec devpts"),
        ),
        row(
            "/dev/shm of the pod, 64 MiB",
            plain,
            (
                "grep -o 'size=[0-9k]*' /proc/mounts | head -3 | grep 65536k | tail -1; touch /dev/shm/x && echo made",
                "size=65536k\nmade\n",
            ),
            (|h| h.mount("/dev/shm"), "rw,nosuid,nodev,noexec tmpfs"),
        ),
        row(
            "/dev/mqueue",
            plain,
            ("touch /dev/mqueue/q && ls /dev/mqueue", "q\n"),
            (|h| h.mount("/dev/mqueue"), "rw,nosuid,nodev,noexec mqueue"),
        ),
        row(
            "workingDir, made if it is missing",
            |_, c| c.working_dir = Some("/made/for/it".into()),
            ("pwd", "/made/for/it\n"),
            (
                |h| fs::read_link(format!("/proc/{}/cwd", h.pid)).unwrap().display().to_string(),
                "/made/for/it",
            ),
        ),
        row(
            "the image's working directory",
            |_, c| image(c).config.working_dir = "/etc".into(),
            ("pwd", "/etc\n"),
            (|h| fs::read_link(format!("/proc/{}/cwd", h.pid)).unwrap().display().to_string(), "/etc"),
        ),
        row(
            "volume",
            |_, c| c.mounts = volume(false, Propagation::Private),
            ("ls -d /vol/doc", "/vol/doc\n"),
            (|h| h.mount("/vol").split(' ').skip(1).collect::<Vec<_>>().join(" "), "ext4"),
        ),
        row(
            "volume, read-only",
            |_, c| c.mounts = volume(true, Propagation::Private),
            ("touch /vol/x 2>&1", "touch: /vol/x: Read-only file system\n"),
            (|h| h.mount("/vol")[..2].to_owned(), "ro"),
        ),
        row(
            "a file as a volume",
            |_, c| {
                c.mounts = vec![Mount {
                    source: "/etc/hostname".into(),
                    destination: "/etc/deep/name".into(),
                    read_only: true,
                    ..Mount::default()
                }];
            },
            ("ls /etc/deep", "name\n"),
            (|h| h.mount("/etc/deep/name")[..2].to_owned(), "ro"),
        ),
    ]
}

fn process() -> Vec<Row> {
    vec![
        row(
            "entrypoint and command of the image",
            |_, c| {
                c.command = vec![];
                let script = "echo $0 $1; echo '[up]'; exec sleep 1000";
                image(c).config.entrypoint = vec!["/bin/sh".into(), "-c".into(), script.into()];
                image(c).config.cmd = vec!["zero".into(), "one".into()];
            },
            ("", "zero one\n"),
            (|h| h.status("Name"), "sleep"),
        ),
        row(
            "args take the place of the image's command",
            |_, c| {
                c.command = vec![];
                c.args = vec!["mine".into()];
                let script = "echo $0 $1; echo '[up]'; exec sleep 1000";
                image(c).config.entrypoint = vec!["/bin/sh".into(), "-c".into(), script.into()];
                image(c).config.cmd = vec!["zero".into(), "one".into()];
            },
            ("", "mine\n"),
            (|h| h.status("Name"), "sleep"),
        ),
        row(
            "environment of the image, and over it the pod's",
            |_, c| {
                image(c).config.env = vec!["A=image".into(), "B=image".into()];
                c.env = vec![("B".into(), "pod".into()), ("C".into(), "a b".into())];
            },
            ("echo $A $B \"$C\"", "image pod a b\n"),
            (|h| h.read("environ").split('\0').filter(|v| v.starts_with("B=")).collect(), "B=pod"),
        ),
        row(
            "PATH and HOSTNAME",
            plain,
            (
                "echo $PATH $HOSTNAME",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin pod-name\n",
            ),
            (|h| h.status("Name"), "sleep"),
        ),
        row("umask", plain, ("umask", "0022\n"), (|h| h.status("Umask"), "0022")),
        row(
            "signals as a program expects them",
            plain,
            ("grep -E 'Sig(Ign|Blk)' /proc/self/status | tr -d '\\t0'", "SigBlk:\nSigIgn:\n"),
            (|h| h.status("SigIgn"), "0000000000000000"),
        ),
        row(
            "no descriptor of ours",
            plain,
            ("ls /proc/self/fd | wc -l", "4\n"),
            (|h| fs::read_dir(format!("/proc/{}/fd", h.pid)).unwrap().count().to_string(), "3"),
        ),
        row(
            "a session of its own",
            plain,
            ("cut -d' ' -f6 /proc/1/stat", "1\n"),
            (|h| h.status("NSsid").rsplit(' ').next().unwrap_or_default().to_owned(), "1"),
        ),
        row(
            "stdin is empty",
            plain,
            ("cat | wc -c", "0\n"),
            (|h| fs::read_link(format!("/proc/{}/fd/0", h.pid)).unwrap().display().to_string(), "/dev/null"),
        ),
        row(
            "stdin",
            |_, c| c.stdin = true,
            ("readlink /proc/self/fd/0 | cut -c1-5", "pipe:\n"),
            (
                |h| {
                    fs::read_link(format!("/proc/{}/fd/0", h.pid)).unwrap().display().to_string()[..5]
                        .to_owned()
                },
                "pipe:",
            ),
        ),
        row(
            "tty",
            |_, c| c.tty = true,
            ("tty", "/dev/pts/0\r\n"),
            (|h| h.mount("/dev/console"), "rw,nosuid,noexec devpts"),
        ),
        row(
            "oomScoreAdj",
            |_, c| c.resources.oom_score_adj = Some(987),
            ("cat /proc/self/oom_score_adj", "987\n"),
            (|h| h.read("oom_score_adj"), "987\n"),
        ),
    ]
}

fn namespaces() -> Vec<Row> {
    vec![
        row(
            "a plain pod",
            plain,
            ("hostname; ls /sys/class/net", "pod-name\nlo\n"),
            (Host::namespaces, "mnt own, pid own, net own, ipc own, uts own, cgroup own, user host"),
        ),
        row(
            "hostNetwork: the host's name too",
            |s, _| s.host_network = true,
            ("ls -d /sys/class/net/lo", "/sys/class/net/lo\n"),
            (Host::namespaces, "mnt own, pid own, net host, ipc own, uts host, cgroup own, user host"),
        ),
        row(
            "hostIPC",
            |s, _| s.host_ipc = true,
            ("ls -d /dev/shm", "/dev/shm\n"),
            (Host::namespaces, "mnt own, pid own, net own, ipc host, uts own, cgroup own, user host"),
        ),
        row(
            "hostPID",
            |s, _| s.host_pid = true,
            ("[ $$ -gt 1 ] && cat /proc/2/comm", "kthreadd\n"),
            (Host::namespaces, "mnt own, pid host, net own, ipc own, uts own, cgroup own, user host"),
        ),
        row(
            "shareProcessNamespace",
            |s, _| s.share_pid = true,
            ("cat /proc/1/comm; [ $$ -gt 1 ] && echo not the first", "orlop-init\nnot the first\n"),
            (Host::namespaces, "mnt own, pid own, net own, ipc own, uts own, cgroup own, user host"),
        ),
        row(
            "hostUsers: false",
            |s, _| s.user_namespace = true,
            ("cat /proc/self/gid_map | tr -s ' '", " 0 65536 65536\n"),
            (Host::namespaces, "mnt own, pid own, net own, ipc own, uts own, cgroup own, user own"),
        ),
        row(
            "hostname",
            |s, _| s.hostname = "another".into(),
            ("hostname; echo $HOSTNAME", "another\nanother\n"),
            (|h| h.namespace("uts"), "own"),
        ),
        row(
            "sysctl of the network",
            |s, _| s.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into(),
            ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n"),
            (|h| h.namespace("net"), "own"),
        ),
        row(
            "sysctl of IPC",
            |s, _| s.sysctls = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into(),
            ("cat /proc/sys/kernel/shm_rmid_forced", "1\n"),
            (|h| h.namespace("ipc"), "own"),
        ),
    ]
}

/// From inside, where a limit can be seen to hold; else in the container's own view of its cgroup.
fn resources() -> Vec<Row> {
    vec![
        row(
            "memory limit",
            |_, c| c.resources.memory_limit = Some(32 << 20),
            (
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
                "33554432\n",
            ),
            (|h| h.limit("memory", "memory.limit_in_bytes", "memory.max"), "33554432"),
        ),
        row(
            "cpu request",
            |_, c| c.resources.cpu_shares = Some(512),
            ("cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu.weight 2>/dev/null | tr 59 xx", "x12\n"),
            (|h| h.limit("cpu", "cpu.shares", "cpu.weight").replace("59", "512"), "512"),
        ),
        row(
            "cpu limit",
            |_, c| (c.resources.cpu_quota_us, c.resources.cpu_period_us) = (Some(50_000), Some(100_000)),
            (
                "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | cut -d' ' -f1",
                "50000\n",
            ),
            (|h| h.limit("cpu", "cpu.cfs_quota_us", "cpu.max").replace(" 100000", ""), "50000"),
        ),
        row(
            "number of processes",
            |_, c| c.resources.pids_limit = Some(5),
            ("for n in 1 2 3 4 5 6 7; do sleep 5 & done 2>&1 | grep -c fork", "1\n"),
            (|h| h.limit("pids", "pids.max", "pids.max"), "5"),
        ),
        row(
            "processors",
            |_, c| c.resources.cpuset_cpus = Some("0".into()),
            ("grep Cpus_allowed_list /proc/self/status", "Cpus_allowed_list:\t0\n"),
            (|h| h.status("Cpus_allowed_list"), "0"),
        ),
        row(
            "memory nodes",
            |_, c| c.resources.cpuset_mems = Some("0".into()),
            ("grep Mems_allowed_list /proc/self/status", "Mems_allowed_list:\t0\n"),
            (|h| h.limit("cpuset", "cpuset.mems", "cpuset.mems"), "0"),
        ),
        row(
            "huge pages",
            |_, c| c.resources.hugepages = [("2MB".to_owned(), 4 << 20)].into(),
            ("echo not to be seen where v2 has it beside v1", "not to be seen where v2 has it beside v1\n"),
            (|h| h.limit("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "4194304"),
        ),
        row(
            "limits of the pod",
            |s, _| {
                s.resources =
                    Resources { memory_limit: Some(64 << 20), pids_limit: Some(50), ..Resources::default() }
            },
            ("echo inside a pod", "inside a pod\n"),
            (
                |h| {
                    let cgroup = h.cgroup.rsplit_once('/').unwrap().0.to_owned();
                    let pod = Host { pid: h.pid, cgroup };
                    pod.limit("memory", "memory.limit_in_bytes", "memory.max")
                        + " "
                        + &pod.limit("pids", "pids.max", "pids.max")
                },
                "67108864 50",
            ),
        ),
    ]
}

async fn check(node: &Node, uid: &str, row: &Row) -> Result<(), String> {
    let mut sandbox = node.sandbox(uid);
    let (script, inside) = row.inside;
    let mut spec = node.shell("c", &format!("{script}\necho '[up]'; exec sleep 1000"));
    spec.log_path = node.dir.path().join("logs").join(uid);
    (row.set)(&mut sandbox, &mut spec);
    node.runtime.create_sandbox(&sandbox).await.map_err(|e| chain(&e))?;
    let container = node.runtime.start_container(uid, &spec).await.map_err(|e| chain(&e))?;
    let ContainerState::Running { pid, .. } = container.state else { return Err(format!("{container:?}")) };
    node.wait_for_log(&spec, "[up]").await;
    // The shell is the program's name until it has become it.
    while fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name != "sleep\n") {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let log = node.log(&spec);
    let seen = log.split("[up]").next().unwrap_or_default();
    if seen != inside {
        return Err(format!("inside: {seen:?} is not {inside:?}"));
    }
    let (look, outside) = row.outside;
    let seen = look(&Host { pid, cgroup: format!("{}/{}", sandbox.cgroup, container.id) });
    if seen != outside { Err(format!("outside: {seen:?} is not {outside:?}")) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn every_setting_has_its_effect() {
    let node = Node::new().await;
    let rows: Vec<Row> =
        [users(), rights(), files(), process(), namespaces(), resources()].into_iter().flatten().collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        let uid = format!("row{n}");
        if let Err(text) = check(&node, &uid, row).await {
            wrong.push(format!("{}: {text}", row.name));
        }
        node.runtime.remove_sandbox(&uid).await.unwrap_or_else(|e| panic!("{}: {}", row.name, chain(&e)));
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(!Path::new(&node.pod_dir("row0")).exists());
    node.finish(&[]).await;
}

//! KILL at every system call that changes anything: of what builds a container, of a pod's shim while it starts and while
//! it keeps a container through its whole life. Each time nothing stays behind, nobody waits for ever, and only that pod
//! is concerned.
//!
//! The kills come from strace: it sends the signal with the n-th call of a name. Which there are is seen in a run that is
//! spared. A kill at a call that only looks is one at the next that does something.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Node, chain};
use orlop_runtime::{ContainerState, ExecRequest, RuntimeEvent};

/// Longer than anything may take that a kill interrupted.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls that only look, or concern nobody but the caller.
const NO_EFFECT: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "clock_gettime",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "eventfd2",
    "faccessat",
    "faccessat2",
    "fchdir",
    "chdir",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "pidfd_open",
    "pipe2",
    "poll",
    "ppoll",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvmsg",
    "recvfrom",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "socket",
    "stat",
    "statfs",
    "statx",
    "sysinfo",
    "umask",
    "uname",
];

/// A call that kills: the n-th of this name.
type Moment = (String, usize);

/// `-e` of strace.
fn kill_with((name, nth): &Moment) -> String {
    format!("inject={name}:signal=KILL:when={nth}")
}

/// The calls that change something, by what strace wrote down; of several processes the one that makes most of a kind.
fn moments(trace: &Path) -> BTreeSet<Moment> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let text = fs::read_to_string(trace).unwrap();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let process = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        let (process, call) = (&line[..process], line[process..].trim_start());
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let nth = counts.entry((process, name)).or_default();
        *nth += 1;
        let looks = name.starts_with("open") && !arguments.contains("O_CREAT");
        if !looks && !NO_EFFECT.contains(&name) {
            found.insert((name.to_owned(), *nth));
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// A program that becomes another one and dies at a moment, as does each process that it makes.
struct Doomed {
    dir: tempfile::TempDir,
}

impl Doomed {
    fn new(program: &Path) -> Doomed {
        let dir = tempfile::tempdir().unwrap();
        let doomed = Doomed { dir };
        // The shell becomes the program, so that the pid is its own. strace must not hold its pipes.
        let script = format!(
            "#!/bin/bash
            set -- {program} \"$@\"
            how=$(cat {at})
            [ -n \"$how\" ] || exec \"$@\"
            for fd in /proc/$$/fd/*; do fd=${{fd##*/}}; [ $fd -lt 3 ] || closed+=\" $fd>&-\"; done
            eval \"strace -f -qqq $how -p $$ < /dev/null > /dev/null 2>&1 $closed &\"
            until [ ${{tracer:-0}} != 0 ]; do
              while read -r key value; do [ $key = TracerPid: ] && tracer=$value; done < /proc/$$/status
            done
            exec \"$@\"\n",
            program = program.display(),
            at = doomed.at().display(),
        );
        doomed.spare();
        fs::write(doomed.path(), script).unwrap();
        fs::set_permissions(doomed.path(), fs::Permissions::from_mode(0o755)).unwrap();
        doomed
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    fn kill_at(&self, moment: &Moment) {
        fs::write(self.at(), format!("-o /dev/null -e {}", kill_with(moment))).unwrap();
    }

    fn spare(&self) {
        fs::write(self.at(), "").unwrap();
    }

    fn watch(&self) {
        fs::write(self.at(), format!("-o {}", self.trace().display())).unwrap();
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("trace")
    }
}

/// Starts a container, and gives what became of it after its removal.
async fn start_and_remove(node: &Node, uid: &str, name: &str) -> Result<(), String> {
    let spec = node.container(name, &["/bin/sleep", "1000"]);
    let started = tokio::time::timeout(PATIENCE, node.runtime.start_container(uid, &spec)).await;
    let id = match started.expect("nobody waits for ever") {
        Err(error) => return Err(chain(&error)),
        Ok(container) => container.id,
    };
    node.runtime.stop_container(uid, &id, Some("KILL"), Duration::ZERO).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while node.runtime.remove_container(uid, &id).await.is_err() {
        assert!(Instant::now() < end, "it ends");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_creator_killed_at_any_call_leaves_nothing() {
    let creator = Doomed::new(&common::programs().1);
    let node = Node::with_creator(&creator.path()).await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    creator.watch();
    start_and_remove(&node, "u1", "watched").await.unwrap();
    let (moments, mounts) = (moments(&creator.trace()), node.mounts().len());
    let mut failed = 0;
    for (round, moment) in moments.iter().enumerate() {
        let name = format!("c{round}");
        creator.kill_at(moment);
        failed += usize::from(start_and_remove(&node, "u1", &name).await.is_err());
        let id = orlop_runtime::container_id("u1", &name, 0);
        assert_eq!(common::names(&node.pod_dir("u1").join("c")), Vec::<String>::new(), "{moment:?}");
        assert!(!node.cgroups().iter().any(|dir| dir.ends_with(&id)), "{moment:?}");
        assert_eq!(node.mounts().len(), mounts, "{moment:?}");
        if round % 16 == 0 {
            creator.spare();
            start_and_remove(&node, "u1", &name).await.unwrap();
        }
    }
    eprintln!("{failed} of {} kills came before the program", moments.len());
    assert!(failed * 2 > moments.len(), "{failed} of {}", moments.len());
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_shim_killed_at_any_call_of_its_start_is_started_again() {
    let (shim, creator) = common::programs();
    let shim = Doomed::new(&shim);
    let node = Node::with_programs(&shim.path(), &creator).await;
    shim.watch();
    node.runtime.create_sandbox(&node.sandbox("u0")).await.unwrap();
    node.runtime.remove_sandbox("u0").await.unwrap();
    for (round, moment) in moments(&shim.trace()).iter().enumerate() {
        let uid = format!("u{round}");
        shim.kill_at(moment);
        let made = tokio::time::timeout(PATIENCE, node.runtime.create_sandbox(&node.sandbox(&uid))).await;
        let made = made.expect("nobody waits for ever");
        shim.spare();
        if made.is_err() {
            let again = node.runtime.create_sandbox(&node.sandbox(&uid)).await;
            again.unwrap_or_else(|error| panic!("{moment:?}: {}", chain(&error)));
        }
        node.runtime
            .remove_sandbox(&uid)
            .await
            .unwrap_or_else(|error| panic!("{moment:?}: {}", chain(&error)));
        assert_eq!(common::names(&node.dir.path().join("run/pods")), Vec::<String>::new(), "{moment:?}");
    }
    node.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_shim_killed_at_any_call_takes_its_pod_alone_and_is_reported() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("bystander")).await.unwrap();
    let bystander = node.runtime.start_container("bystander", &node.shell("b", "sleep 1000")).await.unwrap();
    // How often the shim looks around differs from life to life: what counts is what it does in each of them.
    let mut moments = BTreeSet::new();
    for life in 0..3 {
        let trace = node.dir.path().join(format!("trace{life}"));
        let spared = one_life(&mut node, &format!("watched{life}"), &["-o", trace.to_str().unwrap()]).await;
        assert!(spared, "it lives when it is spared");
        let seen = self::moments(&trace);
        moments = if life == 0 { seen } else { &moments & &seen };
    }
    let mut killed = 0;
    for (round, moment) in moments.iter().enumerate() {
        let kill = ["-o", "/dev/null", "-e", &kill_with(moment)];
        // A life that ends in fewer steps than the watched ones does not come to its moment: the next one does.
        for attempt in 0..3 {
            if !one_life(&mut node, &format!("u{round}-{attempt}"), &kill).await {
                killed += 1;
                break;
            }
        }
    }
    eprintln!("{killed} of {} shims died", moments.len());
    assert!(killed * 10 > moments.len() * 9, "{killed} of {}", moments.len());
    let state = node.runtime.container("bystander", &bystander.id).await.unwrap().state;
    assert_eq!(state, bystander.state, "it never knew");
    node.finish(&["bystander"]).await;
}

/// A client that makes and removes pods in three lanes, and takes on what it finds: killed a millisecond later each time,
/// until it has seen several pods through their lives.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_client_killed_at_any_moment_starts_nothing_twice_and_loses_nothing() {
    let mut node = Node::new().await;
    let (shim, creator) = common::programs();
    let starts = node.dir.path().join("starts");
    fs::create_dir(&starts).unwrap();
    for round in 0..200 {
        let mut churn = Command::new(common::target_dir().join("examples/churn"))
            .args([&shim, &creator, &node.dir.path().join("layer"), node.dir.path()])
            .arg(&node.cgroup)
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(round)).await;
        assert_eq!(churn.try_wait().unwrap(), None, "it only ends when killed");
        churn.kill().unwrap();
        churn.wait().unwrap();
    }
    node.reopen().await;
    let started = common::names(&starts);
    assert!(started.len() > 10, "it did something: {started:?}");
    let twice: Vec<_> = started.iter().filter(|name| name.ends_with("-again")).collect();
    assert!(twice.is_empty(), "started twice: {twice:?}");
    for pod in node.runtime.pods().await {
        node.runtime.remove_sandbox(&pod.pod.uid).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    }
    assert_eq!(common::names(&node.dir.path().join("run/pods")), Vec::<String>::new());
    node.finish(&[]).await;
}

/// A pod whose shim is traced from its first container on; whether the shim outlived that.
async fn one_life(node: &mut Node, uid: &str, how: &[&str]) -> bool {
    node.runtime.create_sandbox(&node.sandbox(uid)).await.unwrap();
    let record = fs::read_to_string(node.pod_dir(uid).join("pid")).unwrap();
    let pid: u32 = record.split(' ').next().unwrap().parse().unwrap();
    let mut strace = trace(pid, how);
    let whole = tokio::time::timeout(PATIENCE, life(node, uid)).await.expect("nobody waits for ever");
    let end = Instant::now() + PATIENCE;
    while !whole && runs(pid) {
        assert!(Instant::now() < end, "{how:?}: only the end of the shim is a reason to fail");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let alive = runs(pid);
    drop(strace.kill());
    strace.wait().unwrap();
    if !alive {
        lost(node, uid, how).await;
    }
    let removed = node.runtime.remove_sandbox(uid).await;
    removed.unwrap_or_else(|error| panic!("{how:?}: {}", chain(&error)));
    assert_eq!(common::names(&node.dir.path().join("run/pods")), ["bystander"], "{how:?}");
    assert_eq!(traces(node, uid), Vec::<String>::new(), "{how:?}");
    alive
}

/// All that a shim does for a container; false as soon as there is no shim.
async fn life(node: &Node, uid: &str) -> bool {
    let runtime = &node.runtime;
    let spec = node.shell("c", "echo up; sleep 1000");
    let Ok(container) = runtime.start_container(uid, &spec).await else { return false };
    let (id, command) = (&container.id, vec!["/bin/echo".to_owned(), "hello".to_owned()]);
    let request = ExecRequest { command, env: vec![], timeout: Some(PATIENCE), max_output: 100 };
    let mut whole = runtime.exec(uid, id, request).await.is_ok();
    whole &= runtime.reopen_log(uid, id).await.is_ok();
    whole &= runtime.stop_container(uid, id, Some("KILL"), Duration::ZERO).await.is_ok();
    while runtime.remove_container(uid, id).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    whole
}

/// The loss is told, and what the shim kept has ended.
async fn lost(node: &mut Node, uid: &str, how: &[&str]) {
    let told = async {
        while node.events.recv().await.unwrap() != (RuntimeEvent::ShimLost { uid: uid.to_owned() }) {}
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{how:?}: the loss is told"));
    let pod = node.runtime.pod(uid).await.unwrap();
    assert!(!pod.shim_alive, "{how:?}");
    for container in &pod.containers {
        assert!(matches!(&container.state, ContainerState::Exited(_)), "{how:?}: {container:?}");
    }
}

/// A strace of a running process.
fn trace(pid: u32, how: &[&str]) -> std::process::Child {
    let mut strace = Command::new("strace");
    strace.arg("-qqq").args(how).args(["-p", &pid.to_string()]);
    let strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
    let end = Instant::now() + PATIENCE;
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty()
            || status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while !traced() {
        assert!(Instant::now() < end, "strace attaches");
        std::thread::sleep(Duration::from_micros(200));
    }
    strace
}

fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// What still names a pod.
fn traces(node: &Node, uid: &str) -> Vec<String> {
    let cgroups = node.cgroups().into_iter().map(|dir| dir.display().to_string());
    let all = cgroups.chain(node.mounts()).chain(node.processes());
    all.filter(|text| text.contains(&format!("/{uid}")) || text.ends_with(&format!("pod{uid}"))).collect()
}

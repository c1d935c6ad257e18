//! How containers and their keepers live and end: stop, exec, restarts of the client, lost shims, removal.

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{Node, chain, until};
use orlop_runtime::{
    ContainerState, ExecError, ExecOutput, ExecRequest, RemoveError, Resources, RuntimeEvent, User,
    stream::StreamedCommand,
};

fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![],
        timeout: Some(Duration::from_secs(20)),
        max_output: 4096,
    }
}

/// On its way in a command is more than the container: root of the host, with descriptors of the shim.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_container_cannot_look_into_a_command_on_its_way_in() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let look = r#"while [ ! -e /tmp/end ]; do for p in /proc/[0-9]*; do
        is() { n=; read -r n < $p/comm; [ "$n" = orlop-shim ]; } 2> /dev/null
        if is; then if [ -e $p/exe ] || [ -e $p/root/bin ] || [ -e $p/fd/0 ]; then is && echo open; else echo shut; fi; fi
        done; done; [ -e /proc/self/fd/0 ] && [ -e /proc/$$/root/bin ] && echo able"#;
    let mut specs = ["ordinary", "tracer"].map(|name| node.shell(name, look));
    specs[1].add_capabilities = vec!["SYS_PTRACE".to_owned()];
    for spec in &specs {
        let container = node.runtime.start_container("u1", spec).await.unwrap();
        let seen = |word: &str| node.log(spec).lines().filter(|line| *line == word).count();
        let deadline = Instant::now() + Duration::from_secs(60);
        let wanted = if spec.name == "tracer" { "open" } else { "shut" };
        while seen(wanted) < 20 {
            assert!(Instant::now() < deadline, "{}: {:?}", spec.name, node.log(spec));
            node.runtime.exec("u1", &container.id, request(&["true"])).await.unwrap();
        }
        node.runtime.exec("u1", &container.id, request(&["touch", "/tmp/end"])).await.unwrap();
        node.wait_for_log(spec, "able").await;
        // Who may trace all of the host's root may trace this too, as under other runtimes: the look is one that sees.
        assert!(spec.name == "tracer" || seen("open") == 0, "{}", node.log(spec));
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn stop_asks_and_then_kills() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let polite = node.shell("polite", "trap 'exit 33' TERM; echo up; while :; do sleep 0.05; done");
    let stubborn = node
        .shell("stubborn", "trap '' TERM; (trap '' TERM; sleep 100) & echo up; while :; do sleep 1; done");
    let usr = node.shell("usr", "trap 'exit 44' USR1; echo up; while :; do sleep 0.05; done");
    for (spec, signal, code) in [(polite, None, 33), (stubborn, None, 137), (usr, Some("SIGUSR1"), 44)] {
        let container = node.runtime.start_container("u1", &spec).await.unwrap();
        node.wait_for_log(&spec, "up").await;
        let removed = node.runtime.remove_container("u1", &container.id).await;
        assert!(matches!(removed, Err(RemoveError::Running(_))));
        let asked = Instant::now();
        let grace = Duration::from_millis(700);
        node.runtime.stop_container("u1", &container.id, signal, grace).await.unwrap();
        let exit = node.exit(&container).await;
        assert_eq!(exit.code, code, "{}", spec.name);
        assert_eq!(exit.code == 137, asked.elapsed() >= grace, "{} {:?}", spec.name, asked.elapsed());
        node.runtime.stop_container("u1", &container.id, None, grace).await.expect("ended: no error");
        node.runtime.remove_container("u1", &container.id).await.unwrap();
    }
    let error = node.runtime.stop_container("u1", "x", Some("SIGNOPE"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown signal \"SIGNOPE\"");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn exec_is_the_container_over_again() {
    // A descriptor that every child of ours inherits.
    let stray = fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let mut spec = node.shell("a", "cat /proc/self/status; echo up; sleep 100");
    spec.user = User { uid: 33, gid: 34, additional_gids: vec![] }.into();
    spec.env = vec![("A".into(), "container".into()), ("B".into(), "container".into())];
    spec.working_dir = Some("/tmp".into());
    spec.resources =
        Resources { oom_score_adj: Some(300), memory_limit: Some(32 << 20), ..Resources::default() };
    spec.no_new_privileges = true;
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "up").await;
    let id = &container.id;
    let exec = |request: ExecRequest| node.runtime.exec("u1", id, request);
    let run = |script: &'static str| exec(request(&["sh", "-c", script]));
    let text = |output: ExecOutput| String::from_utf8(output.output).unwrap();

    let output = run("echo out; echo err >&2; exit 42").await.unwrap();
    assert_eq!((output.exit_code, text(output)), (42, "out\nerr\n".to_owned()));
    let mut with_env =
        request(&["sh", "-c", "echo $A $B $HOME; pwd; id -u; id -G; cat /proc/self/oom_score_adj"]);
    with_env.env = vec![("B".into(), "exec".into())];
    assert_eq!(text(exec(with_env).await.unwrap()), "container exec /srv\n/tmp\n33\n34 50\n300\n");
    let statuses = [node.log(&spec), text(exec(request(&["cat", "/proc/self/status"])).await.unwrap())];
    for name in ["CapEff", "CapBnd", "CapPrm", "Seccomp", "NoNewPrivs", "Uid", "Gid", "Groups", "SigIgn"] {
        let [first, second] = statuses.each_ref().map(|status| {
            status.lines().find(|line| line.starts_with(name)).unwrap().split('\t').nth(1).unwrap().to_owned()
        });
        assert_eq!(first, second, "{name}");
    }
    let limits = text(run("cat /proc/1/limits; echo --; cat /proc/self/limits").await.unwrap());
    let [first, second] = <[&str; 2]>::try_from(limits.split("--\n").collect::<Vec<_>>()).unwrap();
    assert_eq!(first, second);
    let locked = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max locked memory")).unwrap().to_owned();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = locked(&fs::read_to_string("/proc/self/limits").unwrap());
    // Without CAP_SYS_RESOURCE a hard limit cannot be raised, which is known before.
    let raised = node.runtime.clamped_rlimits().is_empty();
    assert_eq!(locked(first), ["4096", if raised { "unlimited" } else { &own[1] }]);
    for kind in ["net", "mnt", "pid", "ipc", "uts"] {
        let link =
            text(exec(request(&["stat", "-c", "%N", &format!("/proc/self/ns/{kind}")])).await.unwrap());
        let own = text(exec(request(&["stat", "-c", "%N", &format!("/proc/1/ns/{kind}")])).await.unwrap());
        let inode = |text: &str| text.split('[').nth(1).map(str::to_owned);
        assert!(inode(&link).is_some() && inode(&link) == inode(&own), "{kind}: {link} {own}");
    }
    let cgroups = text(run("cat /proc/self/cgroup").await.unwrap());
    assert!(
        cgroups.lines().filter(|line| !line.contains("name=")).all(|line| line.ends_with(":/")),
        "{cgroups}"
    );
    assert_eq!(text(exec(request(&["ls", "/proc/self/fd"])).await.unwrap()), "0\n1\n2\n3\n");
    assert_eq!(text(exec(request(&["ls", "/proc/1/fd"])).await.unwrap()), "0\n1\n2\n");
    drop(stray);
    let mut flood = request(&["sh", "-c", "seq 1 100000"]);
    flood.max_output = 10;
    assert_eq!(text(exec(flood).await.unwrap()), "1\n2\n3\n4\n5\n");

    let error = exec(request(&["nope"])).await.unwrap_err();
    assert!(matches!(&error, ExecError::Command(text) if text.contains("not found in $PATH")), "{error:?}");
    let mut slow = request(&["sh", "-c", "echo begun; sleep 1000 & sleep 1000"]);
    slow.timeout = Some(Duration::from_millis(300));
    let started = Instant::now();
    let error = exec(slow).await.unwrap_err();
    assert!(matches!(&error, ExecError::Timeout(output) if output == b"begun\n"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let left = text(run("ps -o args | grep -c '^sleep 1000'").await.unwrap());
    assert_eq!(left, "0\n", "children go with it");
    let error = node.runtime.exec("u1", "unknown", request(&["true"])).await.unwrap_err();
    assert!(matches!(error, ExecError::NotRunning(_)), "{error:?}");
    node.finish(&["u1"]).await;
}

/// Directories of commands below a container's cgroup, in every hierarchy.
fn nests(container: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    let roots =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let mut found = Vec::new();
    for root in roots {
        let dir = format!("{root}/{container}");
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.path().is_dir()).map(|e| format!("{:?}", e.path())));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn children_of_a_command_cannot_hide_from_its_end() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", "echo up; sleep 600");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "up").await;
    let cgroup = format!("{}/{}", node.sandbox("u1").cgroup, container.id);
    let runs = async |what: &str| {
        let script = format!("ps -o args | grep -c '^sleep {what}'");
        let output = node.runtime.exec("u1", &container.id, request(&["sh", "-c", &script])).await.unwrap();
        String::from_utf8(output.output).unwrap().trim().to_owned()
    };
    // A session of its own, and a parent that is gone.
    let hide = |seconds: u32| {
        format!(
            "busybox setsid sh -c 'sleep {seconds} & sleep {seconds} & exit' & (busybox setsid sleep {seconds} &); "
        )
    };

    let mut slow = request(&["sh", "-c", &format!("{} sleep 701", hide(701))]);
    slow.timeout = Some(Duration::from_millis(500));
    let error = node.runtime.exec("u1", &container.id, slow).await.unwrap_err();
    assert!(matches!(&error, ExecError::Timeout(_)), "{error:?}");
    until("all of it is gone", async || runs("701").await == "0").await;

    // Who asked goes away.
    let streamed = StreamedCommand {
        command: ["sh", "-c", &format!("{} sleep 702", hide(702))].map(str::to_owned).to_vec(),
        ..StreamedCommand::default()
    };
    let session = node.runtime.stream("u1", &container.id, streamed).await.unwrap();
    until("it runs", async || runs("702").await == "4").await;
    drop(session);
    until("it went with who asked", async || runs("702").await == "0").await;

    // One that ended in peace leaves its children where they are: they are the container's.
    let peaceful = request(&["sh", "-c", &hide(703)]);
    assert_eq!(node.runtime.exec("u1", &container.id, peaceful).await.unwrap().exit_code, 0);
    until("they go on", async || runs("703").await == "3").await;

    until("no cgroup is left", async || nests(&cgroup).is_empty()).await;
    node.finish(&["u1"]).await;
}

/// Each client lives in a tokio runtime of its own, which ends at once, as a killed process does.
#[test]
#[ignore = "root tier"]
fn a_killed_client_loses_no_line_no_code_and_starts_nothing_twice() {
    let first = tokio::runtime::Runtime::new().unwrap();
    let mut node = first.block_on(Node::new());
    let lines = node.shell("lines", "for i in $(seq 1 2000); do echo $i; done; sleep 1; echo last; exit 17");
    let meanwhile = node.shell("meanwhile", "sleep 0.3; exit 23");
    let started = first.block_on(async {
        node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
        let first = node.runtime.start_container("u1", &lines).await.unwrap();
        (first, node.runtime.start_container("u1", &meanwhile).await.unwrap())
    });
    first.shutdown_background();
    std::thread::sleep(Duration::from_millis(600));
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        node.reopen().await;
        let again = node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
        assert!(again.shim_alive);
        let codes: Vec<_> = again.containers.iter().map(|container| &container.state).collect();
        assert!(matches!(codes[1], ContainerState::Exited(exit) if exit.code == 23), "{codes:?}");
        let same = node.runtime.start_container("u1", &lines).await.unwrap();
        assert_eq!(same.id, started.0.id);
        let exit = node.exit(&same).await;
        assert_eq!(exit.code, 17);
        let expected: String = (1..=2000).map(|n| format!("{n}\n")).collect::<String>() + "last\n";
        assert_eq!(node.log(&lines), expected);
        let ended = node.runtime.start_container("u1", &meanwhile).await.unwrap();
        assert!(matches!(ended.state, ContainerState::Exited(exit) if exit.code == 23));
        node.finish(&["u1"]).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_lost_shim_is_told_and_its_containers_end() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", "echo up; sleep 1000");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    let record = fs::read_to_string(node.pod_dir("u1").join("pid")).unwrap();
    let shim = record.split(' ').next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", shim]).status().unwrap().success());
    let exit = node.exit(&container).await;
    assert_eq!(exit.code, 137);
    let event = tokio::time::timeout(Duration::from_secs(5), node.events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::ShimLost { uid: "u1".into() }));
    let pod = node.runtime.pods().await.pop().unwrap();
    assert!(!pod.shim_alive);
    for _ in 0..100 {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.finish(&["u1"]).await;
}

fn signal(pid: &str, signal: &str) {
    assert!(std::process::Command::new("kill").args([signal, pid]).status().is_ok_and(|end| end.success()));
}

/// Which process `pid` files tell of.
fn recorded(file: &std::path::Path) -> String {
    let text = fs::read_to_string(file).expect("a pid file");
    text.split(' ').next().expect("a pid").to_owned()
}

/// A shim that stands still sees no end; one that is killed then never will.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn the_kernel_tells_the_ends_that_a_lost_shim_did_not_see() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let waits = |then: &str| format!("while [ ! -e /tmp/go ]; do sleep 0.02; done; {then}");
    let specs = [
        node.shell("exits", &waits("exit 42")),
        node.shell("succeeds", &waits("exit 0")),
        node.shell("runs", "sleep 1000"),
    ];
    let mut started = Vec::new();
    for spec in &specs {
        started.push(node.runtime.start_container("u1", spec).await.unwrap());
    }
    // As well when another process of ours has started them.
    node.reopen().await;
    let shim = recorded(&node.pod_dir("u1").join("pid"));
    signal(&shim, "-STOP");
    for container in &started[..2] {
        let dir = node.pod_dir("u1").join("c").join(&container.id);
        let pid = recorded(&dir.join("pid"));
        fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
        let ended = async || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ");
        until("it has ended, and nobody has reaped it", ended).await;
        assert!(!dir.join("exit").exists());
    }
    signal(&shim, "-KILL");
    let mut ends = Vec::new();
    for container in &started {
        let exit = node.exit(container).await;
        assert!(exit.finished_at >= exit.started_at, "{exit:?}");
        ends.push((exit.code, exit.signal));
    }
    assert_eq!(ends, [(42, None), (0, None), (137, Some(9))]);
    let event = tokio::time::timeout(Duration::from_secs(5), node.events.recv()).await.unwrap();
    assert_eq!(event, Some(RuntimeEvent::ShimLost { uid: "u1".into() }), "after the ends");
    node.reopen().await;
    let pod = node.runtime.pods().await.pop().unwrap();
    let kept = pod.containers.iter().map(|container| match &container.state {
        ContainerState::Exited(exit) => exit.code,
        other => panic!("{other:?}"),
    });
    assert_eq!(kept.collect::<Vec<_>>(), [42, 0, 137], "the records say so too");
    node.finish(&["u1"]).await;
}

/// When a machine goes down everybody gets SIGTERM, and then is waited for: a shim ends as soon as nothing of its pod runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_shim_that_is_terminated_ends_with_its_last_container() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo bye; exit 42");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "up").await;
    let shim = recorded(&node.pod_dir("u1").join("pid"));
    signal(&shim, "-TERM");
    // It has heard, and serves on.
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.runtime.exec("u1", &container.id, request(&["touch", "/tmp/go"])).await.unwrap();
    assert_eq!(node.exit(&container).await.code, 42);
    let over =
        async || fs::read_to_string(format!("/proc/{shim}/stat")).map_or(true, |stat| stat.contains(") Z "));
    until("the shim has ended", over).await;
    assert!(node.log(&spec).contains("bye"), "{}", node.log(&spec));
    node.reopen().await;
    let pod = node.runtime.pods().await.pop().unwrap();
    let ContainerState::Exited(exit) = &pod.containers[0].state else { panic!("{pod:?}") };
    assert_eq!((pod.shim_alive, exit.code, exit.signal), (false, 42, None));
    node.finish(&["u1"]).await;
}

/// Shim and client die together: what ended meanwhile nobody has seen, what still runs is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_shim_that_is_lost_while_nobody_looks_leaves_nothing_running() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let runs = node.runtime.start_container("u1", &node.shell("runs", "sleep 1000")).await.unwrap();
    let ends = node.shell("ends", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 42");
    let ends = node.runtime.start_container("u1", &ends).await.unwrap();
    let file = |id: &str| node.pod_dir("u1").join("c").join(id).join("pid");
    let (runs_pid, ends_pid) = (recorded(&file(&runs.id)), recorded(&file(&ends.id)));
    // No client of the shim hears of it: the old one has other directories to look at.
    let (shim, creator) = common::programs();
    let elsewhere = Node::with_programs(&shim, &creator).await;
    let Node { runtime, events, .. } = &elsewhere;
    drop((std::mem::replace(&mut node.runtime, runtime.clone()), events));
    let shim = recorded(&node.pod_dir("u1").join("pid"));
    signal(&shim, "-STOP");
    fs::write(format!("/proc/{ends_pid}/root/tmp/go"), "").unwrap();
    signal(&shim, "-KILL");
    until("it has ended", async || !fs::exists(format!("/proc/{ends_pid}")).unwrap()).await;
    assert!(fs::exists(format!("/proc/{runs_pid}")).unwrap());
    node.reopen().await;
    let pod = node.runtime.pods().await.pop().unwrap();
    assert!(!pod.shim_alive);
    for container in &pod.containers {
        let ContainerState::Exited(exit) = &container.state else { panic!("{container:?}") };
        assert_eq!((exit.code, exit.signal), (137, Some(9)), "{}", container.name);
    }
    until("nothing runs", async || !fs::exists(format!("/proc/{runs_pid}")).unwrap()).await;
    node.finish(&["u1"]).await;
    elsewhere.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn removal_takes_everything_that_still_runs() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    for name in ["a", "b"] {
        let spec = node.shell(name, "trap '' TERM; (sleep 1000 &) ; echo up; sleep 1000");
        node.runtime.start_container("u1", &spec).await.unwrap();
        node.wait_for_log(&spec, "up").await;
    }
    let started = Instant::now();
    node.finish(&["u1"]).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn many_short_containers_at_once() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let specs: Vec<_> =
        (0..12).map(|n| node.shell(&format!("c{n}"), &format!("echo {n}; exit {n}"))).collect();
    let starts = specs.iter().map(|spec| node.runtime.start_container("u1", spec));
    let started = futures::future::join_all(starts).await;
    for (code, container) in started.into_iter().enumerate() {
        let container = container.unwrap_or_else(|e| panic!("{}", chain(&e)));
        let known = node.runtime.container("u1", &container.id).await.unwrap();
        let exit = match known.state {
            ContainerState::Exited(exit) => exit,
            _ => node.exit(&container).await,
        };
        assert_eq!(i32::try_from(code), Ok(exit.code));
        assert_eq!(node.log(&specs[code]), format!("{code}\n"));
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_rotated_log_goes_on_in_the_new_file() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", "echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two; sleep 100");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "one").await;
    let old = spec.log_path.with_extension("old");
    fs::rename(&spec.log_path, &old).unwrap();
    node.runtime.reopen_log("u1", &container.id).await.unwrap();
    node.runtime.exec("u1", &container.id, request(&["touch", "/tmp/go"])).await.unwrap();
    node.wait_for_log(&spec, "two").await;
    assert_eq!(node.log(&spec), "two\n");
    assert!(fs::read_to_string(old).unwrap().ends_with("one\n"));
    node.finish(&["u1"]).await;
}

#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup2_only() {
    common::on_cgroup2_only(&[
        "children_of_a_command_cannot_hide_from_its_end",
        "stop_asks_and_then_kills",
        "removal_takes_everything_that_still_runs",
        "a_lost_shim_is_told_and_its_containers_end",
        "the_kernel_tells_the_ends_that_a_lost_shim_did_not_see",
        "a_rotated_log_goes_on_in_the_new_file",
    ]);
}

/// Not on a machine that has nothing but v2.
#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup1_only() {
    common::on_cgroup1_only(&["children_of_a_command_cannot_hide_from_its_end", "stop_asks_and_then_kills"]);
}

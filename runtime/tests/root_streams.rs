//! Commands with streams of their own, and looking on: what a terminal's user and a pipe's program see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Node, chain};
use orlop_runtime::{
    Container, ExecError,
    stream::{Session, StreamedCommand, Streams, Window},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };

async fn pod(node: &Node, script: &str) -> Container {
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", script);
    let started = node.runtime.start_container("u1", &spec).await;
    let container = started.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.wait_for_log(&spec, "up").await;
    container
}

fn shell(script: &str, streams: Streams) -> StreamedCommand {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    StreamedCommand { command, streams, ..StreamedCommand::default() }
}

async fn all(from: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(10), from.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn until(from: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let mut bytes = [0; 1024];
        let got = tokio::time::timeout(Duration::from_secs(10), from.read(&mut bytes));
        let got = got.await.unwrap_or_else(|_| panic!("{wanted:?} in {seen:?}")).unwrap();
        assert_ne!(got, 0, "{wanted:?} in {seen:?}");
        seen += &String::from_utf8_lossy(&bytes[..got]);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn three_streams_an_exit_code_and_the_end_of_the_input() {
    let node = Node::new().await;
    let id = pod(&node, "echo up; sleep 1000").await.id;
    let stream = |command| node.runtime.stream("u1", &id, command);
    let mut session = stream(shell("wc -c; echo err >&2; exit 42", ALL)).await.unwrap();
    let mut stdin = session.ends.stdin.take().unwrap();
    let text = "x".repeat(300_000);
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    assert_eq!(all(session.ends.stdout.as_mut().unwrap()).await.trim(), "300000");
    assert_eq!(all(session.ends.stderr.as_mut().unwrap()).await, "err\n");
    assert_eq!(session.wait().await.unwrap(), 42);

    let only_out = Streams { stdout: true, ..Streams::default() };
    let mut session = stream(shell("cat; echo err >&2; echo out", only_out)).await.unwrap();
    assert_eq!(all(session.ends.stdout.as_mut().unwrap()).await, "out\n", "no input is an empty one");
    assert_eq!(session.wait().await.unwrap(), 0);

    // A process that stays behind keeps the pipe, not the command.
    let mut session = stream(shell("sleep 1000 & echo $!", only_out)).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), 0);
    let missing =
        StreamedCommand { command: vec!["nope".into()], streams: ALL, ..StreamedCommand::default() };
    let error = stream(missing).await.unwrap().wait().await.unwrap_err();
    assert!(matches!(&error, ExecError::Command(text) if text.contains("not found in $PATH")), "{error:?}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_terminal_of_the_container_that_can_be_resized() {
    let node = Node::new().await;
    let mut spec = node.shell("a", "echo up; sleep 1000");
    spec.user = orlop_runtime::User { uid: 33, gid: 34, additional_gids: vec![] }.into();
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    node.wait_for_log(&spec, "up").await;
    let terminal = |script: &str| StreamedCommand {
        terminal: Some(Window { rows: 31, columns: 97 }),
        ..shell(script, Streams::default())
    };
    let script = "tty; stty size; echo own > /dev/pts/0; echo ctl > /dev/tty; trap 'stty size; exit 5' WINCH; echo go; \
                  while :; do sleep 0.05; done";
    let mut session = node.runtime.stream("u1", &id, terminal(script)).await.unwrap();
    let mut tty = session.ends.terminal.take().unwrap();
    let seen = until(&mut tty, "go\r\n").await;
    assert_eq!(seen, "/dev/pts/0\r\n31 97\r\nown\r\nctl\r\ngo\r\n");
    tty.resize(Window { rows: 10, columns: 20 }).unwrap();
    assert_eq!(all(&mut tty).await, "10 20\r\n");
    assert_eq!(session.wait().await.unwrap(), 5);

    let mut session =
        node.runtime.stream("u1", &id, terminal("read line; echo got $line; sleep 1000")).await.unwrap();
    let mut tty = session.ends.terminal.take().unwrap();
    tty.write_all(b"words\n").await.unwrap();
    until(&mut tty, "got words").await;
    tty.write_all(&[3]).await.unwrap();
    assert_eq!(session.wait().await.unwrap(), 130, "^C is a signal to the program in the terminal");

    let missing = StreamedCommand { command: vec!["nope".into()], ..terminal("") };
    let error = node.runtime.stream("u1", &id, missing).await.unwrap().wait().await.unwrap_err();
    assert!(matches!(&error, ExecError::Command(_)), "{error:?}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_session_that_ends_takes_its_command_with_it() {
    let node = Node::new().await;
    let id = pod(&node, "echo up; sleep 1000").await.id;
    let count = || async {
        let script = "ps -o args | grep -c '^sleep 77'";
        let mut session = node.runtime.stream("u1", &id, shell(script, ALL)).await.unwrap();
        all(session.ends.stdout.as_mut().unwrap()).await.trim().to_owned()
    };
    let session = node.runtime.stream("u1", &id, shell("sleep 77 & sleep 77; sleep 77", ALL)).await.unwrap();
    while count().await != "2" {}
    drop(session);
    while count().await != "0" {}
    let mut slow = shell("echo begun; sleep 77 & sleep 77", ALL);
    slow.timeout = Some(Duration::from_millis(200));
    let mut session = node.runtime.stream("u1", &id, slow).await.unwrap();
    assert!(matches!(session.wait().await, Err(ExecError::Timeout(_))));
    assert_eq!(all(session.ends.stdout.as_mut().unwrap()).await, "begun\n");
    assert_eq!(count().await, "0");
    let error =
        node.runtime.stream("u1", "unknown", shell("true", ALL)).await.unwrap().wait().await.unwrap_err();
    assert!(matches!(error, ExecError::NotRunning(_)), "{error:?}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn looking_on_while_a_container_runs() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let mut spec =
        node.shell("a", "echo up; while read line; do echo \"<$line>\"; echo e >&2; done; echo end; exit 7");
    spec.stdin = true;
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    node.wait_for_log(&spec, "up").await;
    let attach = |streams| node.runtime.attach("u1", &id, streams);
    let mut first = attach(ALL).await.unwrap();
    let mut second: Session = attach(Streams { stdin: false, ..ALL }).await.unwrap();
    let mut stdin = first.ends.stdin.take().unwrap();
    for word in ["one", "two"] {
        stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        for session in [&mut first, &mut second] {
            assert_eq!(until(session.ends.stdout.as_mut().unwrap(), "\n").await, format!("<{word}>\n"));
            assert_eq!(until(session.ends.stderr.as_mut().unwrap(), "\n").await, "e\n");
        }
    }
    // The end of one looker's input is not the end of the container's.
    drop(stdin);
    drop(first);
    let mut third = attach(ALL).await.unwrap();
    third.ends.stdin.as_mut().unwrap().write_all(b"three\n").await.unwrap();
    assert_eq!(until(second.ends.stdout.as_mut().unwrap(), "\n").await, "<three>\n");
    assert_eq!(until(second.ends.stderr.as_mut().unwrap(), "\n").await, "e\n");
    node.runtime.stop_container("u1", &id, Some("KILL"), Duration::ZERO).await.unwrap();
    for session in [&mut second, &mut third] {
        assert_eq!(session.wait().await.unwrap(), 0);
        all(session.ends.stdout.as_mut().unwrap()).await;
    }
    assert_eq!(node.log(&spec), "up\n<one>\ne\n<two>\ne\n<three>\ne\n", "the log has all of it, once");
    node.finish(&["u1"]).await;
}

/// `tty: true`: the container's own terminal, seen by itself, by who looks on, and in the log.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_container_with_a_terminal() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let script = "tty; stat -c %u:%t /dev/console /dev/pts/0; echo console > /dev/console; echo ctl > /dev/tty; \
                  echo err >&2; echo up; while read -r line; do echo \"<$line>\"; stty size; done; exit 3";
    let mut spec = node.shell("a", script);
    (spec.tty, spec.stdin) = (true, true);
    spec.user = orlop_runtime::User { uid: 33, gid: 34, additional_gids: vec![] }.into();
    let container =
        node.runtime.start_container("u1", &spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let id = &container.id;
    node.wait_for_log(&spec, "up").await;
    let seen = "/dev/pts/0\r\n33:88\r\n33:88\r\nconsole\r\nctl\r\nerr\r\nup\r\n";
    assert_eq!(node.log(&spec), seen, "one stream, and the line ends of a terminal");

    node.runtime.resize("u1", id, Window { rows: 12, columns: 34 }).await.unwrap();
    let mut first = node.runtime.attach("u1", id, ALL).await.unwrap();
    let mut second = node.runtime.attach("u1", id, Streams { stdin: false, ..ALL }).await.unwrap();
    let mut stdin = first.ends.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    for session in [&mut first, &mut second] {
        let seen = until(session.ends.stdout.as_mut().unwrap(), "12 34\r\n").await;
        assert_eq!(seen, "one\r\n<one>\r\n12 34\r\n", "the terminal's echo, the answer, the size");
    }
    // One that leaves does not end the input of a container that wants more than one.
    drop((stdin, first));
    let mut third = node.runtime.attach("u1", id, ALL).await.unwrap();
    let mut stdin = third.ends.stdin.take().unwrap();
    stdin.write_all(b"two\n\x04").await.unwrap();
    assert_eq!(node.exit(&container).await.code, 3, "^D ends the input");
    assert!(all(third.ends.stdout.as_mut().unwrap()).await.contains("<two>"));
    assert!(all(second.ends.stdout.as_mut().unwrap()).await.contains("<two>"));
    let gone = node.runtime.resize("u1", id, Window::default()).await.unwrap_err();
    assert!(gone.to_string().contains("has no terminal"), "{gone}");
    node.finish(&["u1"]).await;
}

/// `stdinOnce`: the input ends with the first who gave any, also when that one was just cut off.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn an_input_that_ends_with_the_first_who_leaves() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    for (n, cut_off) in [false, true].into_iter().enumerate() {
        let mut spec =
            node.shell(&format!("a{n}"), "echo up; while read -r line; do echo \"<$line>\"; done; exit 4");
        (spec.stdin, spec.stdin_once) = (true, true);
        let container = node.runtime.start_container("u1", &spec).await.unwrap();
        node.wait_for_log(&spec, "up").await;
        let mut session = node.runtime.attach("u1", &container.id, ALL).await.unwrap();
        session.ends.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
        assert_eq!(until(session.ends.stdout.as_mut().unwrap(), "\n").await, "<one>\n");
        if cut_off {
            drop(session);
        } else {
            drop(session.ends.stdin.take());
        }
        assert_eq!(node.exit(&container).await.code, 4);
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn who_does_not_read_is_let_go_and_the_container_goes_on() {
    let node = Node::new().await;
    let script = "echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done; seq 1 200000; echo done; sleep 1000";
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("a", script);
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    node.wait_for_log(&spec, "up").await;
    let mut idle = node.runtime.attach("u1", &id, Streams { stdin: false, ..ALL }).await.unwrap();
    let mut go = node.runtime.stream("u1", &id, shell("touch /tmp/go", ALL)).await.unwrap();
    assert_eq!(go.wait().await.unwrap(), 0);
    node.wait_for_log(&spec, "done").await;
    let error = idle.wait().await.unwrap_err();
    assert!(error.to_string().contains("not read fast enough"), "{error}");
    node.finish(&["u1"]).await;
}

/// A container that never stops writing, and a log that is put aside again and again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn no_line_is_lost_when_logs_are_put_aside() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo $i; [ $((i % 300)) = 0 ] && sleep 0.02; done; \
                  touch /tmp/done; sleep 1000";
    let spec = node.shell("a", script);
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    let mut now = jiff::Timestamp::now();
    loop {
        let mut asked = node.runtime.stream("u1", &id, shell("test -e /tmp/done", ALL)).await.unwrap();
        let done = asked.wait().await.unwrap() == 0;
        now += Duration::from_secs(1);
        let failures = node.runtime.rotate_logs(now, |_| true).await;
        assert!(failures.is_empty(), "{failures:?}");
        if done {
            break;
        }
    }
    let dir = spec.log_path.parent().unwrap();
    let mut files = common::names(dir);
    files.sort();
    let compressed = files.iter().filter(|name| name.ends_with(".gz")).count();
    assert!(compressed > 3 && files.len() == compressed + 2, "{files:?}");
    // The one being written sorts before the ones put aside.
    files.rotate_left(1);
    let mut seen = String::new();
    for name in files {
        let cat = if name.ends_with(".gz") { "zcat" } else { "cat" };
        let output = std::process::Command::new(cat).arg(dir.join(&name)).output().unwrap();
        assert!(output.status.success(), "{cat} {name}");
        let lines = String::from_utf8(output.stdout).unwrap();
        seen.extend(lines.lines().map(|line| format!("{}\n", line.rsplit(' ').next().unwrap())));
    }
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    assert!(seen == expected, "every line once, in order");
    node.finish(&["u1"]).await;
}

/// The shim tells, once, when a log is full; also an agent that comes later. A log that was removed is begun again, and
/// one that was cut counts from there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn full_logs_are_told_and_others_never_looked_at() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let script = "echo up; n=0; while true; do sleep 0.02; [ -e /tmp/go ] && rm /tmp/go && seq 1 2000 && sleep 0.1 && \
                  n=$((n+1)) && echo more$n; done";
    let spec = node.shell("a", script);
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    node.wait_for_log(&spec, "up").await;
    let told_within = async |node: &Node, ms: u64| {
        tokio::time::timeout(Duration::from_millis(ms), node.runtime.full_logs()).await.is_ok()
    };
    let told = async |node: &Node| told_within(node, 10_000).await;
    let quiet = async |node: &Node| !told_within(node, 300).await;
    let write = async |node: &Node| {
        let mut go = node.runtime.stream("u1", &id, shell("touch /tmp/go", ALL)).await.unwrap();
        assert_eq!(go.wait().await.unwrap(), 0);
    };
    assert!(quiet(&node).await, "nothing is full yet");
    write(&node).await;
    assert!(told(&node).await, "70 kB are more than 32");
    node.reopen().await;
    assert!(told(&node).await, "nor does a new agent miss it");
    let mut now = jiff::Timestamp::now();
    node.wait_for_log(&spec, "more1").await;
    assert!(node.runtime.rotate_logs(now, |_| true).await.is_empty());
    assert!(quiet(&node).await, "it is small again");
    let dir = spec.log_path.parent().unwrap();
    assert_eq!(common::names(dir).len(), 2, "{:?}", common::names(dir));
    std::fs::remove_file(&spec.log_path).unwrap();
    write(&node).await;
    common::until("the log is there again", async || spec.log_path.exists()).await;
    write(&node).await;
    assert!(told(&node).await, "it is full again");
    // What is still on its way into it would make it a log that is not empty.
    node.wait_for_log(&spec, "more3").await;
    std::fs::write(&spec.log_path, "").unwrap();
    now += Duration::from_secs(1);
    assert!(node.runtime.rotate_logs(now, |_| true).await.is_empty());
    assert_eq!(common::names(dir).len(), 2, "an empty log is not put aside");
    write(&node).await;
    assert!(told(&node).await, "from nothing to full");
    node.finish(&["u1"]).await;
}

/// `/dev/stdout` of a program that is not root: it is opened anew, by the rights of that user.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn anybody_may_open_the_standard_streams() {
    let node = Node::new().await;
    let mut spec = node.shell("a", "echo up > /dev/stdout; echo err > /dev/stderr; sleep 1000");
    spec.user = orlop_runtime::User { uid: 33, gid: 34, additional_gids: vec![] }.into();
    spec.drop_capabilities = vec!["ALL".into()];
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let id = node.runtime.start_container("u1", &spec).await.unwrap().id;
    node.wait_for_log(&spec, "err").await;
    let script = "cat < /dev/stdin > /dev/stdout; echo err > /dev/stderr";
    let mut session = node.runtime.stream("u1", &id, shell(script, ALL)).await.unwrap();
    let mut stdin = session.ends.stdin.take().unwrap();
    stdin.write_all(b"in").await.unwrap();
    drop(stdin);
    assert_eq!(all(session.ends.stdout.as_mut().unwrap()).await, "in");
    assert_eq!(all(session.ends.stderr.as_mut().unwrap()).await, "err\n");
    node.finish(&["u1"]).await;
}

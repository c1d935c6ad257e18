//! Towards a running pod.

use expect_test::expect;

use super::{ALWAYS, INIT, ONE, check};

#[test]
fn everything_independent_starts_at_once() {
    check(
        ONE,
        &["begin", "sandbox", "network", "image c", "volumes", "started c", "exit c 7", "written"],
        expect![[r#"
            > begin
              volumes
              sandbox
              image i for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > sandbox
              network
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > network
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > image c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > volumes
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > started c
              = Running, ready True: 
                c: running, ready
            > exit c 7
              = Failed, ready False: PodFailed
                c: terminated Error 7
            > written
              remove sandbox
              = Failed, ready False: PodFailed
                c: terminated Error 7
        "#]],
    );
}

#[test]
fn missing_configmap_is_tried_again() {
    check(
        ALWAYS,
        &["begin; up; image c; config-error c", "wait 1; started c"],
        expect![[r#"
        > begin; up; image c; config-error c
          volumes
          sandbox
          image i for c
          start c#0
          look again in 500ms
          = Pending, ready False: containers with unready status: [c]
            c: waiting CreateContainerConfigError configmap "x" not found
        > wait 1; started c
          start c#0
          = Running, ready True: 
            c: running, ready
    "#]],
    );
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_end_last() {
    check(
        INIT,
        &[
            "begin; up",
            "image one; started one",
            "exit one 0",
            "image side; started side",
            "image a; image b",
            "started b",
            "started a",
            "exit a 0; exit b 0",
            "exit side 143",
            "written; sandbox-removed",
        ],
        expect![[r#"
            > begin; up
              volumes
              sandbox
              image i for one
              = Pending, ready False: containers with unready status: [side b a]
                one: waiting PodInitializing
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
            > image one; started one
              start one#0
              = Pending, ready False: containers with unready status: [side b a]
                one: running
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
            > exit one 0
              image i for side
              = Pending, ready False: containers with unready status: [side b a]
                one: terminated Completed 0, ready
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
            > image side; started side
              start side#0
              image i for b
              image i for a
              = Pending, ready False: containers with unready status: [b a]
                one: terminated Completed 0, ready
                side: running, ready
                a: waiting PodInitializing
                b: waiting PodInitializing
            > image a; image b
              start b#0
              = Pending, ready False: containers with unready status: [b a]
                one: terminated Completed 0, ready
                side: running, ready
                a: waiting PodInitializing
                b: waiting PodInitializing
            > started b
              start a#0
              = Pending, ready False: containers with unready status: [a]
                one: terminated Completed 0, ready
                side: running, ready
                a: waiting PodInitializing
                b: running, ready
            > started a
              = Running, ready True: 
                one: terminated Completed 0, ready
                side: running, ready
                a: running, ready
                b: running, ready
            > exit a 0; exit b 0
              stop side within 30s: Stopping container side
              = Running, ready False: containers with unready status: [b a]
                one: terminated Completed 0, ready
                side: running, ready
                a: terminated Completed 0
                b: terminated Completed 0
            > exit side 143
              = Succeeded, ready False: PodCompleted
                one: terminated Completed 0, ready
                side: terminated Error 143
                a: terminated Completed 0
                b: terminated Completed 0
            > written; sandbox-removed
              remove sandbox
              clear volumes
              = Succeeded, ready False: PodCompleted
                one: terminated Completed 0, ready
                side: terminated Error 143
                a: terminated Completed 0
                b: terminated Completed 0
        "#]],
    );
}

#[test]
fn volumes_that_fail_hide_the_sandbox() {
    check(
        ALWAYS,
        &["begin", "sandbox; network; image c; volumes fail", "wait 1"],
        expect![[r#"
        > begin
          volumes
          sandbox
          image i for c
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
        > sandbox; network; image c; volumes fail
          network
          look again in 500ms
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
        > wait 1
          volumes
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
    "#]],
    );
}

#[test]
fn readiness_decides() {
    check(
        "{containers: [{name: c, image: i, readinessProbe: {tcpSocket: {port: 1}}}]}",
        &["begin; up; image c; started c", "ready c"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready False: containers with unready status: [c]
                c: running
            > ready c
              = Running, ready True: 
                c: running, ready
        "#]],
    );
}

#[test]
fn post_start_hook_holds_back_the_next_container_but_not_the_end() {
    check(
        "{containers: [{name: a, image: i}, {name: b, image: i}]}",
        &["begin; up; image a; image b; hooking a", "hook a passed", "started b"],
        expect![[r#"
            > begin; up; image a; image b; hooking a
              volumes
              sandbox
              image i for a
              image i for b
              start a#0
              = Pending, ready False: containers with unready status: [a b]
                a: waiting ContainerCreating
                b: waiting ContainerCreating
            > hook a passed
              start b#0
              = Pending, ready False: containers with unready status: [b]
                a: running, ready
                b: waiting ContainerCreating
            > started b
              = Running, ready True: 
                a: running, ready
                b: running, ready
        "#]],
    );
    check(
        ALWAYS,
        &["begin; up; image c; hooking c", "delete 3", "exit c 0", "written"],
        expect![[r#"
            > begin; up; image c; hooking c
              volumes
              sandbox
              image i for c
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > delete 3
              stop c within 3s: Stopping container c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > exit c 0
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > written
              remove sandbox
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
        "#]],
    );
    check(
        ALWAYS,
        &["begin; up; image c; hooking c", "hook c failed", "exit c 137"],
        expect![[r#"
            > begin; up; image c; hooking c
              volumes
              sandbox
              image i for c
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > hook c failed
              stop c within 30s: FailedPostStartHook
              = Pending, ready False: containers with unready status: [c]
                c: waiting PostStartHookError PostStartHook failed
            > exit c 137
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: terminated Error 137
        "#]],
    );
}

//! What ended and runs again.

use expect_test::expect;

use super::{ALWAYS, check};

#[test]
fn crash_loop_waits_longer_each_time() {
    check(
        ALWAYS,
        &[
            "begin",
            "up; image c; started c",
            "exit c 1",
            "image c; started c",
            "exit c 1",
            "wait 9",
            "wait 1; image c; started c",
            "removed c c-0; wait 5; exit c 0",
        ],
        expect![[r#"
            > begin
              volumes
              sandbox
              image i for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > up; image c; started c
              start c#0
              = Running, ready True: 
                c: running, ready
            > exit c 1
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: terminated Error 1
            > image c; started c
              start c#1
              = Running, ready True: 
                c: running, last Error 1, restarts 1, ready
            > exit c 1
              tell back-off of c
              look again in 10000ms
              = Running, ready False: containers with unready status: [c]
                c: waiting CrashLoopBackOff back-off 10s restarting failed container=c pod=p_ns(u), last Error 1, restarts 1
            > wait 9
              look again in 1000ms
              = Running, ready False: containers with unready status: [c]
                c: waiting CrashLoopBackOff back-off 10s restarting failed container=c pod=p_ns(u), last Error 1, restarts 1
            > wait 1; image c; started c
              image i for c
              start c#2
              remove c c-0
              = Running, ready True: 
                c: running, last Error 1, restarts 2, ready
            > removed c c-0; wait 5; exit c 0
              tell back-off of c
              look again in 20000ms
              = Running, ready False: containers with unready status: [c]
                c: waiting CrashLoopBackOff back-off 20s restarting failed container=c pod=p_ns(u), last Completed 0, restarts 2
        "#]],
    );
}

#[test]
fn program_that_does_not_exist_is_a_run_error_then_a_crash_loop() {
    check(
        ALWAYS,
        &["begin; up; image c", "not-run c", "image c; not-run c", "wait 3", "wait 7"],
        expect![[r#"
            > begin; up; image c
              volumes
              sandbox
              image i for c
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > not-run c
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: waiting RunContainerError no such file, last StartError 128
            > image c; not-run c
              start c#1
              tell back-off of c
              look again in 2000ms
              = Running, ready False: containers with unready status: [c]
                c: waiting RunContainerError no such file, last StartError 128, restarts 1
            > wait 3
              look again in 7000ms
              = Running, ready False: containers with unready status: [c]
                c: waiting CrashLoopBackOff back-off 10s restarting failed container=c pod=p_ns(u), last StartError 128, restarts 1
            > wait 7
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: waiting RunContainerError no such file, last StartError 128, restarts 1
        "#]],
    );
}

#[test]
fn liveness_kills_and_restarts() {
    check(
        ALWAYS,
        &["begin; up; image c; started c", "unhealthy c", "exit c 137", "image c; started c"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > unhealthy c
              stop c within 30s: Container c failed liveness probe, will be restarted
              = Running, ready True: 
                c: running, ready
            > exit c 137
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: terminated Error 137
            > image c; started c
              start c#1
              = Running, ready True: 
                c: running, last Error 137, restarts 1, ready
        "#]],
    );
}

#[test]
fn lost_shim_brings_a_new_sandbox() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c",
            "shim-lost",
            "sandbox-removed",
            "sandbox; network; image c; started c",
        ],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > shim-lost
              remove sandbox
              = Running, ready False: containers with unready status: [c]
                c: terminated Error 137
            > sandbox-removed
              sandbox
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: waiting ContainerCreating , last Error 137
            > sandbox; network; image c; started c
              network
              start c#1
              = Running, ready True: 
                c: running, last Error 137, restarts 1, ready
        "#]],
    );
}

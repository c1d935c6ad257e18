//! Towards an ended pod.

use expect_test::expect;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{ALWAYS, INIT, ONE, Story, check};
use crate::pod::events::Event;

#[test]
fn failed_init_ends_a_pod_that_never_restarts() {
    check(
        INIT,
        &["begin; up; image one; started one", "exit one 5", "written"],
        expect![[r#"
        > begin; up; image one; started one
          volumes
          sandbox
          image i for one
          start one#0
          = Pending, ready False: containers with unready status: [side b a]
            one: running
            side: waiting PodInitializing
            a: waiting PodInitializing
            b: waiting PodInitializing
        > exit one 5
          = Failed, ready False: PodFailed
            one: terminated Error 5
            side: waiting PodInitializing
            a: waiting PodInitializing
            b: waiting PodInitializing
        > written
          remove sandbox
          = Failed, ready False: PodFailed
            one: terminated Error 5
            side: waiting PodInitializing
            a: waiting PodInitializing
            b: waiting PodInitializing
    "#]],
    );
}

#[test]
fn deletion_tells_the_end_before_removing_what_it_was_read_from() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c",
            "delete 30",
            "delete 5",
            "exit c 0",
            "written",
            "sandbox-removed",
            "volumes-removed",
            "gone",
        ],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > delete 30
              stop c within 30s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > delete 5
              stop c within 5s without hook: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 0
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > written
              remove sandbox
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > sandbox-removed
              remove volumes
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > volumes-removed
              delete object
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > gone
              finished
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
        "#]],
    );
}

#[test]
fn deletion_before_anything_ran() {
    check(
        ALWAYS,
        &["begin; up; image c; config-error c", "delete 2", "written; sandbox-removed; volumes-removed"],
        expect![[r#"
            > begin; up; image c; config-error c
              volumes
              sandbox
              image i for c
              start c#0
              look again in 500ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting CreateContainerConfigError configmap "x" not found
            > delete 2
              = Failed, ready False: PodFailed
                c: terminated ContainerStatusUnknown 137
            > written; sandbox-removed; volumes-removed
              remove sandbox
              remove volumes
              delete object
              = Failed, ready False: PodFailed
                c: terminated ContainerStatusUnknown 137
        "#]],
    );
}

#[test]
fn sidecars_are_asked_once_and_have_what_is_left() {
    check(
        "{restartPolicy: Never, initContainers: [{name: s, image: i, restartPolicy: Always}], containers: [{name: c, image: i}]}",
        &[
            "begin; up; image s; started s; image c; started c",
            "delete 30",
            "wait 10; exit c 0",
            "wait 1; wait 1; wait 1",
            "delete 5",
            "wait 1; exit s 0",
        ],
        expect![[r#"
            > begin; up; image s; started s; image c; started c
              volumes
              sandbox
              image i for s
              start s#0
              image i for c
              start c#0
              = Running, ready True: 
                s: running, ready
                c: running, ready
            > delete 30
              stop c within 30s: Stopping container c
              = Running, ready True: 
                s: running, ready
                c: running, ready
            > wait 10; exit c 0
              stop s within 20s: Stopping container s
              = Running, ready False: containers with unready status: [c]
                s: running, ready
                c: terminated Completed 0
            > wait 1; wait 1; wait 1
              = Running, ready False: containers with unready status: [c]
                s: running, ready
                c: terminated Completed 0
            > delete 5
              stop s within 5s without hook: Stopping container s
              = Running, ready False: containers with unready status: [c]
                s: running, ready
                c: terminated Completed 0
            > wait 1; exit s 0
              = Succeeded, ready False: PodCompleted
                s: terminated Completed 0
                c: terminated Completed 0
        "#]],
    );
}

#[test]
fn pod_gone_from_the_api_is_taken_down_without_a_word() {
    check(
        ALWAYS,
        &["begin; up; image c; started c", "gone", "exit c 137; sandbox-removed; volumes-removed"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > gone
              stop c within 1s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 137; sandbox-removed; volumes-removed
              remove sandbox
              remove volumes
              finished
              = Failed, ready False: PodFailed
                c: terminated Error 137
        "#]],
    );
}

#[test]
fn deadline() {
    check(
        "{activeDeadlineSeconds: 5, containers: [{name: c, image: i}]}",
        &["begin; up; image c; started c", "wait 5", "exit c 0"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              look again in 5000ms
              look again in 5000ms
              start c#0
              look again in 5000ms
              look again in 5000ms
              = Running, ready True: 
                c: running, ready
            > wait 5
              tell deadline
              stop c within 30s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 0
              = Failed (DeadlineExceeded), ready False: PodFailed
                c: terminated Completed 0
        "#]],
    );
}

#[test]
fn lost_shim_ends_a_pod_that_never_restarts() {
    check(
        ONE,
        &["begin; up; image c; started c", "shim-lost", "written"],
        expect![[r#"
        > begin; up; image c; started c
          volumes
          sandbox
          image i for c
          start c#0
          = Running, ready True: 
            c: running, ready
        > shim-lost
          = Failed, ready False: PodFailed
            c: terminated Error 137
        > written
          remove sandbox
          = Failed, ready False: PodFailed
            c: terminated Error 137
    "#]],
    );
}

#[test]
fn last_words_of_all_containers_share_twelve_kibibytes() {
    let names: Vec<_> = (0..5).map(|n| format!("c{n}")).collect();
    let containers: Vec<_> = names.iter().map(|name| format!("{{name: {name}, image: i}}")).collect();
    let spec = format!("{{restartPolicy: Never, containers: [{}]}}", containers.join(", "));
    let mut story = Story::new(&spec);
    story.step("begin; up");
    for name in &names {
        story.step(&format!("image {name}; started {name}"));
        let id = format!("{name}-0");
        let message = Some("ä".repeat(if name == "c0" { 3 } else { 2048 }));
        story.observed.apply(Event::Exited { id, exit: story.exit(1), message }, story.now);
    }
    story.step("wait 1");
    let statuses = story.told.container_statuses.iter().flatten();
    let message = |status: &ContainerStatus| status.state.clone()?.terminated?.message;
    let lengths: Vec<_> = statuses.map(|status| message(status).map(|text| text.len())).collect();
    // A fifth is 2457 bytes; no character is cut in two.
    assert_eq!(lengths, [Some(6), Some(2456), Some(2456), Some(2456), Some(2456)]);
}

#[test]
fn an_evicted_pod_fails_when_its_containers_have_ended() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c",
            "evict 1",
            "exit c 137",
            "written",
            "sandbox-removed",
            "cleared",
            "delete 30",
            "volumes-removed",
        ],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > evict 1
              stop c within 1s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 137
              look again in 10000ms
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > written
              remove sandbox
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > sandbox-removed
              clear volumes
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > cleared
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > delete 30
              remove volumes
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > volumes-removed
              delete object
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
        "#]],
    );
}

/// The API server may share the full disk.
#[test]
fn an_evicted_pod_makes_room_though_nobody_takes_the_news() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c",
            "evict 1",
            "exit c 137",
            "wait 10",
            "sandbox-removed",
            "cleared",
            "written",
        ],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > evict 1
              stop c within 1s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 137
              look again in 10000ms
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > wait 10
              remove sandbox
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > sandbox-removed
              clear volumes
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > cleared
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
            > written
              = Failed (Evicted), ready False: PodFailed
                c: terminated Error 137
        "#]],
    );
}

#[test]
fn a_second_ending_and_a_deletion_only_make_it_shorter() {
    check(
        ALWAYS,
        &["begin; up; image c; started c", "evict", "delete 5", "evict 1"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > evict
              stop c within 30s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > delete 5
              stop c within 5s without hook: Stopping container c
              = Running, ready True: 
                c: running, ready
            > evict 1
              stop c within 1s without hook: Stopping container c
              = Running, ready True: 
                c: running, ready
        "#]],
    );
}

#[test]
fn a_pod_that_waits_for_its_image_is_evicted_too() {
    check(
        ALWAYS,
        &["begin; up", "evict 1", "image c", "written"],
        expect![[r#"
        > begin; up
          volumes
          sandbox
          image i for c
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
        > evict 1
          = Failed (Evicted), ready False: PodFailed
            c: terminated ContainerStatusUnknown 137
        > image c
          = Failed (Evicted), ready False: PodFailed
            c: terminated ContainerStatusUnknown 137
        > written
          remove sandbox
          = Failed (Evicted), ready False: PodFailed
            c: terminated ContainerStatusUnknown 137
    "#]],
    );
}

#[test]
fn a_pod_that_succeeds_while_it_is_ended_has_succeeded() {
    check(
        "{restartPolicy: Never, containers: [{name: c, image: i}]}",
        &["begin; up; image c; started c", "evict 5", "exit c 0", "written"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > evict 5
              stop c within 5s: Stopping container c
              = Running, ready True: 
                c: running, ready
            > exit c 0
              look again in 10000ms
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
            > written
              remove sandbox
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
        "#]],
    );
}

//! Containers that are put into a pod that is there already.

use expect_test::expect;

use super::{ALWAYS, INIT, ONE, Story, check};
use crate::pod::{ephemeral::process_target, observed::Observed};

#[test]
fn started_once_and_counted_nowhere() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c",
            "debug {name: e, image: j}",
            "image e; started e",
            "exit e 1",
            "wait 600",
            "debug {name: d, image: j}; image d; not-run d",
            "wait 600",
        ],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > debug {name: e, image: j}
              image j for e
              = Running, ready True: 
                c: running, ready
                e: waiting ContainerCreating
            > image e; started e
              start e#0
              = Running, ready True: 
                c: running, ready
                e: running
            > exit e 1
              = Running, ready True: 
                c: running, ready
                e: terminated Error 1
            > wait 600
              = Running, ready True: 
                c: running, ready
                e: terminated Error 1
            > debug {name: d, image: j}; image d; not-run d
              image j for d
              start d#0
              = Running, ready True: 
                c: running, ready
                d: terminated StartError 128
                e: terminated Error 1
            > wait 600
              = Running, ready True: 
                c: running, ready
                d: terminated StartError 128
                e: terminated Error 1
        "#]],
    );
}

#[test]
fn an_image_that_is_missing_holds_up_nothing() {
    check(
        INIT,
        &[
            "begin; up",
            "debug {name: e, image: j}",
            "image e never; image one; started one",
            "wait 20",
            "exit one 0",
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
            > debug {name: e, image: j}
              image j for e
              = Pending, ready False: containers with unready status: [side b a]
                one: waiting PodInitializing
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
                e: waiting PodInitializing
            > image e never; image one; started one
              look again in 500ms
              start one#0
              look again in 500ms
              look again in 500ms
              = Pending, ready False: containers with unready status: [side b a]
                one: running
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
                e: waiting ErrImageNeverPull Container image "i" is not present
            > wait 20
              image j for e
              = Pending, ready False: containers with unready status: [side b a]
                one: running
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
                e: waiting ErrImageNeverPull Container image "i" is not present
            > exit one 0
              image i for side
              = Pending, ready False: containers with unready status: [side b a]
                one: terminated Completed 0, ready
                side: waiting PodInitializing
                a: waiting PodInitializing
                b: waiting PodInitializing
                e: waiting ErrImageNeverPull Container image "i" is not present
        "#]],
    );
}

#[test]
fn the_end_of_the_pod_is_theirs() {
    check(
        ONE,
        &[
            "begin; up; image c; started c; debug {name: e, image: j}; image e; started e",
            "exit c 0",
            "exit e 137",
            "written; sandbox-removed",
        ],
        expect![[r#"
            > begin; up; image c; started c; debug {name: e, image: j}; image e; started e
              volumes
              sandbox
              image i for c
              start c#0
              image j for e
              start e#0
              = Running, ready True: 
                c: running, ready
                e: running
            > exit c 0
              stop e within 30s: Stopping container e
              = Running, ready False: containers with unready status: [c]
                c: terminated Completed 0
                e: running
            > exit e 137
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
                e: terminated Error 137
            > written; sandbox-removed
              remove sandbox
              clear volumes
              = Succeeded, ready False: PodCompleted
                c: terminated Completed 0
                e: terminated Error 137
        "#]],
    );
}

#[test]
fn a_lost_sandbox_does_not_bring_them_back() {
    check(
        ALWAYS,
        &[
            "begin; up; image c; started c; debug {name: e, image: j}; image e; started e",
            "shim-lost",
            "sandbox-removed",
            "wait 20; up; image c; started c",
        ],
        expect![[r#"
            > begin; up; image c; started c; debug {name: e, image: j}; image e; started e
              volumes
              sandbox
              image i for c
              start c#0
              image j for e
              start e#0
              = Running, ready True: 
                c: running, ready
                e: running
            > shim-lost
              remove sandbox
              = Running, ready False: containers with unready status: [c]
                c: terminated Error 137
                e: terminated Error 137
            > sandbox-removed
              sandbox
              image i for c
              = Running, ready False: containers with unready status: [c]
                c: waiting ContainerCreating , last Error 137
                e: terminated Error 137
            > wait 20; up; image c; started c
              start c#1
              = Running, ready True: 
                c: running, last Error 137, restarts 1, ready
                e: terminated Error 137
        "#]],
    );
}

#[test]
fn what_the_api_knows_is_not_started_again() {
    let mut story = Story::new(ALWAYS);
    story.step("debug {name: e, image: j}");
    story.edit(|pod| {
        let told = "{ephemeralContainerStatuses: [{name: e, image: j, imageID: x, containerID: 'orlop://e', \
                    restartCount: 0, ready: false, state: {running: {startedAt: '2026-01-01T00:00:00Z'}}}]}";
        pod.status = Some(serde_norway::from_str(told).unwrap());
    });
    story.told = story.desired.pod.status.clone().unwrap();
    story.observed = Observed::adopt(&story.desired, None, None, story.now);
    story.out.clear();
    story.step("begin");
    expect![[r#"
        > begin
          volumes
          sandbox
          image i for c
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
            e: terminated ContainerStatusUnknown 137
    "#]]
    .assert_eq(&story.out);
}

#[test]
fn processes_of_a_target() {
    let target = |spec: &str, script: &[&str]| {
        let mut story = Story::new(spec);
        for line in script {
            story.step(line);
        }
        process_target(&story.desired, &story.observed, "e")
    };
    let debug = "debug {name: e, image: j, targetContainerName: c}";
    let running = "begin; up; image c; started c";
    assert_eq!(target(ALWAYS, &[running, debug]), Ok(Some("c-0".into())));
    assert_eq!(target(ALWAYS, &[running, "debug {name: e, image: j}"]), Ok(None));
    let missing = Err("unable to find target container c".to_owned());
    assert_eq!(target(ALWAYS, &[debug]), missing);
    let shared = "{shareProcessNamespace: true, containers: [{name: c, image: i}]}";
    assert_eq!(target(shared, &[running, debug]), Ok(None));
    assert_eq!(target(shared, &[debug]), missing);
}

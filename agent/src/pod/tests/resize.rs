//! Other resources for a pod that runs.

use expect_test::expect;

use super::check;

const TWO: &str = "{containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}, {name: d, image: i, resizePolicy: \
                   [{resourceName: memory, restartPolicy: RestartContainer}], resources: {limits: {memory: 1Gi}}}]}";
const UP: &str = "begin; up; granted; image c; started c; image d; started d";

#[test]
fn limits_change_in_place() {
    check(
        TWO,
        &[UP, "resources c {\"requests\":{\"cpu\":\"2\"}}", "resized well"],
        expect![[r#"
        > begin; up; granted; image c; started c; image d; started d
          volumes
          sandbox
          image i for c
          image i for d
          start c#0
          start d#0
          = Running, ready True: 
            c: running, ready
            d: running, ready
        > resources c {"requests":{"cpu":"2"}}
          resize
          = Running, ready True: , PodResizeInProgress 
            c: running, ready
            d: running, ready
        > resized well
          = Running, ready True: 
            c: running, ready
            d: running, ready
    "#]],
    );
}

#[test]
fn a_change_that_fails_is_told_and_tried_again() {
    check(
        TWO,
        &[UP, "resources c {\"requests\":{\"cpu\":\"2\"}}", "resized badly", "wait 1", "resized well"],
        expect![[r#"
            > begin; up; granted; image c; started c; image d; started d
              volumes
              sandbox
              image i for c
              image i for d
              start c#0
              start d#0
              = Running, ready True: 
                c: running, ready
                d: running, ready
            > resources c {"requests":{"cpu":"2"}}
              resize
              = Running, ready True: , PodResizeInProgress 
                c: running, ready
                d: running, ready
            > resized badly
              look again in 500ms
              = Running, ready True: , PodResizeInProgress Error too low
                c: running, ready
                d: running, ready
            > wait 1
              resize
              = Running, ready True: , PodResizeInProgress Error too low
                c: running, ready
                d: running, ready
            > resized well
              = Running, ready True: 
                c: running, ready
                d: running, ready
        "#]],
    );
}

#[test]
fn a_container_whose_policy_says_so_is_started_anew() {
    check(
        TWO,
        &[
            UP,
            "resources d {\"limits\":{\"memory\":\"2Gi\"}}",
            "exit d 0",
            "resized well",
            "image d",
            "started d",
        ],
        expect![[r#"
            > begin; up; granted; image c; started c; image d; started d
              volumes
              sandbox
              image i for c
              image i for d
              start c#0
              start d#0
              = Running, ready True: 
                c: running, ready
                d: running, ready
            > resources d {"limits":{"memory":"2Gi"}}
              stop d within 30s: Container d resize requires restart
              = Running, ready True: , PodResizeInProgress 
                c: running, ready
                d: running, ready
            > exit d 0
              resize
              image i for d
              = Running, ready False: containers with unready status: [d], PodResizeInProgress 
                c: running, ready
                d: terminated Completed 0
            > resized well
              = Running, ready False: containers with unready status: [d]
                c: running, ready
                d: terminated Completed 0
            > image d
              start d#1
              = Running, ready False: containers with unready status: [d]
                c: running, ready
                d: terminated Completed 0
            > started d
              = Running, ready True: 
                c: running, ready
                d: running, last Completed 0, restarts 1, ready
        "#]],
    );
}

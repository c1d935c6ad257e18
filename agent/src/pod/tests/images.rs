//! Images that are there, can be fetched, or cannot.

use expect_test::expect;

use super::{ALWAYS, check};

#[test]
fn image_that_cannot_be_pulled() {
    check(
        ALWAYS,
        &[
            "begin; up",
            "image c fail",
            "wait 3",
            "wait 7",
            "image c fail",
            "reimage j",
            "image c",
            "started c",
        ],
        expect![[r#"
            > begin; up
              volumes
              sandbox
              image i for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > image c fail
              look again in 2000ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting ErrImagePull refused
            > wait 3
              tell pull back-off of c for i
              look again in 7000ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting ImagePullBackOff Back-off pulling image "i": ErrImagePull: refused
            > wait 7
              image i for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ImagePullBackOff Back-off pulling image "i": ErrImagePull: refused
            > image c fail
              look again in 2000ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting ErrImagePull refused
            > reimage j
              image j for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ErrImagePull refused
            > image c
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
            > started c
              = Running, ready True: 
                c: running, ready
        "#]],
    );
}

#[test]
fn image_that_is_not_there_and_must_not_be_pulled() {
    check(
        ALWAYS,
        &["begin; up", "image c never"],
        expect![[r#"
        > begin; up
          volumes
          sandbox
          image i for c
          = Pending, ready False: containers with unready status: [c]
            c: waiting ContainerCreating
        > image c never
          look again in 500ms
          = Pending, ready False: containers with unready status: [c]
            c: waiting ErrImageNeverPull Container image "i" is not present
    "#]],
    );
}

/// The back-off is that of the image that is missing, and a container that mounts none of it starts.
#[test]
fn image_of_a_volume_that_cannot_be_pulled() {
    check(
        "{volumes: [{name: v, image: {reference: w}}], containers: [{name: c, image: i, volumeMounts: [{name: v, \
          mountPath: /v}]}, {name: d, image: i}]}",
        &["begin; up", "image c fail w; image d", "started d", "wait 3", "wait 7", "image c"],
        expect![[r#"
            > begin; up
              volumes
              sandbox
              image i for c
              image i for d
              = Pending, ready False: containers with unready status: [c d]
                c: waiting ContainerCreating
                d: waiting ContainerCreating
            > image c fail w; image d
              look again in 2000ms
              start d#0
              look again in 2000ms
              = Pending, ready False: containers with unready status: [c d]
                c: waiting ErrImagePull refused
                d: waiting ContainerCreating
            > started d
              look again in 2000ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting ErrImagePull refused
                d: running, ready
            > wait 3
              tell pull back-off of c for w
              look again in 7000ms
              = Pending, ready False: containers with unready status: [c]
                c: waiting ImagePullBackOff Back-off pulling image "w": ErrImagePull: refused
                d: running, ready
            > wait 7
              image i for c
              = Pending, ready False: containers with unready status: [c]
                c: waiting ImagePullBackOff Back-off pulling image "w": ErrImagePull: refused
                d: running, ready
            > image c
              start c#0
              = Pending, ready False: containers with unready status: [c]
                c: waiting ContainerCreating
                d: running, ready
        "#]],
    );
}

#[test]
fn changed_image_restarts_the_container() {
    check(
        ALWAYS,
        &["begin; up; image c; started c", "reimage j", "exit c 0", "image c; started c"],
        expect![[r#"
            > begin; up; image c; started c
              volumes
              sandbox
              image i for c
              start c#0
              = Running, ready True: 
                c: running, ready
            > reimage j
              stop c within 30s: Container c definition changed, will be restarted
              = Running, ready True: 
                c: running, ready
            > exit c 0
              image j for c
              = Running, ready False: containers with unready status: [c]
                c: terminated Completed 0
            > image c; started c
              start c#1
              = Running, ready True: 
                c: running, last Completed 0, restarts 1, ready
        "#]],
    );
}

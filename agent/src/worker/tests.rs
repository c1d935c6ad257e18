//! The loop with fakes under paused time: what is done, in which order, and what survives a kill of the agent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use expect_test::{Expect, expect};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use orlop_model::event::Event as Change;
use prometheus::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    Desk,
    fakes::Fake,
    manager::{Inputs, Manager},
    ports::{Clock as _, ObjectRef},
};
use crate::pod::{node_state::NodeState, settings::Settings};

/// One agent over one fake machine.
struct Agent {
    fake: Fake,
    pods: mpsc::Sender<Change<Arc<Pod>>>,
    changed: mpsc::UnboundedSender<ObjectRef>,
    task: JoinHandle<()>,
    desk: Desk,
    counted: Registry,
}

impl Agent {
    fn start() -> Agent {
        Agent::over(None)
    }

    fn over(machine: Option<&Fake>) -> Agent {
        let (events, runtime) = mpsc::unbounded_channel();
        let (confirm, written) = mpsc::unbounded_channel();
        let (changed, changes) = mpsc::unbounded_channel();
        let (pods, source) = mpsc::channel(16);
        let fake = match machine {
            Some(machine) => machine.with_channels(events, confirm),
            None => Fake::new(events, confirm),
        };
        let manager = Manager::new(Arc::new(Settings::for_tests()), fake.ports());
        let (_state, state) = watch::channel(NodeState::default());
        let inputs = Inputs { pods: source, runtime, written, changed: changes, state };
        let (desk, counted) = (manager.desk(), Registry::new());
        manager.register(&counted, &Registry::new());
        Agent { task: tokio::spawn(manager.run(inputs)), fake, pods, changed, desk, counted }
    }

    /// As `kill -9`: nothing is said, nothing is cleaned up.
    async fn kill(self) -> Fake {
        self.task.abort();
        let _ended = self.task.await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.fake
    }

    async fn send(&self, change: Change<Arc<Pod>>) {
        self.pods.send(change).await.unwrap();
        self.settle().await;
    }

    /// Lets everything happen that needs no time.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn check(&self, expect: Expect) {
        expect.assert_eq(&self.fake.log());
    }
}

fn pod(spec: &str) -> Arc<Pod> {
    let mut pod: Pod = serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u}}").unwrap();
    pod.spec = Some(serde_norway::from_str(spec).unwrap());
    Arc::new(pod)
}

fn deleted(fake: &Fake, pod: &Arc<Pod>, grace: i64) -> Arc<Pod> {
    let mut pod = Pod::clone(pod);
    pod.metadata.deletion_timestamp = Some(Time(fake.now()));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod.status = fake.world().statuses.get("u").map(|status| (**status).clone());
    Arc::new(pod)
}

const ONE: &str = "{containers: [{name: c, image: \"i:1\"}]}";

#[tokio::test(start_paused = true)]
async fn from_apply_to_ready_and_gone() {
    let agent = Agent::start();
    let one = pod(ONE);
    agent.send(Change::Reset(vec![Arc::clone(&one)])).await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        attach u
        event Normal Pulled: Container image "i:1" already present on machine
        start c#0
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
    agent.send(Change::Apply(deleted(&agent.fake, &one, 30))).await;
    agent.pass(2).await;
    agent.check(expect![[r#"
        event Normal Killing: Stopping container c
        signal TERM grace 30s
        status Failed
        status Failed
        detach u
        remove sandbox u
        remove files u
        delete object u
    "#]]);
    agent.send(Change::Delete(one)).await;
    assert!(agent.fake.world().sandboxes.is_empty());
    agent.check(expect![[""]]);
}

#[tokio::test(start_paused = true)]
async fn crash_loop_restarts_on_time() {
    let agent = Agent::start();
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    for _ in 0..3 {
        let id = agent.fake.newest("u", "c");
        agent.fake.exit("u", &id, 1);
        agent.settle().await;
    }
    agent.fake.log();
    agent.pass(9).await;
    agent.check(expect![[""]]);
    agent.pass(2).await;
    agent.check(expect![[r#"
        status Running
        event Normal Pulled: Container image "i:1" already present on machine
        start c#2
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
        remove c#0
    "#]]);
    let kept: Vec<_> = agent.fake.world().sandboxes["u"].containers.iter().map(|c| c.attempt).collect();
    assert_eq!(kept, [1, 2], "one dead instance is kept");
}

#[tokio::test(start_paused = true)]
async fn kill_at_any_moment_runs_nothing_twice() {
    let spec = "{initContainers: [{name: i, image: \"i:1\"}], containers: [{name: a, image: \"i:1\"}, \
                {name: b, image: \"i:1\"}]}";
    for steps in 0..40 {
        let agent = Agent::start();
        agent.pods.send(Change::Reset(vec![pod(spec)])).await.unwrap();
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        let machine = agent.kill().await;
        let agent = Agent::over(Some(&machine));
        let mut known = Pod::clone(&pod(spec));
        known.status = machine.world().statuses.get("u").map(|status| (**status).clone());
        agent.send(Change::Reset(vec![Arc::new(known)])).await;
        agent.pass(1).await;
        // The fake refuses a second start of the same instance; here every container has exactly one.
        let id = agent.fake.newest("u", "i");
        agent.fake.exit("u", &id, 0);
        agent.pass(1).await;
        let names: Vec<_> =
            agent.fake.world().sandboxes["u"].containers.iter().map(|c| c.name.clone()).collect();
        assert_eq!(names, ["i", "a", "b"], "killed after {steps} steps");
        assert_eq!(agent.fake.world().statuses["u"].phase.as_deref(), Some("Running"));
        agent.kill().await;
    }
}

#[tokio::test(start_paused = true)]
async fn restart_of_the_agent_restarts_nothing_and_keeps_ready() {
    let agent = Agent::start();
    let spec = "{containers: [{name: c, image: \"i:1\", readinessProbe: {exec: {command: [ok]}}}]}";
    agent.send(Change::Reset(vec![pod(spec)])).await;
    agent.pass(1).await;
    let mut known = Pod::clone(&pod(spec));
    known.status = agent.fake.world().statuses.get("u").map(|status| (**status).clone());
    let machine = agent.kill().await;
    machine.log();
    let agent = Agent::over(Some(&machine));
    agent.send(Change::Reset(vec![Arc::new(known)])).await;
    agent.check(expect![[r#"
        volumes u
        exec ok
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_before_the_first_list() {
    let agent = Agent::start();
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    let machine = agent.kill().await;
    machine.log();
    let agent = Agent::over(Some(&machine));
    agent.pass(60).await;
    agent.check(expect![[""]]);
    agent.send(Change::Reset(Vec::new())).await;
    agent.check(expect![[r#"
        detach u
        remove sandbox u
        remove files u
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_shim_is_told_and_the_ends_that_came_with_it_count() {
    let agent = Agent::start();
    let spec =
        "{restartPolicy: OnFailure, containers: [{name: c, image: \"i:1\"}, {name: d, image: \"i:1\"}]}";
    agent.send(Change::Reset(vec![pod(spec)])).await;
    agent.fake.log();
    let [c, d] = ["c", "d"].map(|name| agent.fake.newest("u", name));
    agent.fake.exit("u", &c, 42);
    agent.fake.exit("u", &d, 137);
    agent.fake.lose_shim("u");
    agent.pass(1).await;
    agent.check(expect![[r#"
        event Warning ShimLost: The shim of the pod is gone: whatever of its containers still ran was killed
        event Normal SandboxChanged: Pod sandbox changed, it will be killed and re-created.
        status Running
        detach u
        remove sandbox u
        status Running
        sandbox u
        attach u
        event Normal Pulled: Container image "i:1" already present on machine
        status Running
        start c#1
        event Normal Created: Created container: c
        event Normal Started: Started container c
        event Normal Pulled: Container image "i:1" already present on machine
        status Running
        start d#1
        event Normal Created: Created container: d
        event Normal Started: Started container d
        status Running, ready
    "#]]);
    let status = agent.fake.world().statuses["u"].clone();
    let lasts = status.container_statuses.iter().flatten().map(|container| {
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        last.map(|terminated| terminated.exit_code)
    });
    assert_eq!(lasts.collect::<Vec<_>>(), [Some(42), Some(137)]);
}

#[tokio::test(start_paused = true)]
async fn image_that_cannot_be_pulled_is_told() {
    let agent = Agent::start();
    agent.fake.world().no_images.insert("i:1".into());
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    agent.pass(4).await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        event Normal Pulling: Pulling image "i:1"
        pull i:1
        event Warning Failed: Failed to pull image "i:1": connection refused
        event Warning Failed: Error: ErrImagePull
        status Pending
        attach u
        status Pending
        event Normal BackOff: Back-off pulling image "i:1"
        event Warning Failed: Error: ImagePullBackOff
        status Pending
    "#]]);
    agent.fake.world().no_images.clear();
    agent.pass(7).await;
    agent.check(expect![[r#"
        event Normal Pulled: Container image "i:1" already present on machine
        status Pending
        start c#0
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn an_image_of_others_is_as_if_it_were_not_there() {
    let agent = Agent::start();
    agent.fake.world().private_images.insert("i:1".into());
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        event Normal Pulling: Pulling image "i:1"
        pull i:1
        event Normal Pulled: Successfully pulled image "i:1" in 0s (0s including waiting). Image size: 7 bytes.
        attach u
        start c#0
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
    let agent = Agent::start();
    agent.fake.world().private_images.insert("i:1".into());
    let never = "{containers: [{name: c, image: \"i:1\", imagePullPolicy: Never}]}";
    agent.send(Change::Reset(vec![pod(never)])).await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        event Warning ErrImageNeverPull: Container image "i:1" is not present with pull policy of Never
        event Warning Failed: Error: ErrImageNeverPull
        status Pending
        attach u
        status Pending
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn missing_configmap_starts_the_container_when_it_appears() {
    let agent = Agent::start();
    agent
        .send(Change::Reset(vec![pod(
            "{containers: [{name: c, image: \"i:1\", envFrom: [{configMapRef: {name: m}}]}]}",
        )]))
        .await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        attach u
        event Normal Pulled: Container image "i:1" already present on machine
        event Warning Failed: Error: configmap "m" not found
        status Pending
    "#]]);
    agent.fake.world().config_maps.insert("m".into(), Arc::default());
    agent.changed.send(ObjectRef::config_map("ns", "m")).unwrap();
    agent.settle().await;
    agent.check(expect![[r#"
        event Normal Pulled: Container image "i:1" already present on machine
        volumes u
        start c#0
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn liveness_failure_restarts_with_the_probes_grace() {
    let agent = Agent::start();
    let spec = "{containers: [{name: c, image: \"i:1\", livenessProbe: {exec: {command: [alive]}, periodSeconds: 1, \
                failureThreshold: 2, terminationGracePeriodSeconds: 3}}]}";
    agent.send(Change::Reset(vec![pod(spec)])).await;
    agent.fake.log();
    agent.fake.world().exec_code = 1;
    agent.pass(3).await;
    agent.check(expect![[r#"
        exec alive
        event Warning Unhealthy: Liveness probe failed: said
        exec alive
        event Warning Unhealthy: Liveness probe failed: said
        event Normal Killing: Container c failed liveness probe, will be restarted
        signal TERM grace 3s
        status Running
        event Normal Pulled: Container image "i:1" already present on machine
        start c#1
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn pre_stop_uses_up_the_grace_period() {
    let agent = Agent::start();
    let one = pod("{containers: [{name: c, image: \"i:1\", lifecycle: {preStop: {sleep: {seconds: 10}}, \
         postStart: {exec: {command: [hello]}}}}]}");
    agent.send(Change::Reset(vec![Arc::clone(&one)])).await;
    agent.fake.log();
    agent.send(Change::Apply(deleted(&agent.fake, &one, 5))).await;
    agent.pass(7).await;
    agent.check(expect![[r#"
        event Normal Killing: Stopping container c
        event Warning FailedPreStopHook: PreStopHook failed
        signal TERM grace 2s
        status Failed
        status Failed
        detach u
        remove sandbox u
        remove files u
        delete object u
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn program_that_does_not_exist() {
    let agent = Agent::start();
    agent.fake.world().no_programs.insert("c".into());
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    agent.check(expect![[r#"
        volumes u
        sandbox u
        attach u
        event Normal Pulled: Container image "i:1" already present on machine
        start c#0
        event Normal Created: Created container: c
        event Warning Failed: Error: no such file or directory
        status Running
        event Normal Pulled: Container image "i:1" already present on machine
        start c#1
        event Normal Created: Created container: c
        event Warning Failed: Error: no such file or directory
        event Warning BackOff: Back-off restarting failed container c in pod p_ns(u)
        status Running
    "#]]);
    let told = agent.fake.world().statuses["u"].clone();
    let user = told.container_statuses.as_ref().unwrap()[0].user.clone().unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (7, 8, Some(vec![8, 9])));
}

#[tokio::test(start_paused = true)]
async fn pod_that_does_not_fit_is_refused() {
    let agent = Agent::start();
    let big = pod("{containers: [{name: c, image: \"i:1\", resources: {requests: {cpu: 3}}}]}");
    agent.send(Change::Reset(vec![big])).await;
    agent.check(expect![[r#"
          event Warning OutOfcpu: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000
          status Failed
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn an_action_that_dies_does_not_leave_the_pod_alone() {
    let agent = Agent::start();
    agent.fake.world().start_dies = true;
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    agent.fake.log();
    agent.pass(2).await;
    agent.check(expect![[r#"
        volumes u
        attach u
        event Normal Pulled: Container image "i:1" already present on machine
        start c#0
        event Normal Created: Created container: c
        event Normal Started: Started container c
        status Running, ready
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn changed_labels_reach_the_volumes() {
    let agent = Agent::start();
    let one = pod(ONE);
    agent.send(Change::Reset(vec![Arc::clone(&one)])).await;
    agent.fake.log();
    let mut changed = Pod::clone(&one);
    changed.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    agent.send(Change::Apply(Arc::new(changed))).await;
    agent.check(expect![["volumes u\n"]]);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_controller_said_meanwhile_is_told_again() {
    let agent = Agent::start();
    let one = pod(ONE);
    agent.send(Change::Reset(vec![Arc::clone(&one)])).await;
    agent.fake.log();
    let mut changed = Pod::clone(&one);
    let mut status = PodStatus::clone(&agent.fake.world().statuses["u"]);
    for condition in status.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready") {
        condition.status = "False".into();
    }
    (changed.status, changed.metadata.resource_version) = (Some(status), Some("7".into()));
    agent.send(Change::Apply(Arc::new(changed))).await;
    agent.check(expect![[r#"
        status Running, ready
    "#]]);
}

fn resized(uid: &str, version: &str, resources: &str) -> Arc<Pod> {
    let mut pod: Pod = serde_norway::from_str(&format!(
        "{{metadata: {{name: {uid}, namespace: ns, uid: {uid}, resourceVersion: '{version}', generation: {version}}}}}"
    ))
    .unwrap();
    let spec = format!("{{containers: [{{name: c, image: \"i:1\", resources: {resources}}}]}}");
    pod.spec = Some(serde_norway::from_str(&spec).unwrap());
    Arc::new(pod)
}

/// Grants are those of the node, not of the API: what waits changes nothing, and survives the agent.
#[tokio::test(start_paused = true)]
async fn a_resize_waits_for_room_and_is_remembered() {
    let agent = Agent::start();
    let (a, b) = (resized("a", "1", "{requests: {cpu: 1}}"), resized("b", "1", "{requests: {cpu: 1}}"));
    agent.send(Change::Reset(vec![a, Arc::clone(&b)])).await;
    agent.fake.log();
    let more = resized("a", "2", "{requests: {cpu: 1500m}, limits: {memory: 1Gi}}");
    agent.send(Change::Apply(Arc::clone(&more))).await;
    agent.check(expect![[r#"
        status Running, ready
    "#]]);
    assert_eq!(agent.fake.world().limits["a"].cpu_shares, Some(1024));
    let told = agent.fake.world().statuses["a"].clone();
    let container = &told.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.allocated_resources.as_ref().unwrap()["cpu"].0, "1");

    // A new agent neither grants it by mistake nor forgets that it is asked for.
    let fake = agent.kill().await;
    let agent = Agent::over(Some(&fake));
    agent.send(Change::Reset(vec![Arc::clone(&more), Arc::clone(&b)])).await;
    agent.check(expect![[r#"
        status Running, ready
        status Running, ready
        volumes a
        attach a
        volumes b
        attach b
        status Running, ready
        status Running, ready
    "#]]);
    assert_eq!(agent.fake.world().limits["a"].cpu_shares, Some(1024));

    agent.send(Change::Apply(resized("b", "2", "{requests: {cpu: 500m}}"))).await;
    agent.check(expect![[r#"
        status Running, ready
        status Running, ready
        limit c shares 512
        limit pod shares 512
        event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"c","resources":{"requests":{"cpu":"500m"}}}],"generation":2}
        limit c memory 1073741824
        limit pod memory 1073741824
        limit pod shares 1536
        limit c shares 1536
        event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"c","resources":{"limits":{"memory":"1Gi"},"requests":{"cpu":"1500m"}}}],"generation":2}
        status Running, ready
        status Running, ready
    "#]]);
    assert_eq!(agent.fake.world().limits["a"].cpu_shares, Some(1536));

    agent.fake.world().memory_used = 1 << 29;
    agent.send(Change::Apply(resized("a", "3", "{requests: {cpu: 1500m}, limits: {memory: 256Mi}}"))).await;
    agent.check(expect![[r#"
        status Running, ready
        status Running, ready
    "#]]);
    agent.fake.world().memory_used = 1;
    agent.pass(1).await;
    agent.check(expect![[r#"
        limit c memory 268435456
        limit pod memory 268435456
        event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"c","resources":{"limits":{"memory":"256Mi"},"requests":{"cpu":"1500m"}}}],"generation":3}
        status Running, ready
    "#]]);
}

#[tokio::test(start_paused = true)]
async fn pods_are_known_and_counted_while_they_come_up() {
    let agent = Agent::start();
    assert!(agent.desk.pods().await.unwrap().is_empty());
    agent.send(Change::Reset(vec![pod(ONE)])).await;
    agent.pass(2).await;
    let known = agent.desk.pods().await.unwrap();
    assert_eq!(known.len(), 1);
    assert!(!known[0].gone && !known[0].ended && !known[0].of_node);
    let text = crate::metrics::text(&agent.counted);
    for line in [
        "kubelet_started_pods_total 1",
        "kubelet_started_pods_errors_total 0",
        "kubelet_started_containers_total{container_type=\"container\"} 1",
        "kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"\"} 1",
        "kubelet_pod_start_duration_seconds_count 1",
        "kubelet_pod_start_total_duration_seconds_count 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
    let desk = agent.desk.clone();
    agent.kill().await;
    assert!(desk.pods().await.is_none(), "nobody answers any more");
}

/// A day forwards or back: nothing is started, nothing becomes unready, and the probes go on.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_restarts_nothing() {
    const DAY: i64 = 86_400;
    let spec = "{containers: [{name: c, image: \"i:1\", readinessProbe: {periodSeconds: 1, exec: {command: [ok]}}}, \
                {name: d, image: \"i:1\"}]}";
    for set_by in [DAY, -DAY] {
        let agent = Agent::start();
        agent.send(Change::Reset(vec![pod(spec)])).await;
        agent.pass(3).await;
        agent.fake.log();
        agent.fake.clock_set_by.store(set_by, Ordering::Relaxed);
        agent.pass(2).await;
        let log = agent.fake.log();
        assert_eq!(log, "exec ok\nexec ok\n", "set by {set_by}");
        let status = Arc::clone(&agent.fake.world().statuses["u"]);
        assert!(status.container_statuses.iter().flatten().all(|c| c.ready && c.restart_count == 0));
        // It fails three times: the second and third time it waits as long as ever, however the clock goes.
        for _ in 0..2 {
            agent.fake.exit("u", &agent.fake.newest("u", "d"), 1);
            agent.settle().await;
        }
        agent.fake.clock_set_by.store(0, Ordering::Relaxed);
        agent.pass(8).await;
        assert!(!agent.fake.log().contains("start d#2"), "set by {set_by}: too soon");
        agent.pass(3).await;
        assert!(agent.fake.log().contains("start d#2"), "set by {set_by}: too late");
        agent.kill().await;
    }
}

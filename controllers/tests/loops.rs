//! The loops against the real API server, in one process: what users see of Deployments, Services, namespaces.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;

use std::time::{Duration, Instant};

use cluster::Cluster;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PostParams};
use serde_json::json;

fn web(replicas: i32) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: one, ports: [{{name: http, containerPort: 8080}}]}}]}}}}}}}}"
    )
}

/// Waits until all replicas are new, available and alone.
async fn rolled_out(cluster: &Cluster, replicas: i32) -> Deployment {
    let done = |d: &Deployment| {
        let status = d.status.clone().unwrap_or_default();
        status.observed_generation == d.metadata.generation
            && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(replicas); 3]
    };
    let mut all =
        cluster.until(&cluster.api(), "rollout", |list| list.len() == 1 && list.iter().all(done)).await;
    all.remove(0)
}

fn revision(deployment: &Deployment) -> &str {
    &deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"]
}

fn set_image(image: &str) -> Patch<serde_json::Value> {
    Patch::Strategic(
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } } }),
    )
}

#[tokio::test]
async fn a_deployment_rolls_out_changes_and_goes_back() {
    let cluster = Cluster::start(2).await;
    let deployments = cluster.api::<Deployment>();
    cluster.create::<Deployment>(&web(3)).await;
    let first = rolled_out(&cluster, 3).await;
    cluster.patch::<Deployment>("web", set_image("two")).await;
    rolled_out(&cluster, 3).await;
    cluster.patch::<Deployment>("web", set_image("one")).await;
    cluster.until(&deployments, "third revision", |list| revision(&list[0]) == "3").await;
    let last = rolled_out(&cluster, 3).await;
    assert_eq!((revision(&first), revision(&last)), ("1", "3"));
    let sets = cluster.until(&cluster.api::<ReplicaSet>(), "two sets", |list| list.len() == 2).await;
    let history = |set: &ReplicaSet| {
        set.metadata.annotations.as_ref().unwrap().get("deployment.kubernetes.io/revision-history").cloned()
    };
    assert!(sets.iter().any(|set| history(set).as_deref() == Some("1")), "{sets:#?}");
    let told = |list: &[Event]| {
        let texts: Vec<_> = list.iter().filter_map(|event| event.message.as_deref()).collect();
        texts
            .iter()
            .any(|text| text.starts_with("Scaled up replica set web-") && text.ends_with("from 0 to 3"))
            && texts.iter().any(|text| text.starts_with("Created pod: web-"))
            && texts.iter().any(|text| text.starts_with("Successfully assigned default/web-"))
    };
    cluster.until(&cluster.api::<Event>(), "events", told).await;
}

#[tokio::test]
async fn a_burst_is_placed_without_a_pod_too_many() {
    let cluster = Cluster::start(2).await;
    cluster
        .until(&cluster.all::<Node>(), "pod CIDRs", |nodes| {
            let mut cidrs: Vec<_> = nodes.iter().filter_map(|n| n.spec.as_ref()?.pod_cidrs.clone()).collect();
            cidrs.sort();
            let first = nodes.iter().all(|n| {
                let spec = n.spec.as_ref().unwrap();
                spec.pod_cidr.as_ref() == spec.pod_cidrs.iter().flatten().next()
            });
            first && cidrs == [["10.244.0.0/24", "fd00:10::/64"], ["10.244.1.0/24", "fd00:10:0:1::/64"]]
        })
        .await;
    let start = Instant::now();
    cluster.create::<Deployment>(&web(50)).await;
    let placed =
        |pods: &[Pod]| pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.is_some()).count() == 50;
    let pods = cluster.until(&cluster.api::<Pod>(), "placement of 50 pods", placed).await;
    println!("50 pods created and placed after {:?}", start.elapsed());
    assert_eq!(pods.len(), 50);
    let on = |node: &str| {
        pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(node)).count()
    };
    assert_eq!(on("n0").abs_diff(on("n1")), 0);
    rolled_out(&cluster, 50).await;
    let scale = Patch::Merge(json!({ "spec": { "replicas": 5 } }));
    cluster.patch::<Deployment>("web", scale).await;
    rolled_out(&cluster, 5).await;
    cluster.until(&cluster.api::<Pod>(), "five pods", |pods| pods.len() == 5).await;
}

#[tokio::test]
async fn services_publish_ready_pods() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Deployment>(&web(3)).await;
    cluster
        .create::<Service>("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}}")
        .await;
    let slices = cluster.api::<EndpointSlice>();
    let ready = |slice: &EndpointSlice| {
        slice
            .endpoints
            .iter()
            .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
            .count()
    };
    let of_web = |list: &[EndpointSlice]| -> Vec<EndpointSlice> {
        let label = |s: &EndpointSlice| {
            s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).cloned()
        };
        list.iter().filter(|slice| label(slice).as_deref() == Some("web")).cloned().collect()
    };
    let list = cluster
        .until(&slices, "three ready endpoints", |list| of_web(list).iter().map(ready).sum::<usize>() == 3)
        .await;
    let slice = of_web(&list).remove(0);
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    cluster
        .until(&cluster.api::<Endpoints>(), "three addresses", |list| {
            let web = list.iter().find(|e| e.metadata.name.as_deref() == Some("web"));
            let subsets = web.and_then(|web| web.subsets.clone()).unwrap_or_default();
            subsets.iter().flat_map(|s| s.addresses.iter().flatten()).count() == 3
        })
        .await;
    let none = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    cluster.patch::<Deployment>("web", none).await;
    cluster
        .until(&slices, "an empty slice", |list| {
            of_web(list).len() == 1 && of_web(list)[0].endpoints.is_empty()
        })
        .await;
    cluster.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.until(&slices, "no slice", |list| of_web(list).is_empty()).await;
    cluster.until(&cluster.api::<Endpoints>(), "no endpoints", |list| list.len() == 1).await;
}

#[tokio::test]
async fn a_bad_rollout_keeps_the_old_pods() {
    let cluster = Cluster::start(1).await;
    cluster.create::<Deployment>(&web(4)).await;
    rolled_out(&cluster, 4).await;
    cluster.set_healthy(false);
    let deployments = cluster.api::<Deployment>();
    cluster.patch::<Deployment>("web", set_image("broken")).await;
    let stuck = |list: &[Deployment]| {
        let status = list[0].status.clone().unwrap_or_default();
        status.updated_replicas == Some(2)
            && status.available_replicas == Some(3)
            && status.replicas == Some(5)
    };
    cluster.until(&deployments, "a stuck rollout", stuck).await;
    cluster.set_healthy(true);
    cluster.patch::<Deployment>("web", set_image("one")).await;
    rolled_out(&cluster, 4).await;
}

#[tokio::test]
async fn owners_take_their_objects_along_or_leave_them() {
    let cluster = Cluster::start(1).await;
    let (deployments, sets, pods) =
        (cluster.api::<Deployment>(), cluster.api::<ReplicaSet>(), cluster.api::<Pod>());
    for params in [DeleteParams::background(), DeleteParams::foreground()] {
        cluster.create::<Deployment>(&web(3)).await;
        rolled_out(&cluster, 3).await;
        deployments.delete("web", &params).await.unwrap();
        cluster.until(&deployments, "no deployment", <[_]>::is_empty).await;
        cluster.until(&sets, "no sets", <[_]>::is_empty).await;
        cluster.until(&pods, "no pods", <[_]>::is_empty).await;
    }
    cluster.create::<Deployment>(&web(3)).await;
    rolled_out(&cluster, 3).await;
    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster.until(&deployments, "no deployment", <[_]>::is_empty).await;
    let left = cluster
        .until(&sets, "an orphan", |list| {
            list.iter().all(|s| s.metadata.owner_references.as_ref().is_none_or(Vec::is_empty))
        })
        .await;
    let kept = cluster.until(&pods, "three pods", |list| list.len() == 3).await;
    cluster.create::<Deployment>(&web(3)).await;
    rolled_out(&cluster, 3).await;
    let names = |list: &[Pod]| list.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
    let now = cluster.until(&pods, "the same three pods", |list| list.len() == 3).await;
    assert_eq!(names(&kept), names(&now), "adopted, not replaced");
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn namespaces_get_what_pods_need_and_go_with_all_they_hold() {
    let cluster = Cluster::start(1).await;
    let namespaces = cluster.all::<Namespace>();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "team");
    let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), "team");
    let ca =
        |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data["ca.crt"].starts_with("-----BEGIN CERT"));
    cluster.until(&maps, "the CA", |list| list.iter().any(ca)).await;
    cluster.until(&accounts, "the account", |list| list.len() == 1).await;
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    cluster.until(&maps, "the CA again", |list| list.iter().any(ca)).await;
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), "team");
    let deployment = serde_norway::from_str(&web(2)).unwrap();
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), "team");
    cluster.until(&pods, "two pods", |list| list.len() == 2).await;
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    cluster
        .until(&namespaces, "no namespace", |list| {
            list.iter().all(|n| n.metadata.name.as_deref() != Some("team"))
        })
        .await;
    cluster.until(&pods, "no pods", <[_]>::is_empty).await;
    cluster.until(&maps, "no maps", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_goes_once_it_fits() {
    let cluster = Cluster::start(1).await;
    cluster
        .create::<Pod>("{apiVersion: v1, kind: Pod, metadata: {name: big}, spec: {nodeSelector: {n: n9}, containers: [{name: c, image: i}]}}")
        .await;
    let text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let pods = cluster.api::<Pod>();
    cluster
        .until(&pods, "the condition", |list| {
            let conditions = list[0].status.iter().flat_map(|status| status.conditions.iter().flatten());
            let mut scheduled = conditions.filter(|c| c.type_ == "PodScheduled");
            scheduled.any(|c| {
                c.reason.as_deref() == Some("Unschedulable")
                    && c.message.as_deref() == Some(text)
                    && c.observed_generation == Some(1)
            })
        })
        .await;
    let told = |list: &[Event]| {
        list.iter()
            .any(|e| e.reason.as_deref() == Some("FailedScheduling") && e.message.as_deref() == Some(text))
    };
    cluster.until(&cluster.api::<Event>(), "the event", told).await;
    cluster.node("n9").await;
    cluster
        .until(&pods, "a place", |list| list[0].spec.as_ref().unwrap().node_name.as_deref() == Some("n9"))
        .await;
}

#[tokio::test]
async fn controllers_that_crash_again_and_again_end_where_they_should() {
    let mut cluster = Cluster::start(2).await;
    cluster.create::<Deployment>(&web(10)).await;
    for (turn, image) in
        ["one", "two", "three", "four", "five", "six"].into_iter().cycle().take(18).enumerate()
    {
        tokio::time::sleep(Duration::from_millis(7 * turn as u64)).await;
        cluster.kill_controllers().await;
        cluster.patch::<Deployment>("web", set_image(image)).await;
        cluster.start_controllers();
    }
    // Creations under way at a crash may land after the next start has looked: surplus is fine, but must go.
    rolled_out(&cluster, 10).await;
    cluster.until(&cluster.api::<Pod>(), "ten pods", |pods| pods.len() == 10).await;
    let sets = cluster.until(&cluster.api::<ReplicaSet>(), "sets", |_| true).await;
    assert_eq!(sets.iter().filter(|set| set.status.as_ref().is_some_and(|s| s.replicas > 0)).count(), 1);
}

//! Clients that nobody here wrote: the Python client from PyPI and kube-rs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use orlop_tests::{
    Playground,
    playground::{given, run},
};

const PYTHON: &str = r#"
import sys
from kubernetes import client, config, watch

config.load_kube_config(sys.argv[1])
apps, core = client.AppsV1Api(), client.CoreV1Api()
labels = {"app": "snake"}
container = client.V1Container(name="c", image="orlop.dev/example/hello:v1", args=["serve"])
template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container]))
spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels=labels), template=template)
apps.create_namespaced_deployment("default", client.V1Deployment(metadata=client.V1ObjectMeta(name="snake"), spec=spec))
seen = 0
for event in watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=60):
    seen += 1
    if (event["object"].status.ready_replicas or 0) == 2:
        break
else:
    sys.exit("the deployment never became ready")
pods = core.list_namespaced_pod("default", label_selector="app=snake").items
assert len(pods) == 2 and all(pod.status.phase == "Running" for pod in pods), pods
scale = apps.read_namespaced_deployment_scale("snake", "default")
assert scale.spec.replicas == 2, scale
apps.patch_namespaced_deployment_scale("snake", "default", {"spec": {"replicas": 1}})
core.create_namespaced_config_map("default", {"metadata": {"name": "from-python"}, "data": {"a": "b"}})
assert core.read_namespaced_config_map("from-python", "default").data == {"a": "b"}
try:
    core.read_namespaced_pod("nobody", "default")
    sys.exit("a pod that is not there was found")
except client.ApiException as error:
    assert error.status == 404, error
apps.delete_namespaced_deployment("snake", "default")
print("seen", seen > 1)
"#;

#[test]
#[ignore = "e2e tier"]
fn python_creates_a_deployment_and_watches_it() {
    let p = Playground::start();
    let script = p.dir.join("client.py");
    fs::write(&script, PYTHON).unwrap();
    let said = run(Command::new(given("ORLOP_PYTHON")).arg(&script).arg(p.dir.join("kubeconfig"))).text();
    assert_eq!(said.trim(), "seen True");
}

/// kube-rs over TLS: create, watch until ready, patch the scale, delete and wait.
#[test]
#[ignore = "e2e tier"]
fn kube_rs_creates_a_deployment_and_watches_it() {
    use futures::TryStreamExt as _;
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::{
        Api, Client,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
        config::{KubeConfigOptions, Kubeconfig},
    };
    let p = Playground::start();
    let kubeconfig = Kubeconfig::read_from(p.dir.join("kubeconfig")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1."));
        let deployments = Api::<Deployment>::namespaced(client.clone(), "default");
        let crab: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "crab"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "crab"}}, "template": {
                "metadata": {"labels": {"app": "crab"}},
                "spec": {"containers": [{"name": "c", "image": "orlop.dev/example/hello:v1", "args": ["serve"]}]},
            }},
        }))
        .unwrap();
        deployments.create(&PostParams::default(), &crab).await.unwrap();
        let mut events = Box::pin(deployments.watch(&WatchParams::default().timeout(60), "0").await.unwrap());
        let ready = async {
            while let Some(event) = events.try_next().await.unwrap() {
                if let WatchEvent::Added(one) | WatchEvent::Modified(one) = event
                    && one.status.and_then(|status| status.ready_replicas) == Some(2)
                {
                    return;
                }
            }
            panic!("the watch ended before the deployment was ready");
        };
        ready.await;
        let scale = deployments.get_scale("crab").await.unwrap();
        assert_eq!(scale.spec.unwrap().replicas, Some(2));
        let one = Patch::Merge(serde_json::json!({"spec": {"replicas": 1}}));
        deployments.patch_scale("crab", &PatchParams::default(), &one).await.unwrap();
        let missing = deployments.get("nobody").await.unwrap_err();
        assert!(matches!(missing, kube::Error::Api(status) if status.code == 404));
        deployments.delete("crab", &DeleteParams::background()).await.unwrap();
        let left = deployments.list(&ListParams::default()).await.unwrap();
        assert!(left.items.is_empty());
    });
}

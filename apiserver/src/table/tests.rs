use expect_test::{Expect, expect};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::kinds;

const NOW: &str = "2024-03-01T12:00:00Z";

/// `group/version Kind` and a list of objects → the table as `kubectl get -o wide` would print it.
fn check(kind: &str, objects: &[Value], expect: Expect) {
    let (group_version, name) = kind.split_once(' ').unwrap();
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    let plain = kinds::find_kind("", "v1", "Pod").copied().unwrap();
    let leak = |s: &str| -> &'static str { s.to_owned().leak() };
    let kind = Kind { gvk: Gvk { group: leak(group), version: leak(version), kind: leak(name) }, ..plain };
    let table = to_table(&kind, objects, IncludeObject::None, MetaVersion::V1, NOW.parse().unwrap());
    let mut lines: Vec<String> = vec![
        list_of(&table["columnDefinitions"])
            .iter()
            .map(|c| format!("{}{}", c["name"].as_str().unwrap(), if c["priority"] == 1 { "*" } else { "" }))
            .collect::<Vec<_>>()
            .join(" | "),
    ];
    for row in list_of(&table["rows"]) {
        let cells: Vec<String> =
            list_of(&row["cells"]).iter().map(|c| c.as_str().map_or(c.to_string(), str::to_owned)).collect();
        assert_eq!(cells.len(), list_of(&table["columnDefinitions"]).len());
        lines.push(cells.join(" | "));
    }
    expect.assert_eq(&lines.join("\n"));
}

fn list_of(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn meta(name: &str) -> Value {
    json!({"name": name, "creationTimestamp": "2024-03-01T11:58:00Z"})
}

/// A pod with this status and spec → its READY, STATUS, RESTARTS.
fn check_pod(spec: Value, status: Value, expect: Expect) {
    check_pod_meta(meta("p"), spec, status, expect);
}

fn check_pod_meta(metadata: Value, spec: Value, status: Value, expect: Expect) {
    let pod = json!({"metadata": metadata, "spec": spec, "status": status});
    let cells = (pod::PRINTER.cells)(&pod, NOW.parse().unwrap());
    let words: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
    expect.assert_eq(&words.join(" "));
}

fn one() -> Value {
    json!({"containers": [{"name": "a"}]})
}

#[test]
fn ages_get_coarser() {
    let ages =
        [-5, -1, 0, 1, 119, 120, 121, 599, 600, 10_799, 10_800, 10_860, 28_799, 28_800, 172_799, 172_800]
            .into_iter()
            .chain([176_400, 691_199, 691_200, 63_071_999, 63_072_000, 63_158_400, 252_288_000])
            .map(|s| format!("{s}={}", human_duration(SignedDuration::from_secs(s))));
    expect!["-5=<invalid> -1=0s 0=0s 1=1s 119=119s 120=2m 121=2m1s 599=9m59s 600=10m 10799=179m 10800=3h 10860=3h1m 28799=7h59m 28800=8h 172799=47h 172800=2d 176400=2d1h 691199=7d23h 691200=8d 63071999=729d 63072000=2y 63158400=2y1d 252288000=8y"].assert_eq(&ages.collect::<Vec<_>>().join(" "));
}

#[test]
fn pod_status_says_what_to_look_at() {
    check_pod(one(), json!({"phase": "Pending"}), expect!["0/1 Pending 0"]);
    check_pod(one(), json!({"phase": "Failed", "reason": "Evicted"}), expect!["0/1 Evicted 0"]);
    check_pod(
        one(),
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        expect!["0/1 SchedulingGated 0"],
    );
    let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    check_pod(one(), json!({"phase": "Running", "containerStatuses": [running]}), expect!["1/1 Running 0"]);
    check_pod(
        one(),
        json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"finishedAt": "2024-03-01T11:57:00Z"}}}]}),
        expect!["0/1 CrashLoopBackOff 2 (3m ago)"],
    );
    check_pod(
        one(),
        json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
        expect!["0/1 Completed 0"],
    );
    check_pod(
        one(),
        json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
        expect!["0/1 ExitCode:3 0"],
    );
    check_pod(
        one(),
        json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
        expect!["0/1 Signal:9 0"],
    );
}

#[test]
fn a_pod_half_done_is_running_or_not_ready() {
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let statuses = json!([
        {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"ready": true, "state": {"running": {}}},
    ]);
    check_pod(
        two.clone(),
        json!({"phase": "Running", "containerStatuses": statuses}),
        expect!["1/2 NotReady 0"],
    );
    check_pod(
        two,
        json!({"phase": "Running", "containerStatuses": statuses, "conditions": [{"type": "Ready", "status": "True"}]}),
        expect!["1/2 Running 0"],
    );
}

#[test]
fn init_containers_come_first() {
    let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let pending = |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses});
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    check_pod(
        spec.clone(),
        pending(json!([{"name": "i", "state": {"running": {}}}])),
        expect!["0/1 Init:0/2 0"],
    );
    check_pod(
        spec.clone(),
        pending(json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}])),
        expect!["0/1 Init:1/2 0"],
    );
    check_pod(
        spec.clone(),
        pending(
            json!([{"name": "i", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
        ),
        expect!["0/1 Init:CrashLoopBackOff 1"],
    );
    check_pod(
        spec.clone(),
        pending(json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
        expect!["0/1 Init:Error 0"],
    );
    check_pod(
        spec,
        pending(json!([{"name": "i", "state": {"terminated": {"exitCode": 2}}}])),
        expect!["0/1 Init:ExitCode:2 0"],
    );
}

#[test]
fn sidecars_count_as_containers() {
    let spec =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    check_pod(
        spec,
        json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "restartCount": 3, "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "restartCount": 1, "ready": true, "state": {"running": {}}}]}),
        expect!["2/2 Running 4"],
    );
}

#[test]
fn a_deleted_pod_is_terminating_until_it_is_done() {
    let gone = json!({"name": "p", "deletionTimestamp": NOW});
    check_pod_meta(gone.clone(), one(), json!({"phase": "Running"}), expect!["0/1 Terminating 0"]);
    check_pod_meta(gone.clone(), one(), json!({"phase": "Succeeded"}), expect!["0/1 Succeeded 0"]);
    check_pod_meta(gone, one(), json!({"phase": "Running", "reason": "NodeLost"}), expect!["0/1 Unknown 0"]);
}

#[test]
fn core_kinds() {
    check(
        "v1 Pod",
        &[
            json!({"metadata": meta("p"), "spec": {"nodeName": "n1", "containers": [{}], "readinessGates": [{"conditionType": "x"}]},
                 "status": {"phase": "Pending", "podIPs": [{"ip": "10.0.0.1"}]}}),
        ],
        expect![[r#"
            Name | Ready | Status | Restarts | Age | IP* | Node* | Nominated Node* | Readiness Gates*
            p | 0/1 | Pending | 0 | 2m | 10.0.0.1 | n1 | <none> | 0/1"#]],
    );
    check(
        "v1 Namespace",
        &[json!({"metadata": meta("default"), "status": {"phase": "Active"}})],
        expect![[r#"
        Name | Status | Age
        default | Active | 2m"#]],
    );
    check(
        "v1 ConfigMap",
        &[
            json!({"metadata": meta("c"), "data": {"a": "1"}, "binaryData": {"b": "", "c": ""}}),
            json!({"metadata": {"name": "d"}}),
        ],
        expect![[r#"
            Name | Data | Age
            c | 3 | 2m
            d | 0 | <unknown>"#]],
    );
    check(
        "v1 Secret",
        &[json!({"metadata": meta("s"), "type": "Opaque", "data": {"a": ""}})],
        expect![[r#"
        Name | Type | Data | Age
        s | Opaque | 1 | 2m"#]],
    );
    check(
        "v1 ServiceAccount",
        &[json!({"metadata": meta("default")})],
        expect![[r#"
        Name | Secrets | Age
        default | 0 | 2m"#]],
    );
    check(
        "coordination.k8s.io/v1 Lease",
        &[json!({"metadata": meta("n1"), "spec": {"holderIdentity": "n1"}}), json!({"metadata": meta("n2")})],
        expect![[r#"
            Name | Holder | Age
            n1 | n1 | 2m
            n2 |  | 2m"#]],
    );
    check(
        "example.com/v1 Widget",
        &[json!({"metadata": meta("w")})],
        expect![[r#"
        Name | Age
        w | 2m"#]],
    );
}

#[test]
fn nodes() {
    check(
        "v1 Node",
        &[
            json!({"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
                   "spec": {"unschedulable": true},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}],
                              "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}],
                              "nodeInfo": {"kubeletVersion": "v1.34.0", "osImage": "Debian", "kernelVersion": "6.18", "containerRuntimeVersion": "orlop://0.1"}}}),
            json!({"metadata": meta("n2"), "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            json!({"metadata": meta("n3")}),
        ],
        expect![[r#"
            Name | Status | Roles | Age | Version | Internal-IP* | External-IP* | OS-Image* | Kernel-Version* | Container-Runtime*
            n1 | Ready,SchedulingDisabled | control-plane,edge | <unknown> | v1.34.0 | 10.1.0.1 | <none> | Debian | 6.18 | orlop://0.1
            n2 | NotReady | <none> | 2m |  | <none> | <none> | <unknown> | <unknown> | <unknown>
            n3 | Unknown | <none> | 2m |  | <none> | <none> | <unknown> | <unknown> | <unknown>"#]],
    );
}

#[test]
fn services() {
    let service = |spec: Value, status: Value| json!({"metadata": meta("s"), "spec": spec, "status": status});
    check(
        "v1 Service",
        &[
            service(
                json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443, "protocol": "TCP"}]}),
                json!({}),
            ),
            service(
                json!({"type": "NodePort", "clusterIPs": ["10.96.0.2"], "selector": {"b": "2", "a": "1"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
                json!({}),
            ),
            service(json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.3"]}), json!({})),
            service(
                json!({"type": "LoadBalancer", "externalIPs": ["1.1.1.1"]}),
                json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a.b"}]}}),
            ),
            service(json!({"type": "ExternalName", "externalName": "example.com"}), json!({})),
            service(json!({"type": "ClusterIP", "clusterIPs": ["None"]}), json!({})),
        ],
        expect![[r#"
            Name | Type | Cluster-IP | External-IP | Port(s) | Age | Selector*
            s | ClusterIP | 10.96.0.1 | <none> | 443/TCP | 2m | <none>
            s | NodePort | 10.96.0.2 | <none> | 80:30080/TCP,53/UDP | 2m | a=1,b=2
            s | LoadBalancer | 10.96.0.3 | <pending> | <none> | 2m | <none>
            s | LoadBalancer | <none> | 2.2.2.2,a.b,1.1.1.1 | <none> | 2m | <none>
            s | ExternalName | <none> | example.com | <none> | 2m | <none>
            s | ClusterIP | None | <none> | <none> | 2m | <none>"#]],
    );
}

#[test]
fn endpoints_show_three() {
    let ips = |n: usize| (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect::<Vec<_>>();
    check(
        "v1 Endpoints",
        &[
            json!({"metadata": meta("a")}),
            json!({"metadata": meta("b"), "subsets": [{"addresses": ips(2), "ports": [{"port": 80}]}]}),
            json!({"metadata": meta("c"), "subsets": [{"addresses": ips(2), "ports": [{"port": 80}, {"port": 443}]}, {"addresses": ips(1)}]}),
            json!({"metadata": meta("d"), "subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]}),
        ],
        expect![[r#"
            Name | Endpoints | Age
            a | <none> | 2m
            b | 10.0.0.1:80,10.0.0.2:80 | 2m
            c | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 2 more... | 2m
            d | [fd00::1]:80 | 2m"#]],
    );
    check(
        "discovery.k8s.io/v1 EndpointSlice",
        &[
            json!({"metadata": meta("a"), "addressType": "IPv4"}),
            json!({"metadata": meta("b"), "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
                   "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}, {"addresses": ["1.1.1.3"]}, {"addresses": ["1.1.1.4"]}]}),
        ],
        expect![[r#"
            Name | AddressType | Ports | Endpoints | Age
            a | IPv4 | <unset> | <unset> | 2m
            b | IPv4 | 80,x,* | 1.1.1.1,1.1.1.2,1.1.1.3 + 1 more... | 2m"#]],
    );
}

#[test]
fn events_of_both_groups() {
    check(
        "v1 Event",
        &[
            json!({"metadata": {"name": "e1"}, "type": "Normal", "reason": "Pulled", "message": " done \n", "count": 3,
                   "firstTimestamp": "2024-03-01T11:50:00Z", "lastTimestamp": "2024-03-01T11:59:50Z",
                   "source": {"component": "kubelet", "host": "n1"},
                   "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}}),
            json!({"metadata": {"name": "e2"}, "type": "Warning", "reason": "FailedScheduling", "message": "no",
                   "eventTime": "2024-03-01T11:59:00.000000Z", "firstTimestamp": null, "reportingComponent": "scheduler",
                   "involvedObject": {"kind": "Pod", "name": "p"}}),
        ],
        expect![[r#"
            Last Seen | Type | Reason | Object | Subobject* | Source* | Message | First Seen* | Count* | Name*
            10s | Normal | Pulled | pod/p | spec.containers{c} | kubelet, n1 | done | 10m | 3 | e1
            60s | Warning | FailedScheduling | pod/p |  | scheduler | no | 60s | 1 | e2"#]],
    );
    check(
        "events.k8s.io/v1 Event",
        &[
            json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "R", "note": "n", "eventTime": "2024-03-01T11:00:00.000000Z",
                 "series": {"count": 7, "lastObservedTime": "2024-03-01T11:59:58.000000Z"}, "reportingController": "c",
                 "reportingInstance": "i", "regarding": {"kind": "Node", "name": "n"}}),
        ],
        expect![[r#"
            Last Seen | Type | Reason | Object | Subobject* | Source* | Message | First Seen* | Count* | Name*
            2s | Normal | R | node/n |  | c, i | n | 60m | 7 | e"#]],
    );
}

#[test]
fn workloads() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "env", "operator": "In", "values": ["b", "a"]}, {"key": "zone", "operator": "DoesNotExist"}]},
        "template": {"spec": {"containers": [{"name": "a", "image": "nginx:1"}, {"name": "b", "image": "busybox"}]}}});
    let status = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1});
    let object = json!({"metadata": meta("web"), "spec": spec, "status": status});
    check(
        "apps/v1 Deployment",
        std::slice::from_ref(&object),
        expect![[r#"
        Name | Ready | Up-to-date | Available | Age | Containers* | Images* | Selector*
        web | 2/3 | 3 | 1 | 2m | a,b | nginx:1,busybox | app=web,env in (a,b),!zone"#]],
    );
    check(
        "apps/v1 ReplicaSet",
        std::slice::from_ref(&object),
        expect![[r#"
        Name | Desired | Current | Ready | Age | Containers* | Images* | Selector*
        web | 3 | 3 | 2 | 2m | a,b | nginx:1,busybox | app=web,env in (a,b),!zone"#]],
    );
    check(
        "apps/v1 StatefulSet",
        std::slice::from_ref(&object),
        expect![[r#"
        Name | Ready | Age | Containers* | Images*
        web | 2/3 | 2m | a,b | nginx:1,busybox"#]],
    );
    check(
        "apps/v1 DaemonSet",
        &[object],
        expect![[r#"
        Name | Desired | Current | Ready | Up-to-date | Available | Node Selector | Age | Containers* | Images* | Selector*
        web | 0 | 0 | 0 | 0 | 0 | <none> | 2m | a,b | nginx:1,busybox | app=web,env in (a,b),!zone"#]],
    );
}

#[test]
fn rows_carry_what_was_asked_for() {
    let kind = kinds::find_kind("", "v1", "Pod").unwrap();
    let pod = json!({"kind": "Pod", "metadata": {"name": "p", "resourceVersion": "7"}, "status": {"phase": "Failed"}});
    let table = |include| {
        to_table(kind, std::slice::from_ref(&pod), include, MetaVersion::V1Beta1, NOW.parse().unwrap())
    };
    let none = table(IncludeObject::None);
    expect![[r#""meta.k8s.io/v1beta1" {"resourceVersion":"7"} {"description":"","format":"name","name":"Name","priority":0,"type":"string"}"#]].assert_eq(&format!("{} {} {}", none["apiVersion"], none["metadata"], none["columnDefinitions"][0]));
    expect![[r#"[{"message":"The pod failed.","reason":"Failed","status":"True","type":"Completed"}]"#]]
        .assert_eq(&none["rows"][0]["conditions"].to_string());
    expect![[r#"{"apiVersion":"meta.k8s.io/v1beta1","kind":"PartialObjectMetadata","metadata":{"name":"p","resourceVersion":"7"}}"#]].assert_eq(&table(IncludeObject::Metadata)["rows"][0]["object"].to_string());
    expect![[r#"{"kind":"Pod","metadata":{"name":"p","resourceVersion":"7"},"status":{"phase":"Failed"}}"#]]
        .assert_eq(&table(IncludeObject::Object)["rows"][0]["object"].to_string());
}

#[test]
fn volumes_claims_and_classes() {
    let spec = json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast", "volumeMode": "Filesystem",
        "claimRef": {"namespace": "default", "name": "data"}});
    check(
        "v1 PersistentVolume",
        &[
            json!({"metadata": meta("pv"), "spec": spec, "status": {"phase": "Bound"}}),
            json!({"metadata": {"name": "gone", "deletionTimestamp": NOW}, "spec": {}, "status": {"phase": "Released"}}),
        ],
        expect![[r#"
            Name | Capacity | Access Modes | Reclaim Policy | Status | Claim | StorageClass | VolumeAttributesClass | Reason | Age | VolumeMode*
            pv | 5Gi | RWO,ROX | Retain | Bound | default/data | fast | <unset> |  | 2m | Filesystem
            gone |  |  |  | Terminating |  |  | <unset> |  | <unknown> | <unset>"#]],
    );
    let bound =
        json!({"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOncePod"]});
    check(
        "v1 PersistentVolumeClaim",
        &[
            json!({"metadata": meta("data"), "spec": {"volumeName": "pv", "storageClassName": "fast", "volumeMode": "Block"}, "status": bound}),
            json!({"metadata": meta("waits"), "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
        ],
        expect![[r#"
            Name | Status | Volume | Capacity | Access Modes | StorageClass | VolumeAttributesClass | Age | VolumeMode*
            data | Bound | pv | 5Gi | RWOP | fast | <unset> | 2m | Block
            waits | Pending |  |  |  |  | <unset> | 2m | Filesystem"#]],
    );
    let mut class = json!({"metadata": meta("fast"), "provisioner": "p", "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate"});
    class["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    check(
        "storage.k8s.io/v1 StorageClass",
        &[class],
        expect![[r#"
            Name | Provisioner | ReclaimPolicy | VolumeBindingMode | AllowVolumeExpansion | Age
            fast (default) | p | Delete | Immediate | false | 2m"#]],
    );
    check(
        "storage.k8s.io/v1 CSIDriver",
        &[
            json!({"metadata": meta("d"), "spec": {"attachRequired": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"]}}),
        ],
        expect![[r#"
            Name | AttachRequired | PodInfoOnMount | StorageCapacity | TokenRequests | RequiresRepublish | Modes | Age
            d | false | false | false | <unset> | false | Persistent,Ephemeral | 2m"#]],
    );
}

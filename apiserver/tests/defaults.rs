//! What the server fills in, refuses and keeps fixed, per kind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use expect_test::expect;
use serde_json::json;
use support::{Server, check};

#[tokio::test]
async fn pods_get_upstreams_defaults() {
    check(
        "
POST /api/v1/namespaces/default/pods /spec/restartPolicy /spec/dnsPolicy /spec/terminationGracePeriodSeconds /spec/schedulerName /spec/enableServiceLinks /spec/securityContext /spec/serviceAccountName /spec/priority /status/phase /status/qosClass /spec/containers/0/imagePullPolicy /spec/containers/0/terminationMessagePolicy /spec/tolerations/0/tolerationSeconds /spec/volumes/0/projected/sources/0/serviceAccountToken/expirationSeconds /metadata/generation
  {metadata: {name: a}, spec: {containers: [{name: c, image: 'i:1'}]}}
POST /api/v1/namespaces/default/pods /spec/volumes /spec/containers/0/volumeMounts /status/qosClass /spec/containers/0/resources/requests
  {metadata: {name: b}, spec: {automountServiceAccountToken: false, volumes: [{name: v}, {name: m, configMap: {name: x}}], containers: [{name: c, image: i, resources: {limits: {cpu: '1', memory: 1Gi}}}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: c}, spec: {serviceAccountName: none, containers: [{name: c, image: i}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: d}, spec: {priorityClassName: none, containers: [{name: c, image: i}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: e}, spec: {containers: []}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: f}, spec: {restartPolicy: Often, containers: [{name: c, image: i, ports: [{containerPort: 70000}], volumeMounts: [{name: v, mountPath: /v}], resources: {requests: {cpu: '2'}, limits: {cpu: '1'}}}]}}
",
        expect![[r#"
            201 Always ClusterFirst 30 default-scheduler true {} default 0 Pending BestEffort IfNotPresent File 300 3607 1
            201 [{"emptyDir":{},"name":"v"},{"configMap":{"defaultMode":420,"name":"x"},"name":"m"}] null Guaranteed {"cpu":"1","memory":"1Gi"}
            403 Forbidden pods "c" is forbidden: error looking up service account default/none: serviceaccount "none" not found
            403 Forbidden pods "d" is forbidden: no PriorityClass with name none was found
            422 Invalid Pod "e" is invalid: spec.containers: Required value
            422 Invalid Pod "f" is invalid: [spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive, spec.containers[0].volumeMounts[0].name: Not found: "v", spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1, spec.restartPolicy: Unsupported value: "Often": supported values: "Always", "OnFailure", "Never"]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn pods_change_only_where_upstream_allows() {
    check(
        "
POST /api/v1/namespaces/default/pods
  {metadata: {name: a}, spec: {containers: [{name: c, image: 'i:1'}]}}
PATCH /api/v1/namespaces/default/pods/a type=application/strategic-merge-patch+json /spec/containers/0/image /metadata/generation
  {spec: {containers: [{name: c, image: 'i:2'}]}}
PATCH /api/v1/namespaces/default/pods/a type=application/merge-patch+json
  {spec: {restartPolicy: Never}}
PATCH /api/v1/namespaces/default/pods/a type=application/strategic-merge-patch+json
  {spec: {containers: [{name: d, image: 'i:2'}]}}
POST /api/v1/namespaces/default/pods/a/binding
  {target: {kind: Node, name: n1}}
POST /api/v1/namespaces/default/pods/a/binding
  {target: {kind: Node, name: n2}}
GET /api/v1/namespaces/default/pods/a /spec/nodeName /status/conditions/0/type /status/conditions/0/status
GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1,status.phase!%3DFailed /items/0/metadata/name
DELETE /api/v1/namespaces/default/pods/a /metadata/deletionGracePeriodSeconds
DELETE /api/v1/namespaces/default/pods/a /metadata/deletionGracePeriodSeconds
  {gracePeriodSeconds: 5}
DELETE /api/v1/namespaces/default/pods/a /metadata/deletionGracePeriodSeconds
  {gracePeriodSeconds: 60}
DELETE /api/v1/namespaces/default/pods/a /kind /metadata/name
  {gracePeriodSeconds: 0}
GET /api/v1/namespaces/default/pods/a
POST /api/v1/namespaces/default/pods
  {metadata: {name: unscheduled}, spec: {containers: [{name: c, image: 'i:1'}]}}
DELETE /api/v1/namespaces/default/pods/unscheduled /kind
GET /api/v1/namespaces/default/pods/unscheduled
",
        expect![[r#"
            201
            200 i:2 2
            422 Invalid Pod "a" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            422 Invalid Pod "a" is invalid: spec.containers: Forbidden: pod updates may not add or remove containers
            201 Success null
            409 Conflict Operation cannot be fulfilled on pods "a": pod a is already assigned to node "n1"
            200 n1 PodScheduled True
            200 a
            200 30
            200 5
            200 5
            200 Pod a
            404 NotFound pods "a" not found
            201
            200 Pod
            404 NotFound pods "unscheduled" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn services_get_addresses_that_stay() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/services";
    let spec = |extra: serde_json::Value| {
        let mut spec = json!({"selector": {"a": "b"}, "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    let made = server.post(path, &json!({"metadata": {"name": "a"}, "spec": spec(json!({}))})).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
    expect![[r#"
        200 10.96.0.1 443
        200 ["127.0.0.1"] {"kubernetes.io/service-name":"kubernetes"}
        422 Invalid Service "b" is invalid: spec.clusterIPs: Invalid value: ["IP"]: failed to allocate IP IP: provided IP is already allocated
        422 Invalid Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16
        422 Invalid Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated
        201 10.96.3.4 53 TCP ClusterIP None Cluster ["IPv4"] SingleStack
        200 10.96.3.4 dns
        422 Invalid Service "b" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.3.5"]: may not change once set
        201 None ["None"]
        201 30000 Cluster
        422 Invalid Service "none" is invalid: spec.ports: Required value
        422 Invalid Service "1x" is invalid: [metadata.name: Invalid value: "1x": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?'), spec.ports[0].name: Required value, spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive]
    "#]].assert_eq(
        &server
            .run(&format!(
                "
GET /api/v1/namespaces/default/services/kubernetes /spec/clusterIP /spec/ports/0/port
GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes /endpoints/0/addresses /metadata/labels
POST {path}
  {{metadata: {{name: b}}, spec: {{clusterIP: {ip}, ports: [{{port: 1}}]}}}}
POST {path}
  {{metadata: {{name: b}}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 1}}]}}}}
POST {path}
  {{metadata: {{name: b}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 1}}]}}}}
POST {path} /spec/clusterIP /spec/ports/0/targetPort /spec/ports/0/protocol /spec/type /spec/sessionAffinity /spec/internalTrafficPolicy /spec/ipFamilies /spec/ipFamilyPolicy
  {{metadata: {{name: b}}, spec: {{clusterIP: 10.96.3.4, ports: [{{port: 53}}]}}}}
PUT {path}/b /spec/clusterIP /spec/ports/0/targetPort
  {{metadata: {{name: b}}, spec: {{ports: [{{port: 53, targetPort: dns}}]}}}}
PATCH {path}/b type=application/merge-patch+json
  {{spec: {{clusterIP: 10.96.3.5}}}}
POST {path} /spec/clusterIP /spec/clusterIPs
  {{metadata: {{name: headless}}, spec: {{clusterIP: None}}}}
POST {path} /spec/ports/0/nodePort /spec/externalTrafficPolicy
  {{metadata: {{name: np}}, spec: {{type: NodePort, ports: [{{port: 1}}]}}}}
POST {path}
  {{metadata: {{name: none}}, spec: {{}}}}
POST {path}
  {{metadata: {{name: 1x}}, spec: {{ports: [{{port: 0}}, {{port: 1, name: x}}]}}}}
"
            ))
            .await
            .replace(ip, "IP"),
    );
}

#[tokio::test]
async fn a_gated_pod_says_so() {
    check(
        "
POST /api/v1/namespaces/default/pods /status/conditions/0/reason /status/conditions/0/status
  {metadata: {name: a}, spec: {schedulingGates: [{name: ex.com/a}], containers: [{name: c, image: i}]}}
GET /api/v1/namespaces/default/pods accept=application/json;as=Table;v=v1;g=meta.k8s.io /rows/0/cells/2
PATCH /api/v1/namespaces/default/pods/a type=application/merge-patch+json /spec/schedulingGates
  {spec: {schedulingGates: null}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: b}, spec: {priority: 7, containers: [{name: c, image: i}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: b}, spec: {runtimeClassName: kata, containers: [{name: c, image: i}]}}
",
        expect![[r#"
            201 SchedulingGated False
            200 SchedulingGated
            200 null
            403 Forbidden pods "b" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name
            403 Forbidden pods "b" is forbidden: pod rejected: RuntimeClass "kata" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn ports_of_load_balancers() {
    let path = "/api/v1/namespaces/default/services";
    let patch = "type=application/merge-patch+json /spec/healthCheckNodePort /spec/ports/0/nodePort";
    let script = format!(
        "POST {path} /spec/healthCheckNodePort /spec/ports/0/nodePort\n  \
         {{metadata: {{name: a}}, spec: {{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{{port: 80}}]}}}}\n\
         PATCH {path}/a {patch}\n  {{metadata: {{labels: {{a: b}}}}}}\n\
         POST {path} /spec/healthCheckNodePort /spec/ports/0/nodePort\n  \
         {{metadata: {{name: b}}, spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{{port: 80}}]}}}}\n\
         PATCH {path}/a {patch}\n  {{spec: {{externalTrafficPolicy: Cluster}}}}\n"
    );
    check(
        &script,
        expect![[r#"
        201 30001 30000
        200 30001 30000
        201 null null
        200 null 30000
    "#]],
    )
    .await;
}

#[tokio::test]
async fn services_that_cannot_be() {
    let spec = |rest: &str| {
        let rest = format!("{{ports: [{{port: 80}}], {rest}}}");
        format!(
            "POST /api/v1/namespaces/default/services?dryRun=All\n  {{metadata: {{name: s}}, spec: {rest}}}\n"
        )
    };
    let script: String = [
        "type: ExternalName, externalName: 'a_b', clusterIP: 10.96.0.9",
        "type: NodePort, ports: [{port: 80, nodePort: 80}]",
        "type: NodePort, ports: [{port: 80, nodePort: 30123}]",
        "ports: [{port: 80, nodePort: 30001}]",
        "type: LoadBalancer, clusterIP: None",
        "internalTrafficPolicy: Foo, externalTrafficPolicy: Local",
        "externalIPs: [127.0.0.1, x, 169.254.0.1], healthCheckNodePort: 1, trafficDistribution: Near",
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
        "ipFamilies: [IPv6]",
        "ipFamilyPolicy: RequireDualStack",
    ]
    .map(spec)
    .concat();
    let first = "POST /api/v1/namespaces/default/services /spec/ports/0/nodePort\n  \
                 {metadata: {name: a}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30123}]}}\n\
                 PATCH /api/v1/namespaces/default/services/a type=application/merge-patch+json /spec/ports/0/nodePort\n  \
                 {metadata: {labels: {a: b}}}\n\
                 PATCH /api/v1/namespaces/default/services/a type=application/merge-patch+json /spec/externalTrafficPolicy /spec/ports/0/nodePort\n  \
                 {spec: {type: ClusterIP}}\n\
                 PATCH /api/v1/namespaces/default/services/a?dryRun=All type=application/merge-patch+json /spec/clusterIP /spec/ipFamilies\n  \
                 {spec: {type: ExternalName, externalName: a.b}}\n\
                 PATCH /api/v1/namespaces/default/services/a type=application/merge-patch+json /spec/ports/0/nodePort\n  \
                 {spec: {type: NodePort, ports: [{port: 80, nodePort: 30123}]}}\n";
    check(&format!("{first}{script}"), expect![[r#"
        201 30123
        200 30123
        200 null null
        200 null null
        200 30123
        422 Invalid Service "s" is invalid: [spec.externalName: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.clusterIPs: Forbidden: may not be set for ExternalName services]
        422 Invalid Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767
        422 Invalid Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated
        422 Invalid Service "s" is invalid: spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
        422 Invalid Service "s" is invalid: spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for LoadBalancer services
        422 Invalid Service "s" is invalid: [spec.internalTrafficPolicy: Unsupported value: "Foo": supported values: "Cluster", "Local", spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services]
        422 Invalid Service "s" is invalid: [spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128), spec.externalIPs[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), spec.externalIPs[2]: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10), spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local', spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"]
        422 Invalid Service "s" is invalid: spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400
        422 Invalid Service "s" is invalid: spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster
        422 Invalid Service "s" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services
    "#]]).await;
}

/// The cluster has both families, IPv4 first.
#[tokio::test]
async fn services_of_two_families() {
    let server = Server::of(&["10.96.0.0/16", "fd00:96::/112"]).await;
    let script = r#"
GET /SVC/kubernetes /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
POST /SVC /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {metadata: {name: a}, spec: {clusterIP: 10.96.1.1, ports: [{port: 80}], selector: {a: b}}}
PATCH /SVC/a type=application/merge-patch+json /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {ipFamilyPolicy: PreferDualStack, clusterIPs: [10.96.1.1, 'fd00:96::1:1']}}
PATCH /SVC/a type=application/merge-patch+json /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {ipFamilyPolicy: PreferDualStack, clusterIPs: [10.96.1.1, 'fd00:96::101']}}
PUT /SVC/a /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {metadata: {name: a}, spec: {ports: [{port: 81}], selector: {a: b}}}
PATCH /SVC/a type=application/merge-patch+json
  {spec: {clusterIPs: [10.96.1.1]}}
PATCH /SVC/a type=application/merge-patch+json
  {spec: {clusterIPs: [10.96.1.1, 'fd00:96::102']}}
PATCH /SVC/a type=application/merge-patch+json
  {spec: {ipFamilies: [IPv6, IPv4]}}
POST /SVC
  {metadata: {name: b}, spec: {clusterIP: 'fd00:96::101', ports: [{port: 80}]}}
PATCH /SVC/a type=application/merge-patch+json /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {ipFamilyPolicy: SingleStack}}
POST /SVC /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {metadata: {name: b}, spec: {clusterIP: 'fd00:96::101', ports: [{port: 80}]}}
PATCH /SVC/b type=application/merge-patch+json /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {ipFamilyPolicy: RequireDualStack}}
DELETE /SVC/b /status
POST /SVC /spec/clusterIPs /spec/ipFamilies
  {metadata: {name: c}, spec: {ipFamilyPolicy: RequireDualStack, clusterIP: 'fd00:96::101', clusterIPs: ['fd00:96::101', 10.96.1.2], ports: [{port: 80}]}}
POST /SVC /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {metadata: {name: d}, spec: {clusterIP: None, ports: [{port: 80}]}}
POST /SVC /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {metadata: {name: e}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80}]}}
PATCH /SVC/e type=application/merge-patch+json /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]}}
PATCH /SVC/e type=application/merge-patch+json
  {spec: {clusterIP: 10.96.1.9}}
PATCH /SVC/c type=application/merge-patch+json /spec/clusterIPs /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {type: ExternalName, externalName: a.b}}
PATCH /SVC/c type=application/merge-patch+json /spec/ipFamilies /spec/ipFamilyPolicy
  {spec: {type: ClusterIP, externalName: null}}
"#;
    expect![[r#"
        200 ["10.96.0.1"] ["IPv4"] SingleStack
        201 ["10.96.1.1"] ["IPv4"] SingleStack
        422 null null
        200 ["10.96.1.1","fd00:96::101"] ["IPv4","IPv6"] PreferDualStack
        200 ["10.96.1.1","fd00:96::101"] ["IPv4","IPv6"] PreferDualStack
        422 Invalid Service "a" is invalid: spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary cluster IP
        422 Invalid Service "a" is invalid: spec.clusterIPs[1]: Invalid value: ["10.96.1.1","fd00:96::102"]: may not change once set
        422 Invalid Service "a" is invalid: [spec.clusterIPs[0]: Invalid value: "10.96.1.1": expected an IPv6 value as indicated by `ipFamilies[0]`, spec.clusterIPs[1]: Invalid value: "fd00:96::101": expected an IPv4 value as indicated by `ipFamilies[1]`]
        422 Invalid Service "b" is invalid: spec.clusterIPs: Invalid value: ["fd00:96::101"]: failed to allocate IP fd00:96::101: provided IP is already allocated
        200 ["10.96.1.1"] ["IPv4"] SingleStack
        201 ["fd00:96::101"] ["IPv6"] SingleStack
        200 ["IPv6","IPv4"] RequireDualStack
        200 {"loadBalancer":{}}
        201 ["fd00:96::101","10.96.1.2"] ["IPv6","IPv4"]
        201 ["None"] ["IPv4","IPv6"] RequireDualStack
        201 ["None"] ["IPv4"] SingleStack
        200 ["None"] ["IPv6","IPv4"] PreferDualStack
        422 Invalid Service "e" is invalid: spec.clusterIPs[0]: Invalid value: "10.96.1.9": expected an IPv6 value as indicated by `ipFamilies[0]`
        200 null null null
        200 ["IPv4"] SingleStack
    "#]]
    .assert_eq(&server.run(&script.replace("/SVC", "/api/v1/namespaces/default/services")).await);
    let made = server
        .post(
            "/api/v1/namespaces/default/services",
            &json!({"metadata": {"name": "f"}, "spec": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"], "ports": [{"port": 1}]}}),
        )
        .await;
    let ips = made["spec"]["clusterIPs"].as_array().unwrap();
    let starts = ["fd00:96::", "10.96."];
    assert!(ips.iter().zip(starts).all(|(ip, start)| ip.as_str().unwrap().starts_with(start)), "{ips:?}");
    assert_eq!((ips.len(), &made["spec"]["clusterIP"]), (2, &ips[0]));
}

#[tokio::test]
async fn services_whose_families_cannot_be() {
    let script = |specs: &[&str]| {
        let of = |rest: &&str| {
            format!(
                "POST /api/v1/namespaces/default/services?dryRun=All\n  {{metadata: {{name: s}}, spec: {{ports: [{{port: 80}}], {rest}}}}}\n"
            )
        };
        specs.iter().map(of).collect::<String>()
    };
    let specs = [
        "clusterIPs: [10.96.0.9]",
        "clusterIP: 10.96.0.8, clusterIPs: [10.96.0.9]",
        "clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00:96::9']",
        "ipFamilies: [IPv4, IPv6]",
        "ipFamilies: [IPv4, IPv4]",
        "ipFamilies: [IPv5], ipFamilyPolicy: Dual",
        "ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 10.96.0.10]",
        "ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, x]",
        "clusterIP: None, clusterIPs: [None, 10.96.0.9]",
        "clusterIP: 'fd00:96::9', ipFamilies: [IPv4]",
        "clusterIP: 'fd00:97::9'",
        "clusterIP: 'fd00:96::'",
    ];
    let server = Server::of(&["10.96.0.0/16", "fd00:96::/112"]).await;
    expect![[r#"
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.9"]: must be empty when `clusterIP` is not specified
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.9"]: first value must match `clusterIP`
        422 Invalid Service "s" is invalid: spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified
        422 Invalid Service "s" is invalid: spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified
        422 Invalid Service "s" is invalid: spec.ipFamilies[1]: Duplicate value: "IPv4"
        422 Invalid Service "s" is invalid: [spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6", spec.ipFamilyPolicy: Unsupported value: "Dual": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"]
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.9","10.96.0.10"]: may specify no more than one IP for each IP family
        422 Invalid Service "s" is invalid: spec.clusterIPs[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["None","10.96.0.9"]: 'None' must be the first and only value
        422 Invalid Service "s" is invalid: spec.clusterIPs[0]: Invalid value: "fd00:96::9": expected an IPv4 value as indicated by `ipFamilies[0]`
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["fd00:97::9"]: failed to allocate IP fd00:97::9: the provided IP (fd00:97::9) is not in the valid range. The range of valid IPs is fd00:96::/112
        422 Invalid Service "s" is invalid: spec.clusterIPs: Invalid value: ["fd00:96::"]: failed to allocate IP fd00:96::: the provided IP (fd00:96::) is not in the valid range. The range of valid IPs is fd00:96::/112
    "#]]
    .assert_eq(&server.run(&script(&specs)).await);
    let single =
        ["clusterIP: 10.96.0.9", "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]", "clusterIP: None"];
    let server = Server::of(&["fd00:96::/112"]).await;
    expect![[r#"
        422 Invalid Service "s" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.0.9"]: IPv4 is not configured on this cluster
        422 Invalid Service "s" is invalid: spec.ipFamilies[0]: Invalid value: "IPv4": not configured on this cluster
        201
    "#]]
    .assert_eq(&server.run(&script(&single)).await);
}

#[tokio::test]
async fn secrets_have_what_their_type_promises() {
    let secret = |rest: &str| {
        format!(
            "POST /api/v1/namespaces/default/secrets?dryRun=All\n  {{metadata: {{name: s}}, type: kubernetes.io/{rest}}}\n"
        )
    };
    let script: String = [
        "tls, data: {tls.crt: ''}",
        "dockerconfigjson, stringData: {.dockerconfigjson: 'x'}",
        "dockerconfigjson, stringData: {.dockerconfigjson: '{\"auths\":{}}'}",
        "basic-auth",
        "ssh-auth",
        "service-account-token",
    ]
    .map(secret)
    .concat();
    check(&script, expect![[r#"
        422 Invalid Secret "s" is invalid: data[tls.key]: Required value
        422 Invalid Secret "s" is invalid: data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": expected value at line 1 column 1
        201
        422 Invalid Secret "s" is invalid: [data[username]: Required value, data[password]: Required value]
        422 Invalid Secret "s" is invalid: data[ssh-privatekey]: Required value
        422 Invalid Secret "s" is invalid: metadata.annotations[kubernetes.io/service-account.name]: Required value
    "#]]).await;
}

#[tokio::test]
async fn endpoints_are_places_to_send_to() {
    check(
        "
POST /apis/discovery.k8s.io/v1/namespaces/default/endpointslices
  {metadata: {name: a}, addressType: IPv4, endpoints: [{addresses: [abc]}, {addresses: [127.0.0.1]}, {addresses: ['::2']}], ports: [{name: A_B, protocol: X}, {}, {}]}
POST /api/v1/namespaces/default/endpoints
  {metadata: {name: a}, subsets: [{addresses: [{ip: x}], ports: [{port: 0}, {port: 1, name: a}]}, {ports: [{port: 80}]}]}
",
        expect![[r#"
            422 Invalid EndpointSlice.discovery.k8s.io "a" is invalid: [endpoints[0].addresses[0]: Invalid value: "abc": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), endpoints[1].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128), endpoints[2].addresses[0]: Invalid value: "::2": must be an IPv4 address, ports[0].name: Invalid value: "A_B": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP", ports[2].name: Duplicate value: ""]
            422 Invalid Endpoints "a" is invalid: [subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), subsets[0].ports[0].name: Required value, subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn secrets_and_config_maps() {
    check(
        "
POST /api/v1/namespaces/default/secrets /type /data /stringData
  {metadata: {name: a}, stringData: {k: v}}
PATCH /api/v1/namespaces/default/secrets/a type=application/merge-patch+json
  {type: other}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: a}, immutable: true, data: {k: v}}
PATCH /api/v1/namespaces/default/configmaps/a type=application/merge-patch+json
  {data: {k: w}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: b}, data: {'a/b': v}}
",
        expect![[r#"
            201 Opaque {"k":"dg=="} null
            422 Invalid Secret "a" is invalid: type: Invalid value: "other": field is immutable
            201
            422 Invalid ConfigMap "a" is invalid: data: Forbidden: field is immutable when `immutable` is set
            422 Invalid ConfigMap "b" is invalid: data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
        "#]],
    )
    .await;
}

#[tokio::test]
async fn deployments_keep_their_selector() {
    check(
        "
POST /apis/apps/v1/namespaces/default/deployments /spec/replicas /spec/strategy /spec/revisionHistoryLimit /spec/progressDeadlineSeconds /spec/template/spec/restartPolicy
  {metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}
PUT /apis/apps/v1/namespaces/default/deployments/d
  {metadata: {name: d}, spec: {selector: {matchLabels: {a: c}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}
POST /apis/apps/v1/namespaces/default/deployments
  {metadata: {name: e}, spec: {template: {spec: {containers: [{name: c, image: 'i:1'}]}}}}
POST /apis/apps/v1/namespaces/default/deployments
  {metadata: {name: e}, spec: {selector: {}, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: 'i:1'}]}}}}
POST /apis/apps/v1/namespaces/default/deployments
  {metadata: {name: e}, spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}
",
        expect![[r#"
            201 1 {"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"} 10 600 Always
            422 Invalid Deployment.apps "d" is invalid: spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable
            422 Invalid Deployment.apps "e" is invalid: spec.selector: Required value
            422 Invalid Deployment.apps "e" is invalid: [spec.selector: Invalid value: {}: empty selector is invalid for deployment, spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"]
            422 Invalid Deployment.apps "e" is invalid: spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
        "#]],
    )
    .await;
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    check(
        "
POST /api/v1/namespaces/default/events /metadata/name
  {metadata: {name: a}, involvedObject: {kind: Pod, name: p, namespace: default, uid: u}, reason: Started, message: hello, count: 2, type: Normal}
GET /apis/events.k8s.io/v1/namespaces/default/events/a /apiVersion /regarding/name /note /deprecatedCount
GET /api/v1/namespaces/default/events?fieldSelector=involvedObject.uid%3Du,involvedObject.name%3Dp /items/0/message
GET /apis/events.k8s.io/v1/events /kind /items/0/apiVersion /items/0/note
PATCH /apis/events.k8s.io/v1/namespaces/default/events/a type=application/merge-patch+json /note
  {note: again}
GET /api/v1/namespaces/default/events/a /apiVersion /message
",
        expect![[r#"
            201 a
            200 events.k8s.io/v1 p hello 2
            200 hello
            200 EventList events.k8s.io/v1 hello
            200 again
            200 v1 again
        "#]],
    )
    .await;
}

#[tokio::test]
async fn pods_are_resized_through_a_door_of_their_own() {
    check(
        "
POST /api/v1/namespaces/default/pods /metadata/generation /status/qosClass
  {metadata: {name: a}, spec: {initContainers: [{name: i, image: i, resources: {requests: {cpu: 1m}}}, {name: s, image: i, restartPolicy: Always, resources: {requests: {cpu: 1m}}}], containers: [{name: c, image: 'i:1', resources: {requests: {cpu: 100m, memory: 10Mi}, limits: {memory: 20Mi}}}]}}
PATCH /api/v1/namespaces/default/pods/a type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {requests: {cpu: 200m}}}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json /spec/containers/0/resources /spec/containers/0/image /metadata/generation /metadata/labels
  {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'j', resources: {requests: {cpu: 200m}, limits: {memory: 15Mi, cpu: '1'}}}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json /metadata/generation
  {spec: {initContainers: [{name: s, resources: {requests: {cpu: 2m}}}]}}
GET /api/v1/namespaces/default/pods/a/resize /kind /spec/initContainers/1/resources
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json
  {spec: {initContainers: [{name: i, resources: {requests: {cpu: 2m}}}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {limits: {memory: null}}}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {limits: {ephemeral-storage: 1Gi}}}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]}}
PATCH /api/v1/namespaces/default/pods/a/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {requests: {cpu: 2}}}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: g}, spec: {containers: [{name: c, image: 'i:1', resources: {limits: {cpu: 100m, memory: 10Mi}}}]}}
PATCH /api/v1/namespaces/default/pods/g/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {requests: {cpu: 50m}}}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: p}, spec: {resources: {limits: {cpu: 1}}, containers: [{name: c, image: 'i:1'}]}}
PATCH /api/v1/namespaces/default/pods/p/resize type=application/strategic-merge-patch+json
  {spec: {containers: [{name: c, resources: {requests: {cpu: 50m}}}]}}
PATCH /api/v1/namespaces/default/pods/none/resize type=application/strategic-merge-patch+json
  {spec: {}}
",
        expect![[r#"
            201 1 Burstable
            422 Invalid Pod "a" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            200 {"limits":{"cpu":"1","memory":"15Mi"},"requests":{"cpu":"200m","memory":"10Mi"}} i:1 2 null
            200 3
            200 Pod {"requests":{"cpu":"2m"}}
            422 Invalid Pod "a" is invalid: spec: Forbidden: resources for non-sidecar init containers are immutable
            422 Invalid Pod "a" is invalid: spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed
            422 Invalid Pod "a" is invalid: spec: Forbidden: only cpu and memory resources are mutable
            422 Invalid Pod "a" is invalid: spec: Forbidden: only cpu and memory resources are mutable
            422 Invalid Pod "a" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
            201
            422 Invalid Pod "g" is invalid: spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing
            201
            422 Invalid Pod "p" is invalid: : Forbidden: pods with pod-level resources cannot be resized
            404 NotFound pods "none" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn pods_take_ephemeral_containers() {
    check(
        "
POST /api/v1/namespaces/default/pods /metadata/generation
  {metadata: {name: a}, spec: {volumes: [{name: v}], containers: [{name: c, image: 'i:1'}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: b}, spec: {containers: [{name: c, image: 'i:1'}], ephemeralContainers: [{name: e, image: i}]}}
PATCH /api/v1/namespaces/default/pods/a/ephemeralcontainers type=application/strategic-merge-patch+json /metadata/generation /metadata/labels /spec/ephemeralContainers
  {metadata: {labels: {x: y}}, spec: {restartPolicy: Never, ephemeralContainers: [{name: e, image: 'i:1', targetContainerName: c, tty: true}]}}
PATCH /api/v1/namespaces/default/pods/a/ephemeralcontainers type=application/strategic-merge-patch+json /metadata/generation /spec/ephemeralContainers/0/name /spec/ephemeralContainers/1/name
  {spec: {ephemeralContainers: [{name: f, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}}
GET /api/v1/namespaces/default/pods/a/ephemeralcontainers /kind /metadata/generation
PATCH /api/v1/namespaces/default/pods/a/ephemeralcontainers type=application/strategic-merge-patch+json
  {spec: {ephemeralContainers: [{name: e, image: 'i:2'}]}}
PATCH /api/v1/namespaces/default/pods/a/ephemeralcontainers type=application/merge-patch+json
  {spec: {ephemeralContainers: [{name: f, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}}
PATCH /api/v1/namespaces/default/pods/a/ephemeralcontainers type=application/strategic-merge-patch+json
  {spec: {ephemeralContainers: [{name: c, image: ''}, {name: g, image: i, targetContainerName: e, ports: [{containerPort: 1}], resources: {limits: {cpu: 1}}, resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}], restartPolicy: Always, readinessProbe: {exec: {command: [a]}}, lifecycle: {preStop: {exec: {command: [a]}}}, volumeMounts: [{name: v, mountPath: /v, subPath: a}, {name: w, mountPath: /w}]}]}}
PATCH /api/v1/namespaces/default/pods/a type=application/strategic-merge-patch+json
  {spec: {ephemeralContainers: [{name: g, image: i}]}}
PATCH /api/v1/namespaces/default/pods/a type=application/strategic-merge-patch+json /metadata/generation /spec/ephemeralContainers/0/name
  {spec: {containers: [{name: c, image: 'i:2'}]}}
POST /api/v1/namespaces/default/pods /metadata/name
  {metadata: {name: m, annotations: {kubernetes.io/config.mirror: x}}, spec: {nodeName: n, containers: [{name: c, image: i}]}}
PATCH /api/v1/namespaces/default/pods/m/ephemeralcontainers type=application/strategic-merge-patch+json
  {spec: {ephemeralContainers: [{name: g, image: i}]}}
POST /apis/apps/v1/namespaces/default/replicasets
  {metadata: {name: r}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}], ephemeralContainers: [{name: e, image: i}]}}}}
",
        expect![[r#"
            201 1
            422 Invalid Pod "b" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create
            200 2 null [{"image":"i:1","imagePullPolicy":"IfNotPresent","name":"e","resources":{},"targetContainerName":"c","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","tty":true}]
            200 3 f e
            200 Pod 3
            422 Invalid Pod "a" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be changed
            422 Invalid Pod "a" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers "e" may not be removed
            422 Invalid Pod "a" is invalid: [spec.ephemeralContainers[0].name: Duplicate value: "c", spec.ephemeralContainers[0].image: Required value, spec.ephemeralContainers[1].volumeMounts[1].name: Not found: "w", spec.ephemeralContainers[1].targetContainerName: Not found: "e", spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].resizePolicy: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].restartPolicy: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].readinessProbe: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].lifecycle: Forbidden: cannot be set for an Ephemeral Container, spec.ephemeralContainers[1].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container]
            422 Invalid Pod "a" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            200 4 f
            201 m
            422 Invalid Pod "m" is invalid: : Forbidden: static pods do not support ephemeral containers
            422 Invalid ReplicaSet.apps "r" is invalid: spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template
        "#]],
    )
    .await;
}

#[tokio::test]
async fn pods_have_resources_as_a_whole() {
    check(
        "
POST /api/v1/namespaces/default/pods /spec/resources /status/qosClass
  {metadata: {name: a}, spec: {resources: {limits: {cpu: 1, memory: 1Gi}}, containers: [{name: c, image: i, resources: {requests: {cpu: 100m}}}, {name: d, image: i, resources: {requests: {cpu: 100m}}}]}}
POST /api/v1/namespaces/default/pods /spec/resources /status/qosClass
  {metadata: {name: b}, spec: {resources: {limits: {cpu: 1, memory: 1Gi}}, containers: [{name: c, image: i}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: c}, spec: {resources: {requests: {cpu: 150m, memory: 2Gi}, limits: {memory: 1Gi, cpu: 300m}, claims: [{name: x}]}, containers: [{name: c, image: i, resources: {requests: {cpu: 100m}, limits: {cpu: 400m}}}, {name: d, image: i, resources: {requests: {cpu: 100m}}}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: d}, spec: {resources: {limits: {ephemeral-storage: 1Gi}}, containers: [{name: c, image: i}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: e}, spec: {restartPolicy: Never, initContainers: [{name: i, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]}], containers: [{name: c, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}, {resourceName: cpu, restartPolicy: Often}, {resourceName: disk, restartPolicy: NotRequired}]}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: f}, spec: {containers: [{name: c, image: i, resources: {limits: {hugepages-2Mi: 4Mi}}}, {name: d, image: i, resources: {requests: {cpu: 1, hugepages-2Mi: 2Mi}, limits: {hugepages-2Mi: 4Mi}}}, {name: e, image: i, resources: {requests: {cpu: 1, hugepages-1Gi: 1Gi}}}]}}
",
        expect![[r#"
            201 {"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"200m","memory":"1Gi"}} Burstable
            201 {"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}} Guaranteed
            422 Invalid Pod "c" is invalid: [spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level, spec.resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi, spec.resources.requests[cpu]: Invalid value: "150m": must be greater than or equal to aggregate container requests of 200m, spec.containers[0].resources.limits[cpu]: Invalid value: "400m": must be less than or equal to pod limits of 300m]
            422 Invalid Pod "d" is invalid: spec.resources.limits[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"
            422 Invalid Pod "e" is invalid: [spec.initContainers[0].resizePolicy: Invalid value: [{"resourceName":"cpu","restartPolicy":"NotRequired"}]: must not be set for init containers, spec.containers[0].resizePolicy: Invalid value: "RestartContainer": must be 'NotRequired' when `restartPolicy` is 'Never', spec.containers[0].resizePolicy: Duplicate value: "cpu", spec.containers[0].resizePolicy: Unsupported value: "Often": supported values: "NotRequired", "RestartContainer", spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"]
            422 Invalid Pod "f" is invalid: [spec.containers[0].resources: Forbidden: HugePages require cpu or memory, spec.containers[1].resources.requests: Invalid value: "2Mi": must be equal to hugepages-2Mi limit of 4Mi, spec.containers[2].resources.limits: Required value: Limit must be set for non overcommitable resources]
        "#]],
    )
    .await;
}

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

/// What is said about a pod with one container `c`, after a JSON merge of `spec`; `c` merges into the container.
fn check(cases: &[(&str, &str)], expected: Expect) {
    let mut out = String::new();
    for (place, yaml) in cases {
        let mut pod =
            json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let change: Value = serde_norway::from_str(yaml).unwrap();
        let target = match *place {
            "spec" => &mut pod["spec"],
            _ => &mut pod["spec"]["containers"][0],
        };
        json_patch::merge(target, &change);
        (super::super::pod::POD.default)(&mut pod);
        let mut causes = Causes::default();
        (super::super::pod::POD.validate)(&pod, &mut causes);
        (super::super::pod::POD.validate_create)(&pod, &mut causes);
        out += &format!("{}\n", if causes.is_empty() { "-".to_owned() } else { causes.text() });
    }
    expected.assert_eq(&out);
}

#[test]
fn what_people_write_passes() {
    check(
        &[
            (
                "c",
                "{env: [{name: A, value: x}, {name: B, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''a/b'']'}}}, \
             {name: C, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}, \
             {name: D, valueFrom: {secretKeyRef: {name: s, key: k}}}], envFrom: [{prefix: p_, secretRef: {name: s}}]}",
            ),
            (
                "c",
                "{livenessProbe: {httpGet: {port: web}}, readinessProbe: {exec: {command: ['true']}}, \
             startupProbe: {grpc: {port: 1}}, lifecycle: {preStop: {sleep: {seconds: 30}}, postStart: {tcpSocket: {port: 1}}}}",
            ),
            (
                "spec",
                "{initContainers: [{name: s, image: i, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}]}",
            ),
            (
                "spec",
                "{volumes: [{name: a}, {name: b, hostPath: {path: /a..b, type: Socket}}, {name: c, configMap: {name: m, \
             items: [{key: k, path: a/b, mode: 256}]}}, {name: d, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: \
             metadata.labels}}, {path: c, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}}, {name: e, projected: \
             {sources: [{serviceAccountToken: {path: t}}]}}, {name: f, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]}",
            ),
            (
                "spec",
                "{securityContext: {runAsUser: 0, fsGroup: 7, seccompProfile: {type: Localhost, localhostProfile: a/b.json}, \
             sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}, {name: net/core/somaxconn, value: '1'}]}}",
            ),
            ("c", "{securityContext: {privileged: true, capabilities: {add: [SYS_ADMIN]}}}"),
            (
                "spec",
                "{dnsPolicy: None, dnsConfig: {nameservers: ['1.1.1.1', '::1'], searches: [., a.b., a_b.c]}, \
             hostAliases: [{ip: 1.2.3.4, hostnames: [a.b]}]}",
            ),
            (
                "spec",
                "{tolerations: [{operator: Exists}, {key: a/b, value: c, effect: NoSchedule}, {key: a, operator: Exists, \
             effect: NoExecute, tolerationSeconds: 1}], topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, \
             whenUnsatisfiable: ScheduleAnyway}], readinessGates: [{conditionType: a/b}], schedulingGates: [{name: a}]}",
            ),
            (
                "spec",
                "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
             [{matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists}]}]}}}}",
            ),
            (
                "c",
                "{ports: [{containerPort: 1, hostPort: 2}], resources: {limits: {cpu: '1', a.b/c: '1', hugepages-2Mi: 2Mi}}}",
            ),
        ],
        expect![[r#"
            -
            -
            -
            -
            -
            -
            -
            -
            -
            -
        "#]],
    );
}

#[test]
fn environment() {
    check(
        &[
            ("c", "{env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {}}]}"),
            ("c", "{env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.foo}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {fieldRef: {fieldPath: 'spec[''x'']'}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {fieldRef: {fieldPath: ''}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.foo}}}]}"),
            ("c", "{env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: '2'}}}]}"),
            (
                "c",
                "{env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: '2'}}}]}",
            ),
            ("c", "{env: [{name: A, valueFrom: {configMapKeyRef: {name: x}, secretKeyRef: {key: y}}}]}"),
            ("c", "{envFrom: [{}, {configMapRef: {}, secretRef: {name: s}}]}"),
        ],
        expect![[r#"
            spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.foo": error converting fieldPath: field label not supported: metadata.foo
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec['x']": error converting fieldPath: field label does not support subscript
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Required value
            spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.foo": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"
            spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource
            spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.memory": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource
            [spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value, spec.containers[0].env[0].valueFrom.secretKeyRef.name: Required value, spec.containers[0].env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time]
            [spec.containers[0].envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`, spec.containers[0].envFrom[1].configMapRef.name: Required value, spec.containers[0].envFrom[1]: Invalid value: "": may not have more than one field specified at a time]
        "#]],
    );
}

#[test]
fn handlers() {
    check(
        &[
            ("c", "{livenessProbe: {exec: {}}}"),
            ("c", "{livenessProbe: {httpGet: {port: 70000, scheme: FTP}}}"),
            (
                "c",
                "{livenessProbe: {tcpSocket: {port: BAD_}, exec: {command: [a]}, terminationGracePeriodSeconds: 0}}",
            ),
            ("c", "{readinessProbe: {tcpSocket: {}, terminationGracePeriodSeconds: 5}}"),
            ("c", "{lifecycle: {preStop: {}, postStart: {sleep: {seconds: 31}}}}"),
            (
                "spec",
                "{initContainers: [{name: i, image: i, livenessProbe: {exec: {command: [a]}}, lifecycle: {preStop: {exec: {command: [a]}}}}]}",
            ),
        ],
        expect![[r#"
            spec.containers[0].livenessProbe.exec.command: Required value
            [spec.containers[0].livenessProbe.httpGet.port: Invalid value: 70000: must be between 1 and 65535, inclusive, spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"]
            [spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type, spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0]
            [spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive, spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes]
            [spec.containers[0].lifecycle.postStart.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30), spec.containers[0].lifecycle.preStop: Required value: must specify a handler type]
            [spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always, spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always]
        "#]],
    );
}

#[test]
fn volumes() {
    check(
        &[
            ("spec", "{volumes: [{name: v, hostPath: {path: /a/../b, type: Foo}}]}"),
            ("spec", "{volumes: [{name: v, image: {pullPolicy: Sometimes}}]}"),
            ("spec", "{volumes: [{name: v, image: {reference: a}, emptyDir: {}}]}"),
            ("spec", "{volumes: [{name: v, emptyDir: {sizeLimit: '-1'}}]}"),
            (
                "spec",
                "{volumes: [{name: v, configMap: {name: x, defaultMode: 1000, items: [{path: ../x}, {key: a, path: ..x}, {key: a, path: /x, mode: -1}]}}]}",
            ),
            (
                "spec",
                "{volumes: [{name: v, downwardAPI: {items: [{path: a}, {path: b, fieldRef: {fieldPath: spec.nodeName}}, {path: c, resourceFieldRef: {resource: limits.cpu}}]}}]}",
            ),
            (
                "spec",
                "{volumes: [{name: v, projected: {sources: [{secret: {}}, {serviceAccountToken: {expirationSeconds: 5}, configMap: {name: a}}]}}]}",
            ),
            (
                "c",
                "{volumeMounts: [{name: v, mountPath: /v, subPath: ../x, subPathExpr: /y, mountPropagation: Bidirectional}, {name: v, mountPath: /v, mountPropagation: Foo}]}",
            ),
            (
                "spec",
                "{volumes: [{name: v, emptyDir: {}}], containers: [{name: c, image: i, volumeMounts: [\
                 {name: v, mountPath: /a, recursiveReadOnly: Enabled}, \
                 {name: v, mountPath: /b, readOnly: true, recursiveReadOnly: IfPossible, mountPropagation: HostToContainer}, \
                 {name: v, mountPath: /c, recursiveReadOnly: Always}, {name: v, mountPath: /d, recursiveReadOnly: Disabled}, \
                 {name: v, mountPath: /e, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: None}]}]}",
            ),
        ],
        expect![[r#"
            [spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..', spec.volumes[0].hostPath.type: Unsupported value: "Foo": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"]
            [spec.volumes[0].image.reference: Required value, spec.volumes[0].image.pullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"]
            spec.volumes[0].image: Forbidden: may not specify more than 1 volume type
            spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity
            [spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive, spec.volumes[0].configMap.items[0].key: Required value, spec.volumes[0].configMap.items[0].path: Invalid value: "../x": must not contain '..', spec.volumes[0].configMap.items[1].path: Invalid value: "..x": must not start with '..', spec.volumes[0].configMap.items[2].path: Invalid value: "/x": must be a relative path, spec.volumes[0].configMap.items[2].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive]
            [spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required, spec.volumes[0].downwardAPI.items[1].fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", spec.volumes[0].downwardAPI.items[2].resourceFieldRef.containerName: Required value]
            [spec.volumes[0].projected.sources[0].secret.name: Required value, spec.volumes[0].projected.sources[1]: Forbidden: may not specify more than 1 volume type per source, spec.volumes[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes, spec.volumes[0].projected.sources[1].serviceAccountToken.path: Required value]
            [spec.containers[0].volumeMounts[0].name: Not found: "v", spec.containers[0].volumeMounts[0].subPath: Invalid value: "../x": must not contain '..', spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: "/y": subPathExpr and subPath are mutually exclusive, spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: "/y": must be a relative path, spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers, spec.containers[0].volumeMounts[1].name: Not found: "v", spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/v": must be unique, spec.containers[0].volumeMounts[1].mountPropagation: Unsupported value: "Foo": supported values: "Bidirectional", "HostToContainer", "None"]
            [spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true, spec.containers[0].volumeMounts[1].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified, spec.containers[0].volumeMounts[2].recursiveReadOnly: Unsupported value: "Always": supported values: "Disabled", "Enabled", "IfPossible"]
        "#]],
    );
}

#[test]
fn security() {
    check(
        &[
            (
                "c",
                "{securityContext: {privileged: true, allowPrivilegeEscalation: false, runAsUser: -1, runAsGroup: 4294967296}}",
            ),
            (
                "c",
                "{securityContext: {capabilities: {add: [CAP_SYS_ADMIN]}, allowPrivilegeEscalation: false}}",
            ),
            ("c", "{securityContext: {seccompProfile: {type: Foo}, procMount: Unmasked}}"),
            ("c", "{securityContext: {seccompProfile: {type: Localhost}}}"),
            ("c", "{securityContext: {appArmorProfile: {type: Localhost}}}"),
            ("c", "{securityContext: {appArmorProfile: {type: Localhost, localhostProfile: ' a'}}}"),
            ("c", "{securityContext: {appArmorProfile: {type: Localhost, localhostProfile: a}}}"),
            ("spec", "{securityContext: {appArmorProfile: {type: Unconfined, localhostProfile: a}}}"),
            ("spec", "{securityContext: {appArmorProfile: {type: Foo}}}"),
            ("spec", "{securityContext: {appArmorProfile: {}}}"),
            (
                "spec",
                "{securityContext: {fsGroup: -1, supplementalGroups: [1, -1], seccompProfile: {type: Unconfined, localhostProfile: x}}}",
            ),
            ("spec", "{securityContext: {sysctls: [{name: BAD NAME}, {name: a}, {name: a}, {}]}}"),
            ("spec", "{hostPID: true, shareProcessNamespace: true}"),
            ("spec", "{hostUsers: false, hostPID: true, hostIPC: true, hostNetwork: true}"),
            (
                "spec",
                "{hostUsers: false, containers: [{name: c, image: i, volumeDevices: [{name: v, devicePath: /d}]}]}",
            ),
            ("spec", "{hostUsers: true, hostPID: true, hostIPC: true, hostNetwork: true}"),
        ],
        expect![[r#"
            [spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive, spec.containers[0].securityContext.runAsGroup: Invalid value: 4294967296: must be between 0 and 2147483647, inclusive, spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true,"runAsGroup":4294967296,"runAsUser":-1}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true]
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"capabilities":{"add":["CAP_SYS_ADMIN"]}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN
            [spec.containers[0].securityContext.seccompProfile.type: Unsupported value: "Foo": supported values: "Localhost", "RuntimeDefault", "Unconfined", spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`]
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost 
            spec.containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost
            spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: " a": must not be padded with whitespace
            -
            spec.securityContext.appArmorProfile.localhostProfile: Invalid value: "a": can only be set when AppArmor type is Localhost
            spec.securityContext.appArmorProfile.type: Unsupported value: "Foo": supported values: "Localhost", "RuntimeDefault", "Unconfined"
            spec.securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set
            [spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive, spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, inclusive, spec.securityContext.seccompProfile.localhostProfile: Invalid value: "x": can only be set when seccomp type is Localhost]
            [spec.securityContext.sysctls[0].name: Invalid value: "BAD NAME": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$, spec.securityContext.sysctls[2].name: Duplicate value: "a", spec.securityContext.sysctls[3].name: Required value]
            spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled
            [spec.hostNetwork: Forbidden: when `hostUsers` is false, spec.hostPID: Forbidden: when `hostUsers` is false, spec.hostIPC: Forbidden: when `hostUsers` is false]
            [spec.containers[0].volumeDevices[0].name: Not found: "v", spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false]
            -
        "#]],
    );
}

#[test]
fn network_and_placement() {
    check(
        &[
            ("spec", "{dnsPolicy: None}"),
            ("spec", "{dnsPolicy: None, dnsConfig: {searches: [a b], options: [{}]}}"),
            ("spec", "{dnsConfig: {nameservers: [x, 1.1.1.1, 1.1.1.1, 1.1.1.1]}}"),
            ("spec", "{hostAliases: [{ip: x, hostnames: [A_]}]}"),
            (
                "spec",
                "{hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 81}, {containerPort: 82, hostPort: 81}]}]}",
            ),
            ("c", "{terminationMessagePolicy: Foo, resources: {limits: {foo: 1}}}"),
            (
                "spec",
                "{tolerations: [{key: a, operator: Foo}, {key: a, operator: Exists, value: x}, {value: x}, {key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 3}, {key: a, effect: Foo}]}",
            ),
            (
                "spec",
                "{nodeName: BAD_, schedulingGates: [{name: a}], ephemeralContainers: [{name: e, image: i}], readinessGates: [{conditionType: A B}]}",
            ),
            (
                "spec",
                "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Foo}, {key: a, operator: In}, {key: a, operator: Gt}, {key: a, operator: Exists, values: [a]}]}]}}}}",
            ),
            (
                "spec",
                "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}",
            ),
            (
                "spec",
                "{topologySpreadConstraints: [{maxSkew: 0, whenUnsatisfiable: Foo}, {maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}",
            ),
        ],
        expect![[r#"
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            [spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None, spec.dnsConfig.searches[0]: Invalid value: "a b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.dnsConfig.options[0]: Required value: must not be empty]
            [spec.dnsConfig.nameservers: Invalid value: ["x","1.1.1.1","1.1.1.1","1.1.1.1"]: must not have more than 3 nameservers, spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)]
            [spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), spec.hostAliases[0].hostnames: Invalid value: "A_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')]
            [spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true, spec.containers[0].ports[1].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true, spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//81"]
            [spec.containers[0].terminationMessagePolicy: Unsupported value: "Foo": supported values: "FallbackToLogsOnError", "File", spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified, spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers, spec.containers[0].resources.limits[foo]: Invalid value: 1: must be a valid quantity, spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified, spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers, spec.containers[0].resources.requests[foo]: Invalid value: 1: must be a valid quantity]
            [spec.tolerations[0].operator: Unsupported value: "Foo": supported values: "Equal", "Exists", spec.tolerations[1].operator: Invalid value: {"key":"a","operator":"Exists","value":"x"}: value must be empty when `operator` is 'Exists', spec.tolerations[2].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys", spec.tolerations[3].effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set, spec.tolerations[4].effect: Unsupported value: "Foo": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"]
            [spec.nodeName: Invalid value: "BAD_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.readinessGates[0].conditionType: Invalid value: "A B": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), spec.ephemeralContainers: Forbidden: cannot be set on create, spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared]
            [spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: "Foo": not a valid selector operator, spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or 'NotIn', spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt', spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist']
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term
            [spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero, spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty, spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Foo": supported values: "DoNotSchedule", "ScheduleAnyway", spec.topologySpreadConstraints[2].{topologyKey, whenUnsatisfiable}: Duplicate value: "{a, DoNotSchedule}"]
        "#]],
    );
}

#[test]
fn restart_rules() {
    let rules = |rule: &str, count: usize| {
        format!("{{restartPolicy: Never, restartPolicyRules: [{}]}}", vec![rule; count].join(", "))
    };
    let ok = "{action: Restart, exitCodes: {operator: In, values: [42]}}";
    let many: Vec<_> = (0..256).map(|code| code.to_string()).collect();
    let many = format!("{{action: Restart, exitCodes: {{operator: NotIn, values: [{}]}}}}", many.join(", "));
    check(
        &[
            ("c", "{restartPolicy: OnFailure}"),
            ("c", "{restartPolicy: Sometimes}"),
            ("spec", "{initContainers: [{name: i, image: i, restartPolicy: Never}]}"),
            ("spec", "{initContainers: [{name: i, image: i, restartPolicy: Often}]}"),
            ("c", &rules(ok, 20)),
            ("c", &rules(ok, 21)),
            ("c", &rules(&many, 1)),
            ("c", &rules(ok, 1).replace("restartPolicy: Never, ", "")),
            ("c", &rules("{action: Stop, exitCodes: {operator: Equals, values: [1]}}", 1)),
            ("c", &rules("{action: Restart}", 1)),
            ("c", &rules("{action: Restart, exitCodes: {operator: NotIn}}", 1)),
        ],
        expect![[r#"
            -
            spec.containers[0].restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"
            -
            spec.initContainers[0].restartPolicy: Unsupported value: "Often": supported values: "Always", "Never", "OnFailure"
            -
            spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items
            spec.containers[0].restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items
            spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used
            [spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Stop": supported values: "Restart", spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Equals": supported values: "In", "NotIn"]
            spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified
            -
        "#]],
    );
}

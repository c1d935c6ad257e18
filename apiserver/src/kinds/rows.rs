//! The rows. Order matters: discovery lists groups and kinds as they stand here, and clients take the first
//! version of a group.

use super::{Gvk, Hooks, Kind, NameRule, Scope, Selectable, Storage, Subresource};
use crate::admission as adm;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list", "watch"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const GPU: &[&str] = &["get", "patch", "update"];

const fn gvk(group: &'static str, version: &'static str, kind: &'static str) -> Gvk {
    Gvk { group, version, kind }
}

const fn sub(name: &'static str, gvk: Gvk, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, gvk, verbs }
}

const fn sel(path: &'static str) -> Selectable {
    Selectable { path, default: "" }
}

const SCALE: Subresource = sub("scale", gvk("autoscaling", "v1", "Scale"), GPU);

/// What most rows have in common.
const PLAIN: Kind = Kind {
    gvk: gvk("", "v1", ""),
    resource: "",
    singular: "",
    scope: Scope::Namespaced,
    short_names: &[],
    categories: &[],
    verbs: ALL,
    subresources: &[],
    storage: Storage::Durable,
    prefix: "",
    selectable: &[],
    has_status: false,
    has_generation: false,
    name_rule: NameRule::Subdomain,
    convert: None,
    serialized: false,
    returns_deleted: false,
    hooks: Hooks::NONE,
};

const EVENT_FIELDS: &[Selectable] = &[
    sel("involvedObject.kind"),
    sel("involvedObject.namespace"),
    sel("involvedObject.name"),
    sel("involvedObject.uid"),
    sel("involvedObject.apiVersion"),
    sel("involvedObject.resourceVersion"),
    sel("involvedObject.fieldPath"),
    sel("reason"),
    sel("reportingComponent"),
    sel("source"),
    sel("type"),
];

/// Every built-in kind.
pub const BUILTIN: &[Kind] = &[
    Kind {
        gvk: gvk("", "v1", "ConfigMap"),
        resource: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        prefix: "configmaps",
        hooks: adm::config::CONFIG_MAP,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Endpoints"),
        resource: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        prefix: "endpoints",
        hooks: adm::endpoints::ENDPOINTS,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Event"),
        resource: "events",
        singular: "event",
        short_names: &["ev"],
        prefix: "events",
        storage: Storage::Volatile,
        selectable: EVENT_FIELDS,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Namespace"),
        resource: "namespaces",
        singular: "namespace",
        scope: Scope::Cluster,
        short_names: &["ns"],
        verbs: NO_COLLECTION,
        subresources: &[
            sub("finalize", gvk("", "v1", "Namespace"), &["update"]),
            sub("status", gvk("", "v1", "Namespace"), GPU),
        ],
        prefix: "namespaces",
        selectable: &[sel("status.phase")],
        has_status: true,
        name_rule: NameRule::Label,
        returns_deleted: true,
        hooks: adm::namespace::NAMESPACE,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Node"),
        resource: "nodes",
        singular: "node",
        scope: Scope::Cluster,
        short_names: &["no"],
        subresources: &[
            sub("proxy", gvk("", "v1", "NodeProxyOptions"), PROXY),
            sub("status", gvk("", "v1", "Node"), GPU),
        ],
        prefix: "nodes",
        selectable: &[Selectable { path: "spec.unschedulable", default: "false" }],
        has_status: true,
        hooks: adm::node::NODE,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "PersistentVolumeClaim"),
        resource: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        subresources: &[sub("status", gvk("", "v1", "PersistentVolumeClaim"), GPU)],
        prefix: "persistentvolumeclaims",
        has_status: true,
        returns_deleted: true,
        hooks: adm::storage::CLAIM,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "PersistentVolume"),
        resource: "persistentvolumes",
        singular: "persistentvolume",
        scope: Scope::Cluster,
        short_names: &["pv"],
        subresources: &[sub("status", gvk("", "v1", "PersistentVolume"), GPU)],
        prefix: "persistentvolumes",
        has_status: true,
        returns_deleted: true,
        hooks: adm::storage::VOLUME,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Pod"),
        resource: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            sub("attach", gvk("", "v1", "PodAttachOptions"), CONNECT),
            sub("binding", gvk("", "v1", "Binding"), CREATE),
            sub("ephemeralcontainers", gvk("", "v1", "Pod"), GPU),
            sub("eviction", gvk("policy", "v1", "Eviction"), CREATE),
            sub("exec", gvk("", "v1", "PodExecOptions"), CONNECT),
            sub("log", gvk("", "v1", "Pod"), GET),
            sub("portforward", gvk("", "v1", "PodPortForwardOptions"), CONNECT),
            sub("resize", gvk("", "v1", "Pod"), GPU),
            sub("status", gvk("", "v1", "Pod"), GPU),
        ],
        prefix: "pods",
        selectable: &[
            sel("spec.nodeName"),
            sel("spec.restartPolicy"),
            sel("spec.schedulerName"),
            sel("spec.serviceAccountName"),
            Selectable { path: "spec.hostNetwork", default: "false" },
            sel("status.phase"),
            sel("status.podIP"),
            sel("status.nominatedNodeName"),
        ],
        has_status: true,
        has_generation: true,
        returns_deleted: true,
        hooks: adm::pod::POD,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Secret"),
        resource: "secrets",
        singular: "secret",
        prefix: "secrets",
        selectable: &[sel("type")],
        hooks: adm::config::SECRET,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "ServiceAccount"),
        resource: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[sub("token", gvk("authentication.k8s.io", "v1", "TokenRequest"), CREATE)],
        prefix: "serviceaccounts",
        returns_deleted: true,
        ..PLAIN
    },
    Kind {
        gvk: gvk("", "v1", "Service"),
        resource: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[sub("status", gvk("", "v1", "Service"), GPU)],
        prefix: "services",
        selectable: &[sel("spec.clusterIP"), sel("spec.type")],
        has_status: true,
        name_rule: NameRule::Label1035,
        returns_deleted: true,
        serialized: true,
        hooks: adm::service::SERVICE,
        ..PLAIN
    },
    Kind {
        gvk: gvk("apps", "v1", "Deployment"),
        resource: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, sub("status", gvk("apps", "v1", "Deployment"), GPU)],
        prefix: "deployments",
        has_status: true,
        has_generation: true,
        hooks: adm::workload::DEPLOYMENT,
        ..PLAIN
    },
    Kind {
        gvk: gvk("apps", "v1", "ReplicaSet"),
        resource: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, sub("status", gvk("apps", "v1", "ReplicaSet"), GPU)],
        prefix: "replicasets",
        selectable: &[Selectable { path: "status.replicas", default: "0" }],
        has_status: true,
        has_generation: true,
        hooks: adm::workload::REPLICA_SET,
        ..PLAIN
    },
    Kind {
        gvk: gvk("events.k8s.io", "v1", "Event"),
        resource: "events",
        singular: "event",
        short_names: &["ev"],
        prefix: "events",
        storage: Storage::Volatile,
        selectable: &[sel("reason"), sel("type")],
        convert: Some(super::events::CONVERT),
        ..PLAIN
    },
    Kind {
        gvk: gvk("authentication.k8s.io", "v1", "SelfSubjectReview"),
        resource: "selfsubjectreviews",
        singular: "selfsubjectreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        storage: Storage::None,
        ..PLAIN
    },
    Kind {
        gvk: gvk("authentication.k8s.io", "v1", "TokenReview"),
        resource: "tokenreviews",
        singular: "tokenreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        storage: Storage::None,
        ..PLAIN
    },
    Kind {
        gvk: gvk("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
        resource: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        storage: Storage::None,
        ..PLAIN
    },
    Kind {
        gvk: gvk("authorization.k8s.io", "v1", "SelfSubjectRulesReview"),
        resource: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        storage: Storage::None,
        ..PLAIN
    },
    Kind {
        gvk: gvk("authorization.k8s.io", "v1", "SubjectAccessReview"),
        resource: "subjectaccessreviews",
        singular: "subjectaccessreview",
        scope: Scope::Cluster,
        verbs: CREATE,
        storage: Storage::None,
        ..PLAIN
    },
    Kind {
        gvk: gvk("storage.k8s.io", "v1", "CSIDriver"),
        resource: "csidrivers",
        singular: "csidriver",
        scope: Scope::Cluster,
        prefix: "csidrivers",
        returns_deleted: true,
        hooks: adm::storage::CSI_DRIVER,
        ..PLAIN
    },
    Kind {
        gvk: gvk("storage.k8s.io", "v1", "CSINode"),
        resource: "csinodes",
        singular: "csinode",
        scope: Scope::Cluster,
        prefix: "csinodes",
        returns_deleted: true,
        hooks: adm::storage::CSI_NODE,
        ..PLAIN
    },
    Kind {
        gvk: gvk("storage.k8s.io", "v1", "CSIStorageCapacity"),
        resource: "csistoragecapacities",
        singular: "csistoragecapacity",
        prefix: "csistoragecapacities",
        returns_deleted: true,
        hooks: adm::storage::CSI_STORAGE_CAPACITY,
        ..PLAIN
    },
    Kind {
        gvk: gvk("storage.k8s.io", "v1", "StorageClass"),
        resource: "storageclasses",
        singular: "storageclass",
        scope: Scope::Cluster,
        short_names: &["sc"],
        prefix: "storageclasses",
        returns_deleted: true,
        hooks: adm::storage::STORAGE_CLASS,
        ..PLAIN
    },
    Kind {
        gvk: gvk("storage.k8s.io", "v1", "VolumeAttachment"),
        resource: "volumeattachments",
        singular: "volumeattachment",
        scope: Scope::Cluster,
        subresources: &[sub("status", gvk("storage.k8s.io", "v1", "VolumeAttachment"), GPU)],
        has_status: true,
        prefix: "volumeattachments",
        returns_deleted: true,
        hooks: adm::storage::VOLUME_ATTACHMENT,
        ..PLAIN
    },
    // None can be made yet. kubectl asks for the list to tell a custom kind from a mistyped one, and goes no further
    // without an answer.
    Kind {
        gvk: gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        resource: "customresourcedefinitions",
        singular: "customresourcedefinition",
        scope: Scope::Cluster,
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        verbs: READ,
        prefix: "customresourcedefinitions",
        ..PLAIN
    },
    Kind {
        gvk: gvk("coordination.k8s.io", "v1", "Lease"),
        resource: "leases",
        singular: "lease",
        prefix: "leases",
        storage: Storage::Volatile,
        ..PLAIN
    },
    Kind {
        gvk: gvk("discovery.k8s.io", "v1", "EndpointSlice"),
        resource: "endpointslices",
        singular: "endpointslice",
        prefix: "endpointslices",
        hooks: adm::endpoints::ENDPOINT_SLICE,
        has_generation: true,
        ..PLAIN
    },
    Kind {
        gvk: gvk("networking.k8s.io", "v1", "NetworkPolicy"),
        resource: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        prefix: "networkpolicies",
        hooks: adm::networkpolicy::NETWORK_POLICY,
        has_generation: true,
        ..PLAIN
    },
];

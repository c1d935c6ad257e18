//! Every operation the server has, out of the rows: path, method, what goes in and what comes out.

use super::schemas::{Definitions, META};
use crate::discovery::groups;
use crate::kinds::{Gvk, Kind, Subresource};

/// A query parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) ty: &'static str,
    pub(super) description: &'static str,
}

const fn param(name: &'static str, ty: &'static str, description: &'static str) -> Parameter {
    Parameter { name, ty, description }
}

const LIST: &[Parameter] = &[
    param("allowWatchBookmarks", "boolean", "Ask for watch events of type BOOKMARK."),
    param("continue", "string", "Token of the previous page."),
    param("fieldSelector", "string", "Restrict the list by the value of fields."),
    param("labelSelector", "string", "Restrict the list by labels."),
    param("limit", "integer", "Most items of a page."),
    param("resourceVersion", "string", "Constraint on the version that may serve the request."),
    param("resourceVersionMatch", "string", "How resourceVersion is applied to lists."),
    param("sendInitialEvents", "boolean", "Start a watch with synthetic events for what exists."),
    param("timeoutSeconds", "integer", "Limit of the call's duration."),
    param("watch", "boolean", "Watch for changes instead of listing."),
];

const DRY_RUN: Parameter = param("dryRun", "string", "All: process everything, persist nothing.");
const MANAGER: Parameter = param("fieldManager", "string", "Name of the actor that makes the change.");
const VALIDATION: Parameter =
    param("fieldValidation", "string", "What becomes of unknown or repeated fields: Ignore, Warn, Strict.");

const WRITE: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION];
const PATCH: &[Parameter] = &[
    DRY_RUN,
    MANAGER,
    VALIDATION,
    param("force", "boolean", "Take over fields that others own; server-side apply only."),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    param("gracePeriodSeconds", "integer", "Seconds before the object is deleted."),
    param("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    param("propagationPolicy", "string", "Orphan, Background or Foreground."),
];
const LOG: &[Parameter] = &[
    param("container", "string", "Container to read; defaults to the only one."),
    param("follow", "boolean", "Follow the log."),
    param("limitBytes", "integer", "Bytes to read at most."),
    param("previous", "boolean", "Log of the previous, terminated container."),
    param("sinceSeconds", "integer", "Show lines newer than this."),
    param("tailLines", "integer", "Lines from the end."),
    param("timestamps", "boolean", "Start each line with its time."),
];

const ANY: &[&str] = &["*/*"];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// What a request carries.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) media_types: &'static [&'static str],
    pub(super) schema: String,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) method: &'static str,
    /// `x-kubernetes-action`.
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) gvk: Gvk,
    /// Path parameters.
    pub(super) place: &'static [&'static str],
    pub(super) query: Vec<Parameter>,
    pub(super) body: Option<Body>,
    /// Definition of the answer; plain text without.
    pub(super) answer: Option<String>,
    /// Answers 201 besides 200.
    pub(super) creates: bool,
}

impl Operation {
    /// What the operation does, in a few words.
    pub(super) fn description(&self) -> String {
        format!("{} {}", self.action, self.gvk.kind)
    }

    /// Group and version in one word, as generators name their modules.
    pub(super) fn tag(&self) -> String {
        let group =
            if self.gvk.group.is_empty() { "core" } else { self.gvk.group.trim_end_matches(".k8s.io") };
        format!("{}_{}", group.replace('.', "_"), self.gvk.version)
    }
}

/// Operations of these kinds, ordered by path.
pub(super) fn of(kinds: &[Kind], definitions: &Definitions) -> Vec<Operation> {
    let mut all = Vec::new();
    for kind in kinds {
        Builder { kind, definitions, all: &mut all }.build();
    }
    all.sort_by(|a, b| (&a.path, a.method).cmp(&(&b.path, b.method)));
    all
}

struct Builder<'a> {
    kind: &'a Kind,
    definitions: &'a Definitions,
    all: &'a mut Vec<Operation>,
}

#[derive(Clone, Copy)]
enum Level {
    /// All objects of the cluster, of a namespaced kind.
    AllNamespaces,
    Collection,
    Item,
}

impl Builder<'_> {
    fn build(&mut self) {
        let kind = self.kind;
        for verb in kind.verbs {
            match *verb {
                "list" => {
                    self.push("get", "list", Level::Collection, None);
                    if kind.namespaced() {
                        self.push("get", "list", Level::AllNamespaces, None);
                    }
                }
                "create" => self.push("post", "post", Level::Collection, None),
                "deletecollection" => self.push("delete", "deletecollection", Level::Collection, None),
                "get" => self.push("get", "get", Level::Item, None),
                "update" => self.push("put", "put", Level::Item, None),
                "patch" => self.push("patch", "patch", Level::Item, None),
                "delete" => self.push("delete", "delete", Level::Item, None),
                _ => {}
            }
        }
        for sub in kind.subresources {
            let connects = matches!(sub.name, "exec" | "attach" | "portforward" | "proxy");
            for verb in sub.verbs {
                match *verb {
                    "get" if connects => self.push("get", "connect", Level::Item, Some(sub)),
                    "create" if connects => self.push("post", "connect", Level::Item, Some(sub)),
                    "update" if connects => self.push("put", "connect", Level::Item, Some(sub)),
                    "patch" if connects => self.push("patch", "connect", Level::Item, Some(sub)),
                    "delete" if connects => self.push("delete", "connect", Level::Item, Some(sub)),
                    "get" => self.push("get", "get", Level::Item, Some(sub)),
                    "create" => self.push("post", "post", Level::Item, Some(sub)),
                    "update" => self.push("put", "put", Level::Item, Some(sub)),
                    "patch" => self.push("patch", "patch", Level::Item, Some(sub)),
                    _ => {}
                }
            }
        }
    }

    fn push(&mut self, method: &'static str, action: &'static str, level: Level, sub: Option<&Subresource>) {
        let kind = self.kind;
        let gvk = sub.map_or(kind.gvk, |s| s.gvk);
        let own = self.definitions.of(&gvk).map(str::to_owned);
        let meta = |name: &str| Some(format!("{META}.{name}"));
        let body = |media_types, schema: Option<String>| schema.map(|schema| Body { media_types, schema });
        let (query, body, answer) = match action {
            "list" => (LIST.to_vec(), None, self.definitions.list_of(&gvk).map(str::to_owned)),
            "get" if sub.is_some_and(|s| s.name == "log") => (LOG.to_vec(), None, None),
            "get" => (Vec::new(), None, own),
            "post" | "put" => (WRITE.to_vec(), body(ANY, own.clone()), own),
            "patch" => (PATCH.to_vec(), body(PATCH_TYPES, meta("Patch")), own),
            "delete" => (DELETE.to_vec(), body(ANY, meta("DeleteOptions")), meta("Status")),
            "deletecollection" => {
                let selection = LIST.iter().filter(|p| !matches!(p.name, "allowWatchBookmarks" | "watch"));
                let query = DELETE.iter().chain(selection).copied().collect();
                (query, body(ANY, meta("DeleteOptions")), meta("Status"))
            }
            _ => (Vec::new(), None, None),
        };
        self.all.push(Operation {
            path: self.path(level, sub),
            method,
            action,
            id: self.id(method, action, level, sub),
            gvk,
            place: match (level, kind.namespaced()) {
                (Level::AllNamespaces, _) | (Level::Collection, false) => &[],
                (Level::Collection, true) => &["namespace"],
                (Level::Item, false) => &["name"],
                (Level::Item, true) => &["name", "namespace"],
            },
            query,
            body,
            answer,
            creates: matches!(action, "post" | "put" | "patch"),
        });
    }

    fn path(&self, level: Level, sub: Option<&Subresource>) -> String {
        let kind = self.kind;
        let mut path = format!("/{}", groups::path(kind.gvk.group, kind.gvk.version));
        if kind.namespaced() && !matches!(level, Level::AllNamespaces) {
            path.push_str("/namespaces/{namespace}");
        }
        path.push('/');
        path.push_str(kind.resource);
        if matches!(level, Level::Item) {
            path.push_str("/{name}");
        }
        if let Some(sub) = sub {
            path.push('/');
            path.push_str(sub.name);
        }
        path
    }

    /// As upstream's generators name methods: `readCoreV1NamespacedPodStatus`.
    fn id(&self, method: &str, action: &str, level: Level, sub: Option<&Subresource>) -> String {
        let kind = self.kind;
        let verb = match action {
            "post" => "create",
            "put" => "replace",
            "get" => "read",
            "deletecollection" => "delete",
            "connect" => &format!("connect{}", capital(method)),
            other => other,
        };
        let group =
            if kind.gvk.group.is_empty() { "core" } else { kind.gvk.group.trim_end_matches(".k8s.io") };
        let group: String = group.split('.').map(capital).collect();
        let collection = if action == "deletecollection" { "Collection" } else { "" };
        let scope =
            if kind.namespaced() && !matches!(level, Level::AllNamespaces) { "Namespaced" } else { "" };
        let sub = sub.map(|s| capital(s.name)).unwrap_or_default();
        let all = if matches!(level, Level::AllNamespaces) { "ForAllNamespaces" } else { "" };
        let version = capital(kind.gvk.version);
        format!("{verb}{group}{version}{collection}{scope}{}{sub}{all}", kind.gvk.kind)
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

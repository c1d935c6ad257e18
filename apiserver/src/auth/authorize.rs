//! What identities may do, until roles exist: administrators everything, nodes what nodes need, everyone else
//! discovery and questions about themselves.

use super::Identity;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `get`, `list`, `create` …
    pub verb: &'a str,
    /// The path, for requests that mean no resource.
    pub path: &'a str,
    /// The resource meant.
    pub resource: Option<Resource<'a>>,
}

/// The resource part of [`Attributes`].
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty for none.
    pub namespace: &'a str,
    /// Object name, empty for none.
    pub name: &'a str,
}

const READ: &[&str] = &["get", "list", "watch"];
const REVIEWS: &[&str] = &["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

/// Whether somebody may do it.
pub fn allowed(who: &Identity, what: &Attributes<'_>) -> bool {
    if who.is_in("system:masters") {
        return true;
    }
    if !who.is_in("system:authenticated") {
        return false;
    }
    let Some(resource) = &what.resource else {
        return what.verb == "get" && is_discovery(what.path);
    };
    if what.verb == "create" && REVIEWS.contains(&resource.resource) {
        return true;
    }
    who.node().is_some_and(|node| node_may(node, what.verb, resource))
}

fn is_discovery(path: &str) -> bool {
    const EXACT: &[&str] = &["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];
    const BELOW: &[&str] = &["/api/", "/apis/", "/openapi/", "/livez/", "/readyz/", "/healthz/"];
    EXACT.contains(&path) || BELOW.iter().any(|prefix| path.starts_with(prefix))
}

/// Nodes read what pods refer to, and write themselves, their lease, their pods' status and events.
fn node_may(node: &str, verb: &str, r: &Resource<'_>) -> bool {
    let reads = READ.contains(&verb);
    match (r.group, r.resource, r.subresource) {
        ("", "services" | "endpoints" | "configmaps" | "secrets" | "namespaces" | "serviceaccounts", "") => {
            reads
        }
        ("discovery.k8s.io", "endpointslices", "") => reads,
        ("networking.k8s.io", "networkpolicies", "") => reads,
        ("", "nodes", "") => {
            reads || verb == "create" || (r.name == node && matches!(verb, "update" | "patch"))
        }
        ("", "nodes", "status") => r.name == node && matches!(verb, "get" | "update" | "patch"),
        ("", "pods", "") => reads || matches!(verb, "create" | "delete"),
        ("", "pods", "status") => matches!(verb, "get" | "update" | "patch"),
        ("", "serviceaccounts", "token") => verb == "create",
        ("" | "events.k8s.io", "events", "") => matches!(verb, "create" | "update" | "patch"),
        // Volumes of pods; what may be changed of which is `rest::node`'s to say.
        ("", "persistentvolumes", "") => reads || verb == "patch",
        ("", "persistentvolumeclaims", "") => verb == "get",
        ("", "persistentvolumeclaims", "status") => verb == "patch",
        ("storage.k8s.io", "csidrivers", "") => reads,
        ("storage.k8s.io", "volumeattachments", "") => verb == "get",
        ("storage.k8s.io", "csinodes", "") => {
            verb == "create" || (r.name == node && matches!(verb, "get" | "update" | "patch" | "delete"))
        }
        ("coordination.k8s.io", "leases", "") => {
            r.namespace == "kube-node-lease"
                && (verb == "create"
                    || (r.name == node && matches!(verb, "get" | "update" | "patch" | "delete")))
        }
        ("authentication.k8s.io", "tokenreviews", "") => verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews", "") => verb == "create",
        _ => false,
    }
}

/// The refusal in upstream's words.
pub fn refusal(who: &Identity, what: &Attributes<'_>) -> String {
    let Some(r) = &what.resource else {
        return format!("forbidden: User {:?} cannot {} path {:?}", who.user, what.verb, what.path);
    };
    let resource = match r.subresource {
        "" => r.resource.to_owned(),
        sub => format!("{}/{sub}", r.resource),
    };
    let qualified =
        if r.group.is_empty() { r.resource.to_owned() } else { format!("{}.{}", r.resource, r.group) };
    let object = if r.name.is_empty() { qualified } else { format!("{qualified} {:?}", r.name) };
    let place = if r.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", r.namespace)
    };
    format!(
        "{object} is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        who.user, what.verb, r.group
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource<'a>(path: &'a str, name: &'a str) -> Resource<'a> {
        let (group, resource) = path.split_once(':').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Resource { group, resource, subresource, namespace: "kube-node-lease", name }
    }

    fn check(who: &Identity, verb: &str, path: &str, name: &str, expected: bool) {
        let what = Attributes { verb, path: "", resource: Some(resource(path, name)) };
        assert_eq!(allowed(who, &what), expected, "{} {verb} {path} {name}", who.user);
    }

    #[test]
    fn nodes_write_only_themselves() {
        let node = Identity::new("system:node:n1", ["system:nodes"]);
        check(&node, "patch", ":nodes/status", "n1", true);
        check(&node, "patch", ":nodes/status", "n2", false);
        check(&node, "watch", ":pods", "", true);
        check(&node, "patch", ":pods/status", "p", true);
        check(&node, "create", ":pods/binding", "p", false);
        check(&node, "update", "coordination.k8s.io:leases", "n1", true);
        check(&node, "update", "coordination.k8s.io:leases", "n2", false);
        check(&node, "create", "apps:deployments", "", false);
        check(&node, "patch", "storage.k8s.io:csinodes", "n1", true);
        check(&node, "patch", "storage.k8s.io:csinodes", "n2", false);
        check(&node, "list", ":persistentvolumeclaims", "", false);
        check(&node, "create", ":persistentvolumes", "", false);
        let impostor = Identity::new("system:node:n1", ["people"]);
        check(&impostor, "watch", ":pods", "", false);
    }

    #[test]
    fn refusals_have_upstreams_wording() {
        let user = Identity::new("jane", Vec::<String>::new());
        let what = Attributes { verb: "list", path: "", resource: Some(resource(":pods", "")) };
        assert!(!allowed(&user, &what));
        assert_eq!(
            refusal(&user, &what),
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \
             \"kube-node-lease\""
        );
        let what = Attributes { verb: "get", path: "/metrics", resource: None };
        assert_eq!(refusal(&user, &what), "forbidden: User \"jane\" cannot get path \"/metrics\"");
    }
}

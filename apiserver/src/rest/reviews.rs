//! Kinds that are only questions: who am I, may I.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::status::Failure;
use super::{Api, Call, object};
use crate::admission::Surroundings;
use crate::auth::Identity;
use crate::auth::authorize::{self, Attributes, Resource};
use crate::kinds::Kind;

impl Api {
    pub(super) fn review(&self, call: &Call, kind: &Kind) -> Result<Response<Body>, Failure> {
        let mut review = call.decode(kind.gvk)?.value;
        let status = match kind.gvk.kind {
            "SelfSubjectReview" => json!({"userInfo": user_info(&call.identity)}),
            "SelfSubjectAccessReview" => access(&review, &call.identity),
            "SubjectAccessReview" => {
                let groups = object::at(&review, &["spec", "groups"]).and_then(Value::as_array);
                let groups = groups.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
                let user = object::text(&review, &["spec", "user"]);
                let who = Identity { groups: groups.collect(), ..Identity::new(user, Vec::<String>::new()) };
                access(&review, &who)
            }
            "TokenReview" => self.token_review(&review),
            "SelfSubjectRulesReview" => rules(&call.identity),
            _ => return Err(Failure::no_such_path()),
        };
        object::metadata(&mut review).insert("creationTimestamp".into(), self.now().into());
        review["status"] = status;
        Ok(body::json(StatusCode::CREATED, &review))
    }
}

/// An identity as reviews spell it.
pub(super) fn user_info(who: &Identity) -> Value {
    let mut info = json!({"username": who.user, "groups": who.groups});
    if let Some(uid) = &who.uid {
        info["uid"] = uid.as_str().into();
    }
    if !who.extra.is_empty() {
        info["extra"] = json!(who.extra);
    }
    info
}

fn access(review: &Value, who: &Identity) -> Value {
    let path = object::text(review, &["spec", "nonResourceAttributes", "path"]);
    let resource = object::at(review, &["spec", "resourceAttributes"]);
    let part = |key: &str| resource.and_then(|r| r.get(key)).and_then(Value::as_str).unwrap_or_default();
    let verb = match resource {
        Some(_) => part("verb"),
        None => object::text(review, &["spec", "nonResourceAttributes", "verb"]),
    };
    let what = Attributes {
        verb,
        path,
        resource: resource.map(|_| Resource {
            group: part("group"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
        }),
    };
    if authorize::allowed(who, &what) { json!({"allowed": true}) } else { json!({"allowed": false}) }
}

fn rules(who: &Identity) -> Value {
    let all = who.is_in("system:masters");
    let resources = if all {
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
    } else {
        json!([
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
             "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
        ])
    };
    let paths = if all {
        json!(["*"])
    } else {
        json!([
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version"
        ])
    };
    let verbs = if all { json!(["*"]) } else { json!(["get"]) };
    json!({
        "resourceRules": resources, "nonResourceRules": [{"verbs": verbs, "nonResourceURLs": paths}],
        "incomplete": false,
    })
}

//! Tokens against the store: requests for one (`serviceaccounts/token`) and whether one still counts.

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::status::Failure;
use super::{Api, Call, Target, object, reviews, world};
use crate::admission::{Causes, Surroundings};
use crate::auth::Identity;
use crate::auth::token::{self, Bound, Claims, ISSUER, Reference};
use crate::kinds::Gvk;

const TOKEN_REQUEST: Gvk = Gvk { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
/// kubelets ask for this odd hour; upstream gives such tokens a year and a warning after the hour.
const KUBELET_SECONDS: i64 = 3607;
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

impl Api {
    /// Issues a token for the account of the path.
    pub(super) fn token_request(&self, call: &Call, target: &Target) -> Result<Response<Body>, Failure> {
        let mut request = call.decode(TOKEN_REQUEST)?.value;
        let account = Surroundings::get(self, "serviceaccounts", &target.namespace, &target.name)
            .ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
        let seconds = object::at(&request, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
        let mut causes = Causes::default();
        if seconds < MIN_SECONDS {
            causes.invalid(
                "spec.expirationSeconds",
                &seconds.into(),
                "may not specify a duration less than 10 minutes",
            );
        }
        if seconds > 1 << 32 {
            causes.invalid(
                "spec.expirationSeconds",
                &seconds.into(),
                "may not specify a duration larger than 2^32 seconds",
            );
        }
        if !causes.is_empty() {
            let kind = crate::kinds::Kind { gvk: TOKEN_REQUEST, ..*target.kind };
            return Err(Failure::invalid(&kind, "", &causes));
        }
        let mut audiences: Vec<String> = object::at(&request, &["spec", "audiences"])
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let (pod, node) = self.bound_pod(&request["spec"]["boundObjectRef"], target)?;
        let now = Timestamp::now();
        let end = now + SignedDuration::from_secs(seconds);
        // Programs that read their token once keep working; the kubelet still renews it after the hour.
        let extended = seconds == KUBELET_SECONDS && pod.is_some() && audiences == [ISSUER];
        let claims = Claims {
            aud: audiences.clone(),
            exp: if extended { (now + YEAR).as_second() } else { end.as_second() },
            iat: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: world::uuid(),
            bound: Bound {
                namespace: target.namespace.clone(),
                serviceaccount: reference(&account),
                pod,
                node,
                warnafter: extended.then(|| end.as_second()),
            },
            nbf: now.as_second(),
            sub: token::user_name(&target.namespace, &target.name),
        };
        let token = self.tokens.sign(&claims).map_err(Failure::internal)?;
        let spec = object::child(&mut request, "spec");
        spec.insert("expirationSeconds".into(), seconds.into());
        spec.insert("audiences".into(), json!(audiences));
        request["metadata"] = json!({
            "name": target.name, "namespace": target.namespace, "creationTimestamp": world::format_time(now),
        });
        request["status"] = json!({"token": token, "expirationTimestamp": world::format_time(end)});
        Ok(body::json(StatusCode::CREATED, &request))
    }

    /// The pod a token is to be bound to, and its node.
    fn bound_pod(
        &self,
        wanted: &Value,
        target: &Target,
    ) -> Result<(Option<Reference>, Option<Reference>), Failure> {
        if wanted.is_null() {
            return Ok((None, None));
        }
        let name = object::text(wanted, &["name"]);
        if object::text(wanted, &["kind"]) != "Pod" {
            return Err(Failure::bad_request(format!(
                "cannot bind token for serviceaccount to object of type {}",
                object::text(wanted, &["kind"])
            )));
        }
        let pods = crate::kinds::find("", "v1", "pods").ok_or_else(Failure::no_such_path)?;
        let pod = Surroundings::get(self, "pods", &target.namespace, name)
            .ok_or_else(|| Failure::not_found(pods, name))?;
        let uid = object::text(wanted, &["uid"]);
        if !uid.is_empty() && uid != object::uid(&pod) {
            let text = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Failure::conflict(pods, name, &text));
        }
        let account = object::text(&pod, &["spec", "serviceAccountName"]);
        if account != target.name {
            return Err(Failure::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                target.name
            )));
        }
        let node = Surroundings::get(self, "nodes", "", object::text(&pod, &["spec", "nodeName"]));
        Ok((Some(reference(&pod)), node.as_ref().map(reference)))
    }

    /// Whom a bearer token stands for; nobody if anything it is bound to is gone.
    pub fn authenticate(&self, token: &str) -> Option<Identity> {
        self.check_token(token, &[ISSUER.to_owned()]).map(|claims| token::identity(&claims))
    }

    fn check_token(&self, token: &str, audiences: &[String]) -> Option<Claims> {
        let claims = self.tokens.check(token, audiences)?;
        let Bound { namespace, serviceaccount, pod, .. } = &claims.bound;
        let lives = |prefix: &str, wanted: &Reference| {
            Surroundings::get(self, prefix, namespace, &wanted.name)
                .is_some_and(|found| object::uid(&found) == wanted.uid)
        };
        let whole =
            lives("serviceaccounts", serviceaccount) && pod.as_ref().is_none_or(|pod| lives("pods", pod));
        whole.then_some(claims)
    }

    /// Status of a TokenReview.
    pub(super) fn token_review(&self, review: &Value) -> Value {
        let mut audiences: Vec<String> = object::at(review, &["spec", "audiences"])
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        match self.check_token(object::text(review, &["spec", "token"]), &audiences) {
            Some(claims) => {
                let common: Vec<&String> = claims.aud.iter().filter(|a| audiences.contains(a)).collect();
                json!({
                    "authenticated": true, "user": reviews::user_info(&token::identity(&claims)),
                    "audiences": common,
                })
            }
            None => {
                json!({"user": {}, "error": "[invalid bearer token, service account token has been invalidated]"})
            }
        }
    }
}

fn reference(object: &Value) -> Reference {
    Reference { name: object::name(object).to_owned(), uid: object::uid(object).to_owned() }
}

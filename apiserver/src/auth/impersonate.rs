//! Acting as somebody else (`kubectl --as`): only for administrators, as long as there are no roles.

use http::HeaderMap;

use super::Identity;

const EXTRA: &str = "impersonate-extra-";

/// Whom the request is made as: the headers' identity, or `who` itself when there are none. The error is upstream's
/// refusal.
pub fn effective(who: Identity, headers: &HeaderMap) -> Result<Identity, String> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let Some(user) = all("impersonate-user").into_iter().next() else {
        let stray = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        return if stray {
            Err("requested groups, a uid or extra fields without impersonating a user".into())
        } else {
            Ok(who)
        };
    };
    if !who.is_in("system:masters") {
        return Err(format!(
            "users {user:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope",
            who.user
        ));
    }
    let mut groups = all("impersonate-group");
    if groups.is_empty()
        && let Some((namespace, _)) =
            user.strip_prefix("system:serviceaccount:").and_then(|u| u.split_once(':'))
    {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if user == "system:anonymous" {
        return Ok(Identity { groups, ..Identity::anonymous() });
    }
    let mut identity = Identity::new(user, groups);
    identity.uid = all("impersonate-uid").into_iter().next();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            identity.extra.insert(crate::rest::query::decode(key, false), all(name.as_str()));
        }
    }
    Ok(identity)
}

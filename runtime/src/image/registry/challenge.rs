//! `[p]` What a registry asks for with a 401, and what a token server answers.
//!
//! Source: the distribution project's token specification. Not for: asking, remembering.

use std::time::Duration;

use serde::Deserialize;

/// Life of a token that does not say how long it lives, by the specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used for the last moments of its life: it must last for the request.
const MARGIN: Duration = Duration::from_secs(10);

/// How a registry wants to be shown who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a third party.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge to answer, of all that the `WWW-Authenticate` headers offer: a token where that is possible.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        let Ok(challenges) = http_auth::parse_challenges(header) else { continue };
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let param = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: param("service"),
                        scope: param("scope"),
                    });
                }
            }
        }
    }
    basic
}

/// What is asked of the token server. A registry that names no scope gets one for pulling, never more.
pub(super) fn query(
    service: Option<&str>,
    scope: Option<&str>,
    repository: &str,
) -> Vec<(&'static str, String)> {
    let scopes = match scope.map(str::trim) {
        Some(scope) if !scope.is_empty() => scope.split(' ').map(str::to_owned).collect(),
        _ => vec![format!("repository:{repository}:pull")],
    };
    let service = service.map(|service| ("service", service.to_owned()));
    service.into_iter().chain(scopes.into_iter().map(|scope| ("scope", scope))).collect()
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What is sent to the token server by whoever has an identity token: the same, and the token, in the words of OAuth 2.
pub(super) fn refresh(
    query: Vec<(&'static str, String)>,
    identity_token: &str,
) -> Vec<(&'static str, String)> {
    let (scopes, rest): (Vec<_>, Vec<_>) = query.into_iter().partition(|(key, _)| *key == "scope");
    let scopes: Vec<_> = scopes.into_iter().map(|(_, scope)| scope).collect();
    let mut form = vec![("grant_type", "refresh_token".to_owned()), ("client_id", "orlop".to_owned())];
    form.extend(rest);
    form.push(("scope", scopes.join(" ")));
    form.push(("refresh_token", identity_token.to_owned()));
    form
}

/// A token and how long it may be used.
pub(super) fn token(answer: &[u8]) -> Option<(String, Duration)> {
    let Answer { token, access_token, expires_in } = serde_json::from_slice(answer).ok()?;
    let token = token.or(access_token).filter(|token| !token.is_empty())?;
    let life = expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    Some((token, life.saturating_sub(MARGIN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], expected: &str) {
        let shown = match choose(headers.iter().copied()) {
            None => "nothing".to_owned(),
            Some(Challenge::Basic) => "basic".to_owned(),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let query = query(service.as_deref(), scope.as_deref(), "a/b");
                let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("{realm}?{}", query.join("&"))
            }
        };
        assert_eq!(shown, expected, "{headers:?}");
    }

    #[test]
    fn a_token_is_preferred() {
        check(&[r#"Basic realm="x""#, r#"bearer realm="https://t""#], "https://t?scope=repository:a/b:pull");
        check(
            &[r#"Basic realm="x", Bearer realm="https://t",service="s""#],
            "https://t?service=s&scope=repository:a/b:pull",
        );
        check(&["Basic realm=\"x\""], "basic");
        check(&["BASIC realm=x"], "basic");
    }

    #[test]
    fn scopes_are_asked_for_one_by_one() {
        check(
            &[r#"Bearer realm="https://t",service="s",scope="repository:a/b:pull repository:c:pull""#],
            "https://t?service=s&scope=repository:a/b:pull&scope=repository:c:pull",
        );
        check(&[r#"Bearer realm="https://t",scope="""#], "https://t?scope=repository:a/b:pull");
    }

    #[test]
    fn what_cannot_be_answered_is_left_out() {
        check(&[], "nothing");
        check(&["Negotiate", "Digest realm=x", "Bearer service=s", "\"", ",,,="], "nothing");
    }

    #[test]
    fn both_spellings_of_tokens() {
        let check = |answer: &str, expected: Option<(&str, u64)>| {
            let expected = expected.map(|(token, life)| (token.to_owned(), Duration::from_secs(life)));
            assert_eq!(token(answer.as_bytes()), expected, "{answer}");
        };
        check(r#"{"token":"t"}"#, Some(("t", 50)));
        check(r#"{"access_token":"t","expires_in":300}"#, Some(("t", 290)));
        check(r#"{"token":"t","access_token":"u","expires_in":5}"#, Some(("t", 0)));
        check(r#"{"token":""}"#, None);
        check("{}", None);
        check("<html>", None);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_left(text in "\\PC{0,80}") {
            drop(choose([text.as_str()].into_iter()));
        }
    }
}

//! Who calls the kubelet API by token, and what callers may: asked of the API server, and remembered for a while.
//!
//! As the kubelet's webhook modes: TokenReview and SubjectAccessReview. Who has a client certificate is known without.
//! Not for: certificates (`auth`), which path needs what (`route`).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Method;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// A caller, as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Name.
    pub user: String,
    /// UID, if it has one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Whatever else its authenticator says.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// What the API server answers; an error is for the log.
pub trait Reviews: Send + Sync {
    /// Whose token this is.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>>;
    /// Whether somebody may `verb` a subresource of this node.
    fn access<'a>(
        &'a self,
        who: &'a Identity,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>>;
}

/// Upstream's times to remember: a token; a permission; a refusal.
const TOKEN: Duration = Duration::from_secs(2 * 60);
const ALLOWED: Duration = Duration::from_secs(5 * 60);
const DENIED: Duration = Duration::from_secs(30);
/// A token that nobody knows: asked again soon, but not with each request.
const UNKNOWN: Duration = Duration::from_secs(10);
/// Answers that are kept: callers are few, but may try many tokens.
const KEPT: usize = 1024;
/// May everything, as everywhere: of use when there is nobody to ask.
const MASTERS: &str = "system:masters";

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 403.
    Forbidden(String),
    /// 500.
    Unknown(String),
}

/// Asks and remembers.
pub(super) struct Access {
    reviews: Arc<dyn Reviews>,
    tokens: Kept<[u8; 32], Option<Identity>>,
    permissions: Kept<(Identity, &'static str, String), bool>,
}

impl Access {
    pub(super) fn new(reviews: Arc<dyn Reviews>) -> Access {
        Access { reviews, tokens: Kept::default(), permissions: Kept::default() }
    }

    /// Whose token it is; `None` also when that cannot be found out.
    pub(super) async fn token(&self, token: &str) -> Option<Identity> {
        let key = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&key) {
            return known;
        }
        match self.reviews.token(token).await {
            Ok(found) => {
                self.tokens.keep(key, found.clone(), if found.is_some() { TOKEN } else { UNKNOWN });
                found
            }
            Err(error) => {
                tracing::warn!(error, "ask the API server whose token a caller of the kubelet API has");
                None
            }
        }
    }

    /// Whether somebody may use one of the `subresources` of this node; they are tried in their order.
    pub(super) async fn may(
        &self,
        who: &Identity,
        method: &Method,
        subresources: &[&str],
    ) -> Result<(), Refusal> {
        if who.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let verb = verb(method);
        let words = || {
            let user = &who.user;
            format!("(user={user}, verb={verb}, resource=nodes, subresource(s)=[{}])", subresources.join(" "))
        };
        for subresource in subresources {
            match self.asked(who, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error, user = who.user, "ask the API server what a caller may");
                    return Err(Refusal::Unknown(format!("Authorization error {}", words())));
                }
            }
        }
        Err(Refusal::Forbidden(format!("Forbidden {}", words())))
    }

    async fn asked(&self, who: &Identity, verb: &'static str, subresource: &str) -> Result<bool, String> {
        let key = (who.clone(), verb, subresource.to_owned());
        if let Some(known) = self.permissions.get(&key) {
            return Ok(known);
        }
        let allowed = self.reviews.access(who, verb, subresource).await?;
        self.permissions.keep(key, allowed, if allowed { ALLOWED } else { DENIED });
        Ok(allowed)
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Answers, each for its time.
struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn keep(&self, key: K, value: V, time: Duration) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= KEPT {
            let now = Instant::now();
            held.retain(|_, (_, until)| *until > now);
        }
        if held.len() < KEPT {
            held.insert(key, (value, Instant::now() + time));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    /// Knows one token, and lets its owner read statistics.
    #[derive(Default)]
    struct Server {
        asked: AtomicUsize,
        away: std::sync::atomic::AtomicBool,
    }

    impl Server {
        fn answer<T: Send + 'static>(&self, value: T) -> BoxFuture<'_, Result<T, String>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let away = self.away.load(Ordering::Relaxed);
            async move { if away { Err("away".to_owned()) } else { Ok(value) } }.boxed()
        }
    }

    impl Reviews for Server {
        fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>> {
            let scraper = Identity { user: "scraper".to_owned(), ..Identity::default() };
            self.answer((token == "good").then_some(scraper))
        }
        fn access<'a>(
            &'a self,
            who: &'a Identity,
            verb: &'a str,
            subresource: &'a str,
        ) -> BoxFuture<'a, Result<bool, String>> {
            self.answer((who.user.as_str(), verb, subresource) == ("scraper", "get", "stats"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_hold_for_a_while() {
        let server = Arc::new(Server::default());
        let access = Access::new(Arc::clone(&server) as Arc<dyn Reviews>);
        let asked = || server.asked.swap(0, Ordering::Relaxed);
        let scraper = access.token("good").await.unwrap();
        assert_eq!((access.token("good").await, access.token("bad").await), (Some(scraper.clone()), None));
        assert_eq!(asked(), 2);
        assert_eq!(access.may(&scraper, &Method::GET, &["proxy", "stats"]).await, Ok(()));
        assert_eq!(access.may(&scraper, &Method::GET, &["stats", "proxy"]).await, Ok(()));
        assert_eq!(asked(), 2, "each subresource once");
        let words =
            "Forbidden (user=scraper, verb=create, resource=nodes, subresource(s)=[proxy])".to_owned();
        let refused = access.may(&scraper, &Method::POST, &["proxy"]).await;
        assert_eq!(refused, Err(Refusal::Forbidden(words)));
        assert_eq!(asked(), 1);
        server.away.store(true, Ordering::Relaxed);
        assert_eq!(access.may(&scraper, &Method::GET, &["stats"]).await, Ok(()), "still known");
        tokio::time::advance(ALLOWED).await;
        let words =
            "Authorization error (user=scraper, verb=get, resource=nodes, subresource(s)=[stats])".to_owned();
        let unknown = access.may(&scraper, &Method::GET, &["stats"]).await;
        assert_eq!(unknown, Err(Refusal::Unknown(words)));
        assert_eq!(access.token("good").await, None);
        let master = Identity { groups: vec![MASTERS.to_owned()], ..Identity::default() };
        assert_eq!(access.may(&master, &Method::DELETE, &["proxy"]).await, Ok(()), "with nobody to ask");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let server = Arc::new(Server::default());
        let access = Access::new(server as Arc<dyn Reviews>);
        for n in 0..2 * KEPT {
            access.token(&n.to_string()).await;
        }
        assert_eq!(access.tokens.0.lock().unwrap().len(), KEPT);
    }
}

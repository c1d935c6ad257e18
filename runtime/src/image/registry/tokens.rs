//! Authorization: what to send where, learnt from challenges and remembered for as long as it holds.
//!
//! Kept by host, repository *and* credential, so that nobody profits from another's. Not for: which credentials exist.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Response, Url,
    header::{HeaderValue, WWW_AUTHENTICATE},
};

use super::{
    challenge::{self, Challenge},
    error::RegistryError,
    hosts::Host,
    http::{Ask, body, checked, get, post, url_with},
};
use crate::image::keyring::Auth;

/// Tokens kept.
const TOKENS_MAX: usize = 1024;
/// Of a token server's answer.
const ANSWER_MAX: u64 = 256 << 10;

/// What was learnt.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, Learnt>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) origin: String,
    pub(super) repository: String,
    pub(super) auth: Option<Auth>,
}

struct Learnt {
    header: HeaderValue,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl Tokens {
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<HeaderValue> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let learnt = tokens.get(key)?;
        if learnt.until.is_some_and(|until| until <= now) {
            tokens.remove(key);
            return None;
        }
        Some(learnt.header.clone())
    }

    fn put(&self, key: Key, learnt: Learnt) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(key, learnt);
    }

    /// Answers a 401: what to send next time.
    pub(super) async fn answer(
        &self,
        client: &Client,
        host: &Host,
        key: &Key,
        refused: &Response,
    ) -> Result<HeaderValue, RegistryError> {
        // Where a redirect led to is not asked for its opinion on passwords.
        let asked = refused.url().origin();
        if !Url::parse(&host.origin).is_ok_and(|own| own.origin() == asked) {
            return Err(RegistryError::Unauthorized);
        }
        let headers = refused.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()));
        let learnt = match (challenge, &key.auth) {
            (Some(Challenge::Basic), Some(auth)) if !auth.is_identity_token() => {
                Learnt { header: basic(auth)?, until: None }
            }
            (Some(Challenge::Bearer { realm, service, scope }), auth) => {
                // A registry behind TLS does not send passwords into the open.
                if !host.tls.plain && !realm.starts_with("https://") {
                    return Err(RegistryError::Other("the registry wants passwords sent without TLS".into()));
                }
                let query = challenge::query(service.as_deref(), scope.as_deref(), &host.repository);
                match auth.as_ref().filter(|auth| auth.is_identity_token()) {
                    Some(token) => {
                        let form = challenge::refresh(query, &token.password);
                        learn(post(client, &realm, &form)).await?
                    }
                    None => fetch(client, url_with(&realm, &query)?.as_str(), auth.as_ref()).await?,
                }
            }
            (Some(Challenge::Basic) | None, _) => return Err(RegistryError::Unauthorized),
        };
        let header = learnt.header.clone();
        self.put(key.clone(), learnt);
        Ok(header)
    }
}

async fn fetch(client: &Client, url: &str, auth: Option<&Auth>) -> Result<Learnt, RegistryError> {
    let authorization = auth.map(basic).transpose()?;
    let ask = Ask { url, accept: None, authorization: authorization.as_ref(), from: None };
    learn(get(client, &ask)).await
}

/// What a token server answers.
async fn learn(ask: impl Future<Output = Result<Response, RegistryError>>) -> Result<Learnt, RegistryError> {
    let asked_at = Instant::now();
    let answer = checked(ask.await?, false).await.map_err(|error| match error {
        // Some token servers say it so.
        RegistryError::NotFound => RegistryError::Unauthorized,
        other => other,
    })?;
    let answer = body(answer, ANSWER_MAX).await?;
    let (token, life) = challenge::token(&answer)
        .ok_or_else(|| RegistryError::Other("the token server's answer holds no token".into()))?;
    Ok(Learnt { header: sensitive(format!("Bearer {token}"))?, until: Some(asked_at + life) })
}

fn basic(Auth { username, password }: &Auth) -> Result<HeaderValue, RegistryError> {
    sensitive(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn sensitive(text: String) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| RegistryError::Other("a token that no header can carry".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

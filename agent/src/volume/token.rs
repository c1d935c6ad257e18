//! Service-account tokens of volumes: kept while most of their life is left, renewed before it ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::worker::ports::{Clock, ObjectFailure, Objects, Token, TokenRequest};

const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// The tokens in use.
pub(super) struct Tokens {
    clock: Arc<dyn Clock>,
    held: Mutex<HeldByPod>,
}

/// By pod UID, then by volume and path.
type HeldByPod = HashMap<String, HashMap<(String, String), Held>>;

struct Held {
    token: Token,
    refresh_at: Timestamp,
}

impl Tokens {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Tokens {
        Tokens { clock, held: Mutex::default() }
    }

    /// The token and when to look again. A token that cannot be renewed is kept while it is valid.
    pub(super) async fn get(
        &self,
        objects: &dyn Objects,
        volume: &str,
        path: &str,
        request: &TokenRequest,
    ) -> Result<(String, Timestamp), ObjectFailure> {
        let now = self.clock.now();
        let uid = request.pod.uid.clone();
        let key = (volume.to_owned(), path.to_owned());
        if let Some(held) = self.held().get(&uid).and_then(|of_pod| of_pod.get(&key))
            && held.refresh_at > now
        {
            return Ok((held.token.token.clone(), held.refresh_at));
        }
        match objects.token(request).await {
            Ok(token) => {
                let refresh_at = refresh_at(now, token.expires_at);
                let text = token.token.clone();
                self.held().entry(uid).or_default().insert(key, Held { token, refresh_at });
                Ok((text, refresh_at))
            }
            Err(failure) => {
                let held = self.held();
                let old = held.get(&uid).and_then(|of_pod| of_pod.get(&key));
                let valid = old.filter(|held| held.token.expires_at > now);
                let soon = now.checked_add(Duration::from_secs(30)).unwrap_or(now);
                valid.map(|held| (held.token.token.clone(), soon)).ok_or(failure)
            }
        }
    }

    /// The pod is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.held().remove(uid);
    }

    fn held(&self) -> MutexGuard<'_, HeldByPod> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a fifth of the life is left, or the token is a day old.
fn refresh_at(now: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life: Duration = expires_at.duration_since(now).try_into().unwrap_or_default();
    now.checked_add((life * 4 / 5).min(OLDEST)).unwrap_or(expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_when_a_fifth_is_left_or_after_a_day() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(refresh_at(at(0), at(3600)), at(2880));
        assert_eq!(refresh_at(at(0), at(365 * 86_400)), at(86_400));
    }
}

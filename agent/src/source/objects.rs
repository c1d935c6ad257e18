//! ConfigMaps, Secrets, tokens and Services as the pods of this node need them.
//!
//! ```text
//!  worker ──follow(uid, refs)──▶ Followed: one watch per object that any pod uses ──▶ changes channel ──▶ workers
//!         ──config_map(ns, n)──▶ newest seen by that watch, else GET
//! ```
//!
//! One watch per object, as the kubelet does it (`configMapAndSecretChangeDetectionStrategy: Watch`): a node may only
//! read what its own pods use. What was seen is remembered while a pod uses it, and stands in where the API server
//! does not answer. Not for: what goes into a volume or an environment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
};
use kube::{Api, Client, api::PostParams, runtime::watcher};
use orlop_model::event::Event;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
    time::timeout,
};

use super::PATIENCE;
use crate::{
    memory::{Key, Kind, Memory},
    wire::chain,
    worker::ports::{Clock, ObjectFailure, ObjectRef, Objects, PodRef, Token, TokenRequest},
};

/// The API server's objects for pods of this node.
pub struct ApiObjects {
    client: Client,
    followed: Mutex<HashMap<ObjectRef, Followed>>,
    wanted: Mutex<HashMap<String, BTreeSet<ObjectRef>>>,
    services: RwLock<Option<Services>>,
    changes: mpsc::UnboundedSender<ObjectRef>,
    memory: Option<Memory>,
    clock: Arc<dyn Clock>,
    /// Questions for single objects.
    turns: Semaphore,
}

/// Single objects that are asked for at once: each has a connection, and a burst of pods would open one each.
const AT_ONCE: usize = 16;

/// By namespace and name.
type Services = BTreeMap<(String, String), Arc<Service>>;

/// One object's watch and what it saw last.
struct Followed {
    users: usize,
    seen: Arc<RwLock<Seen>>,
    task: AbortHandle,
}

#[derive(Default)]
enum Seen {
    /// The first list is not in.
    #[default]
    NotYet,
    /// There is no such object.
    Absent,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

/// Why there is no answer.
enum NoAnswer {
    /// The API server says no.
    Said(kube::Error),
    /// It says nothing, or that it cannot answer.
    Unreachable(String),
}

impl ApiObjects {
    /// `changes` hears of every change of a followed object.
    #[must_use]
    pub fn new(
        client: Client,
        changes: mpsc::UnboundedSender<ObjectRef>,
        memory: Option<Memory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            client,
            followed: Mutex::default(),
            wanted: Mutex::default(),
            services: RwLock::default(),
            changes,
            memory,
            clock,
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Takes in what the watch of Services says.
    pub fn apply_service(&self, event: &Event<Arc<Service>>) {
        let key = |service: &Arc<Service>| {
            let meta = &service.metadata;
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Reset(all) => *services = Some(all.iter().map(|s| (key(s), Arc::clone(s))).collect()),
            Event::Apply(service) => {
                services.get_or_insert_default().insert(key(service), Arc::clone(service));
            }
            Event::Delete(service) => {
                services.get_or_insert_default().remove(&key(service));
            }
        }
    }

    fn start_watch(&self, object: &ObjectRef) -> Followed {
        let seen = Arc::new(RwLock::default());
        let task = match object {
            ObjectRef::ConfigMap { namespace, name } => {
                let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
                self.spawn_watch(api, name, object, Arc::clone(&seen), Seen::ConfigMap)
            }
            ObjectRef::Secret { namespace, name } => {
                let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
                self.spawn_watch(api, name, object, Arc::clone(&seen), Seen::Secret)
            }
        };
        Followed { users: 1, seen, task }
    }

    fn spawn_watch<K>(
        &self,
        api: Api<K>,
        name: &str,
        object: &ObjectRef,
        seen: Arc<RwLock<Seen>>,
        wrap: fn(Arc<K>) -> Seen,
    ) -> AbortHandle
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (changes, object) = (self.changes.clone(), object.clone());
        let memory = self.memory.clone();
        let mut events = super::watch(api, config);
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let there = match event {
                    Event::Reset(all) => all.into_iter().next(),
                    Event::Apply(one) => Some(one),
                    Event::Delete(_) => None,
                };
                match (&memory, &there) {
                    (Some(memory), Some(there)) => memory.keep(key(&object), Arc::clone(there)),
                    (Some(memory), None) => memory.forget(key(&object)),
                    (None, _) => {}
                }
                let now = there.map_or(Seen::Absent, wrap);
                *seen.write().unwrap_or_else(PoisonError::into_inner) = now;
                if changes.send(object.clone()).is_err() {
                    return;
                }
            }
        });
        task.abort_handle()
    }

    fn release(&self, object: &ObjectRef) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = followed.get_mut(object) {
            entry.users -= 1;
            if entry.users == 0 {
                entry.task.abort();
                followed.remove(object);
                if let Some(memory) = &self.memory {
                    memory.forget(key(object));
                }
            }
        }
    }

    /// The object from the API server, else from memory.
    async fn get<K>(
        &self,
        object: ObjectRef,
        kind: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<K>, ObjectFailure>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        match self.answer(api.get(name)).await {
            Ok(found) => Ok(Arc::new(found)),
            Err(NoAnswer::Said(error)) => Err(failure(&error, kind, name)),
            Err(NoAnswer::Unreachable(why)) => {
                let remembered = self.memory.as_ref().and_then(|memory| memory.recall(&key(&object)));
                remembered.map(Arc::new).ok_or(ObjectFailure::Other(why))
            }
        }
    }

    /// What the API server says; where memory can stand in, it has to say it soon.
    async fn answer<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> Result<T, NoAnswer> {
        // Never closed. The time until it comes is not the API server's.
        let _turn = self.turns.acquire().await;
        let answer = match &self.memory {
            None => asked.await,
            Some(_) => match timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_late) => return Err(NoAnswer::Unreachable("the API server does not answer".into())),
            },
        };
        answer.map_err(|error| match error {
            kube::Error::Api(ref status) if status.code < 500 => NoAnswer::Said(error),
            kube::Error::Api(status) => NoAnswer::Unreachable(status.message),
            other => NoAnswer::Unreachable(chain(&other)),
        })
    }

    /// What the watch of this object saw, if there is one that has seen its first list.
    fn seen<T>(&self, object: &ObjectRef, pick: impl Fn(&Seen) -> Option<T>) -> Option<T> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = followed.get(object)?;
        let seen = entry.seen.read().unwrap_or_else(PoisonError::into_inner);
        pick(&seen)
    }
}

/// `NotFound` in upstream's words, everything else as the server said it.
pub(super) fn failure(error: &kube::Error, kind: &'static str, name: &str) -> ObjectFailure {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            ObjectFailure::NotFound { kind, name: name.to_owned() }
        }
        kube::Error::Api(status) => ObjectFailure::Other(status.message.clone()),
        other => ObjectFailure::Other(other.to_string()),
    }
}

/// Where an object is remembered.
pub(super) fn key(object: &ObjectRef) -> Key {
    match object {
        ObjectRef::ConfigMap { namespace, name } => Key::two(Kind::ConfigMap, namespace, name),
        ObjectRef::Secret { namespace, name } => Key::two(Kind::Secret, namespace, name),
    }
}

/// Where the answer to a request for a token is remembered.
fn token_key(request: &TokenRequest) -> Key {
    let TokenRequest { pod, service_account, audience, expiration_seconds } = request;
    let wish =
        format!("{service_account}\n{}\n{expiration_seconds}", audience.as_deref().unwrap_or_default());
    Key::two(Kind::Token, &pod.uid, &hex::encode(Sha256::digest(wish)))
}

impl Objects for ApiObjects {
    fn config_map<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        let object = ObjectRef::config_map(&pod.namespace, name);
        let known = self.seen(&object, |seen| match seen {
            Seen::ConfigMap(object) => Some(Arc::clone(object)),
            _ => None,
        });
        async move {
            match known {
                Some(object) => Ok(object),
                None => self.get(object, "configmap", &pod.namespace, name).await,
            }
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        let object = ObjectRef::secret(&pod.namespace, name);
        let known = self.seen(&object, |seen| match seen {
            Seen::Secret(object) => Some(Arc::clone(object)),
            _ => None,
        });
        async move {
            match known {
                Some(object) => Ok(object),
                None => self.get(object, "secret", &pod.namespace, name).await,
            }
        }
        .boxed()
    }

    fn token<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<Token, ObjectFailure>> {
        async move {
            let body = ApiTokenRequest {
                spec: TokenRequestSpec {
                    audiences: request.audience.iter().cloned().collect(),
                    expiration_seconds: Some(request.expiration_seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: Some(request.pod.name.clone()),
                        uid: Some(request.pod.uid.clone()),
                    }),
                },
                ..ApiTokenRequest::default()
            };
            let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &request.pod.namespace);
            let params = PostParams::default();
            let asked = accounts.create_token_request(&request.service_account, &params, &body);
            let key = || token_key(request);
            let answer = match self.answer(asked).await {
                Ok(answer) => answer,
                Err(NoAnswer::Said(error)) => {
                    return Err(failure(&error, "serviceaccount", &request.service_account));
                }
                Err(NoAnswer::Unreachable(why)) => {
                    let remembered = self.memory.as_ref().and_then(|memory| memory.recall::<Token>(&key()));
                    let valid = remembered.filter(|token| token.expires_at > self.clock.now());
                    return valid.ok_or(ObjectFailure::Other(why));
                }
            };
            let status = answer
                .status
                .ok_or_else(|| ObjectFailure::Other("token request without an answer".to_owned()))?;
            let token = Token { token: status.token, expires_at: status.expiration_timestamp.0 };
            if let Some(memory) = &self.memory {
                memory.keep(key(), Arc::new(token.clone()));
            }
            Ok(token)
        }
        .boxed()
    }

    fn services(&self, pod: &PodRef) -> Option<Vec<Arc<Service>>> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let from = (pod.namespace.clone(), String::new());
        let in_namespace = services.as_ref()?.range(from..).take_while(|((ns, _), _)| *ns == pod.namespace);
        Some(in_namespace.map(|(_, service)| Arc::clone(service)).collect())
    }

    fn kubernetes(&self) -> Option<Arc<Service>> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.as_ref()?.get(&("default".to_owned(), "kubernetes".to_owned())).cloned()
    }

    fn follow(&self, uid: &str, objects: BTreeSet<ObjectRef>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if objects.is_empty() {
            wanted.remove(uid).unwrap_or_default()
        } else {
            wanted.insert(uid.to_owned(), objects.clone()).unwrap_or_default()
        };
        for object in objects.difference(&before) {
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            match followed.get_mut(object) {
                Some(entry) => entry.users += 1,
                None => {
                    let entry = self.start_watch(object);
                    followed.insert(object.clone(), entry);
                }
            }
        }
        for object in before.difference(&objects) {
            self.release(object);
        }
        if let Some(memory) = self.memory.as_ref().filter(|_| objects.is_empty()) {
            memory.retain(Kind::Token, |key| key.name.first().is_none_or(|of| of != uid));
        }
    }
}

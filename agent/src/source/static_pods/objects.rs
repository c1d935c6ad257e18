//! Objects for all pods of the node: a static pod has those of its file, every other one the API server's.
//!
//! Never the other way round: who may write to the API must not read what lies in this node's files, and a static pod
//! must run where there is no API server.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};

use super::manifest;
use crate::worker::ports::{ObjectFailure, ObjectRef, Objects, PodRef, Token, TokenRequest};

/// What each static pod may refer to, by UID.
pub type OfPods = HashMap<String, Arc<manifest::Objects>>;

/// The objects of static pods, and behind them those of the API if there is one.
#[derive(Clone)]
pub struct NodeObjects {
    files: Arc<RwLock<OfPods>>,
    api: Option<Arc<dyn Objects>>,
}

impl NodeObjects {
    /// No static pod is known yet.
    #[must_use]
    pub fn new(api: Option<Arc<dyn Objects>>) -> Self {
        Self { files: Arc::default(), api }
    }

    /// The static pods' objects are these from now on; which of those that a pod had are others now.
    pub fn set(&self, files: OfPods) -> BTreeSet<ObjectRef> {
        let mut known = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, files);
        let both = known.iter().filter_map(|(uid, now)| Some((before.get(uid)?, now)));
        both.flat_map(|(before, now)| manifest::differences(before, now)).collect()
    }

    fn of(&self, uid: &str) -> Option<Arc<manifest::Objects>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    fn api(&self) -> Result<&Arc<dyn Objects>, ObjectFailure> {
        self.api.as_ref().ok_or_else(|| ObjectFailure::Other("this node has no API server".into()))
    }
}

impl Objects for NodeObjects {
    fn config_map<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        async move {
            let Some(of_file) = self.of(&pod.uid) else { return self.api()?.config_map(pod, name).await };
            let found = of_file.config_maps.get(&(pod.namespace.clone(), name.to_owned())).cloned();
            found.ok_or_else(|| ObjectFailure::NotFound { kind: "configmap", name: name.to_owned() })
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move {
            let Some(of_file) = self.of(&pod.uid) else { return self.api()?.secret(pod, name).await };
            let found = of_file.secrets.get(&(pod.namespace.clone(), name.to_owned())).cloned();
            found.ok_or_else(|| ObjectFailure::NotFound { kind: "secret", name: name.to_owned() })
        }
        .boxed()
    }

    fn token<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<Token, ObjectFailure>> {
        async move {
            if self.of(&request.pod.uid).is_some() {
                return Err(ObjectFailure::Other("a static pod has no service account".into()));
            }
            self.api()?.token(request).await
        }
        .boxed()
    }

    fn services(&self, pod: &PodRef) -> Option<Vec<Arc<Service>>> {
        self.api.as_ref()?.services(pod)
    }

    fn kubernetes(&self) -> Option<Arc<Service>> {
        self.api.as_ref()?.kubernetes()
    }

    fn follow(&self, uid: &str, objects: BTreeSet<ObjectRef>) {
        if let Some(api) = self.api.as_ref().filter(|_| self.of(uid).is_none()) {
            api.follow(uid, objects);
        }
    }
}

//! Where a status goes: that of a pod of the API to the server and into memory, that of a static pod to its mirror.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;

use super::Writer;
use crate::{
    memory::{Key, Kind, Memory},
    mirror::Mirrors,
    pod::desired::{Desired, pod_ref},
    worker::ports::{StatusSink, Written},
};

/// All the places.
pub struct Outlet {
    /// The API server, if there is one.
    pub writer: Option<Writer>,
    /// For when it cannot be reached.
    pub memory: Option<Memory>,
    /// For static pods.
    pub mirrors: Mirrors,
    /// Hears at once that a static pod's status was taken: nobody else has to know of it.
    pub written: mpsc::UnboundedSender<Written>,
}

impl StatusSink for Outlet {
    fn publish(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let uid = pod_ref(pod).uid;
        if Desired::new(Arc::clone(pod)).is_static() {
            self.mirrors.told(pod, Arc::clone(&status));
            // At the end of the process nobody listens any more.
            let _ended = self.written.send(Written { uid, status });
            return;
        }
        if let Some(memory) = &self.memory {
            memory.keep(Key::one(Kind::Status, &uid), Arc::clone(&status));
        }
        if let Some(writer) = &self.writer {
            writer.publish(pod, status);
        }
    }

    fn delete(&self, pod: &Arc<Pod>) {
        if let Some(writer) = self.writer.as_ref().filter(|_| !Desired::new(Arc::clone(pod)).is_static()) {
            writer.delete(pod);
        }
    }

    fn forget(&self, uid: &str) {
        self.mirrors.ended(uid);
        if let Some(memory) = &self.memory {
            memory.forget(Key::one(Kind::Status, uid));
        }
        if let Some(writer) = &self.writer {
            writer.forget(uid);
        }
    }
}

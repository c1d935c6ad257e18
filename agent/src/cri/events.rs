//! What happens to containers, for clients that do not want to ask again and again (the kubelet's evented PLEG).

use futures::StreamExt as _;
use orlop_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use orlop_runtime::RuntimeEvent;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Cri, pods::now, words::status::nanos};

impl Cri {
    /// Tells clients of ends; hands every event on to whoever else wants it.
    pub async fn listen(
        self,
        mut events: mpsc::UnboundedReceiver<RuntimeEvent>,
        next: Option<mpsc::UnboundedSender<RuntimeEvent>>,
    ) {
        while let Some(event) = events.recv().await {
            if let Some(next) = &next {
                // Whoever it was may have ended.
                next.send(event.clone()).ok();
            }
            match event {
                RuntimeEvent::Exited { uid, container_id, .. } => {
                    self.tell(ContainerEventType::ContainerStoppedEvent, &uid, &container_id).await;
                }
                RuntimeEvent::ShimLost { uid } => {
                    self.tell(ContainerEventType::ContainerStoppedEvent, &uid, &uid).await;
                }
                RuntimeEvent::Oom { .. } => {}
            }
        }
    }

    /// Costs nothing while nobody listens.
    pub(super) async fn tell(&self, kind: ContainerEventType, uid: &str, id: &str) {
        if self.0.events.receiver_count() == 0 {
            return;
        }
        let mut event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: nanos(now()),
            ..ContainerEventResponse::default()
        };
        if let Some(pod) = self.runtime().pod(uid).await {
            event.pod_sandbox_status = Some(self.pod_status(&pod).await);
            for container in &pod.containers {
                event.containers_statuses.push(self.container_status(&pod, container).await);
            }
        }
        // The last listener may have left.
        self.0.events.send(event).ok();
    }

    pub(super) fn events(
        &self,
    ) -> impl futures::Stream<Item = Result<ContainerEventResponse, Status>> + Send + use<> {
        let events = self.0.events.subscribe();
        futures::stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((Ok(event), events)),
                // The client asks for everything anew.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    Some((Err(Status::resource_exhausted("events were lost")), events))
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

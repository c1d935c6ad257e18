//! Events about what controllers did, written in the background: nobody ever waits for one.
//!
//! ```text
//!  controllers ─▶ Recorder (bounded channel; a full one drops) ─▶ one writer ─▶ API server
//! ```
//! The same words about the same object become one Event with a count.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;

use crate::error::is_not_found;
use crate::object::reference;

const QUEUE: usize = 1024;
const REMEMBERED: usize = 512;

/// One thing to tell.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) component: &'static str,
    pub(crate) about: ObjectReference,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// What was being done, for schedulers (`Binding`).
    pub(crate) action: Option<&'static str>,
}

/// The place where a controller drops its notes.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    notes: mpsc::Sender<Note>,
    component: &'static str,
}

impl Recorder {
    /// A recorder and the notes that its writer must take.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Note>) {
        let (notes, queue) = mpsc::channel(QUEUE);
        (Self { notes, component: "" }, queue)
    }

    /// The same place under another component's name.
    pub(crate) fn named(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: String,
    ) {
        self.note(reference(about), false, reason, message, None);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &'static str,
        message: String,
    ) {
        self.note(reference(about), true, reason, message, None);
    }

    pub(crate) fn note(
        &self,
        about: ObjectReference,
        warning: bool,
        reason: &'static str,
        message: String,
        action: Option<&'static str>,
    ) {
        let note = Note { component: self.component, about, warning, reason, message, action };
        if self.notes.try_send(note).is_err() {
            tracing::debug!(reason, "event dropped: the writer is behind");
        }
    }
}

/// What an Event is known by: object, reason, message.
type Words = (String, &'static str, String);

/// Writes notes until all recorders are gone.
pub(crate) async fn write(client: Client, mut notes: mpsc::Receiver<Note>) {
    let mut known: HashMap<Words, (Key, i32)> = HashMap::new();
    let mut order: VecDeque<Words> = VecDeque::new();
    while let Some(note) = notes.recv().await {
        let words = (note.about.uid.clone().unwrap_or_default(), note.reason, note.message.clone());
        let now = Timestamp::now();
        if let Some((key, count)) = known.get_mut(&words) {
            *count += 1;
            match repeat(&client, key, *count, now).await {
                Ok(()) => continue,
                Err(error) if is_not_found(&error) => {}
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "event not counted");
                    continue;
                }
            }
        }
        match create(&client, &note, now).await {
            Ok(key) => {
                known.insert(words.clone(), (key, 1));
                order.push_back(words);
                if order.len() > REMEMBERED
                    && let Some(oldest) = order.pop_front()
                {
                    known.remove(&oldest);
                }
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "event not written"),
        }
    }
}

type Key = (String, String);

async fn repeat(client: &Client, (namespace, name): &Key, count: i32, now: Timestamp) -> kube::Result<()> {
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    let patch = json!({ "count": count, "lastTimestamp": Time(now) });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn create(client: &Client, note: &Note, now: Timestamp) -> kube::Result<Key> {
    let event = event(note, now);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    Api::<Event>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await?;
    Ok((namespace, name))
}

/// The Event object for a note, named as upstream names them. Cluster-wide objects tell in `default`.
fn event(note: &Note, now: Timestamp) -> Event {
    let namespace =
        note.about.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".to_owned());
    let name = format!("{}.{:x}", note.about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        action: note.action.map(str::to_owned),
        count: Some(1),
        event_time: note.action.map(|_| MicroTime(now)),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        involved_object: note.about.clone(),
        message: Some(note.message.clone()),
        reason: Some(note.reason.to_owned()),
        reporting_component: Some(note.component.to_owned()),
        reporting_instance: note.action.map(|_| note.component.to_owned()),
        source: Some(EventSource { component: Some(note.component.to_owned()), host: None }),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_after_object_and_time_and_lives_in_its_namespace() {
        let about = ObjectReference { name: Some("n1".to_owned()), ..ObjectReference::default() };
        let note =
            Note { component: "c", about, warning: true, reason: "R", message: "m".to_owned(), action: None };
        let event = event(&note, Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.name.as_deref(), Some("n1.0"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}

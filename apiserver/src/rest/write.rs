//! The last step of every change: from a finished object to the store and its answer.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::status::Failure;
use super::{Api, object};
use crate::kinds::{Kind, Storage};
use crate::store::{Change, Expect, Make, Object, Write, WriteError};

/// What the store said no to.
#[derive(Debug)]
pub(super) enum Refused {
    /// Somebody else wrote first.
    Conflict,
    /// Anything else.
    Failure(Failure),
}

impl Api {
    /// Sets or creates an object.
    pub(super) async fn put(
        &self,
        key: String,
        expect: Expect,
        durable: bool,
        value: Value,
    ) -> Result<Arc<Object>, Refused> {
        self.commit(Write { key, expect, durable, change: Change::Put(stamp(value)) }).await
    }

    /// Removes an object; watchers get `last`.
    pub(super) async fn remove(
        &self,
        kind: &Kind,
        key: String,
        revision: u64,
        last: Value,
    ) -> Result<Arc<Object>, Refused> {
        let durable = kind.storage != Storage::Volatile;
        let change = Change::Delete(stamp(last));
        self.commit(Write { key, expect: Expect::Revision(revision), durable, change }).await
    }

    async fn commit(&self, write: Write) -> Result<Arc<Object>, Refused> {
        self.store.write(write).await.map_err(|error| match error {
            WriteError::Conflict { .. } => Refused::Conflict,
            WriteError::Disk(text) if text.contains("os error 28") => Refused::Failure(Failure::new(
                507,
                "InternalError",
                format!("the object was not written: the disk of the API server is full: {text}"),
            )),
            WriteError::Disk(text) => {
                Refused::Failure(Failure::internal(format!("the object was not written: {text}")))
            }
            WriteError::Closed => {
                Refused::Failure(Failure::new(503, "ServiceUnavailable", "the API server is shutting down"))
            }
        })
    }
}

/// Serializes with the resourceVersion it was given.
fn stamp(mut value: Value) -> Make {
    Box::new(move |revision| {
        object::metadata(&mut value).insert("resourceVersion".into(), revision.to_string().into());
        let mut bytes = value.to_string().into_bytes();
        // It lives as long as the object, and in the history: the room that writing doubled on the way is given back.
        bytes.shrink_to_fit();
        bytes
    })
}

/// A stored object as a value.
pub(super) fn parse(bytes: &Bytes) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(Failure::internal)
}

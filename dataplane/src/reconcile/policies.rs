//! NetworkPolicies in the maps. Before all that matters is listed, what is pinned holds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::chain;
use crate::maps::Maps;
use crate::policy::compile::compile;
use crate::policy::diff::diff;
use crate::policy::model::Key;
use crate::policy::tables::{Names, Tables};
use crate::policy::{Change, World};

/// What is known of policies, and what the maps hold of it.
#[derive(Debug, Default)]
pub(super) struct Policies {
    world: World,
    /// As far as we know.
    known: Option<Tables>,
    names: Arc<Names>,
    dirty: bool,
    failure: Option<String>,
    /// Pods that wait for their policies.
    waiting: Vec<(Key, mpsc::Sender<()>)>,
}

impl Policies {
    pub(super) fn apply(&mut self, change: Change) {
        self.dirty |= self.world.apply(change);
    }

    /// A pod has got addresses, and somebody waits before it may start.
    pub(super) fn attached(&mut self, key: Key, ips: BTreeSet<IpAddr>, done: mpsc::Sender<()>) {
        self.apply(Change::Attached(key.clone(), ips));
        self.waiting.push((key, done));
    }

    /// Whether there is any policy.
    pub(super) fn any(&self) -> bool {
        !self.world.policies.is_empty()
    }

    /// The first thing that could not be written.
    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    /// What numbers in the maps stand for.
    pub(super) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Writes what changed.
    pub(super) fn sync(&mut self, maps: &mut impl Maps, node: &str) {
        if !self.world.complete() {
            return;
        }
        if self.dirty {
            self.put_in_force(maps, node);
        }
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(key, _)| self.world.knows(key));
        self.waiting = waiting;
        let ready: Vec<(Key, mpsc::Sender<()>)> = ready;
        // Whoever does not wait any more has gone on without us.
        for (_, done) in ready {
            let _gone = done.try_send(());
        }
        self.waiting.retain(|(_, done)| !done.is_closed());
    }

    fn put_in_force(&mut self, maps: &mut impl Maps, node: &str) {
        self.failure = self.write(maps, node).err();
        self.dirty = false;
        if let Some(error) = &self.failure {
            tracing::warn!(error, "network policies are not all in force");
        }
    }

    /// Reads the maps back, and writes what differs or was refused.
    pub(super) fn repair(&mut self, maps: &mut impl Maps, node: &str) {
        if let Some(known) = &self.known {
            match maps.dump_policies() {
                Ok(actual) if actual == *known => {}
                Ok(actual) => {
                    self.known = Some(actual);
                    self.dirty = true;
                }
                Err(error) => self.failure = Some(chain(&error)),
            }
        }
        self.dirty |= self.failure.is_some();
        self.sync(maps, node);
    }

    /// Goes on after a refusal: a rule that is missing lets less in, and the others are not about it.
    fn write(&mut self, maps: &mut impl Maps, node: &str) -> Result<(), String> {
        let mut tables = match self.known.take() {
            Some(known) => known,
            None => maps.dump_policies().map_err(|error| chain(&error))?,
        };
        let compiled = compile(&self.world, node);
        self.names = Arc::new(compiled.names);
        let ops = diff(&compiled.tables, &tables);
        let mut result = Ok(());
        for op in &ops {
            match maps.apply_policy(op) {
                Ok(()) => tables.apply(op),
                Err(error) => result = result.and(Err(chain(&error))),
            }
        }
        if !ops.is_empty() {
            let subjects = u32::try_from(tables.subjects.len()).unwrap_or(u32::MAX);
            result = result.and(maps.publish_policies(subjects).map_err(|error| chain(&error)));
        }
        self.known = Some(tables);
        result
    }
}

//! What is known of Services and slices, and which Services changed since somebody last looked.
//!
//! Single writer, no I/O. Not for: deciding what a change means for the maps (`compile`, `diff`).

use std::collections::{BTreeMap, BTreeSet};

use orlop_model::event::Event;

use crate::model::{Service, ServiceKey, Slice};

/// An object of the API under its key; `None` inside if it is not ours to serve.
pub type Known<K, T> = (K, Option<T>);

/// Namespace and name of a slice.
pub type SliceKey = (String, String);

/// Services, their slices, and the set of changed ones.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<ServiceKey, BTreeMap<SliceKey, Slice>>,
    owners: BTreeMap<SliceKey, ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
    services_listed: bool,
    slices_listed: bool,
}

impl Index {
    /// Whether both first lists are in. Before that, what is missing here may well exist.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// A change of Services.
    pub fn services(&mut self, event: Event<Known<ServiceKey, Service>>) {
        match event {
            Event::Apply((key, service)) => self.put_service(key, service),
            Event::Delete((key, _)) => self.put_service(key, None),
            Event::Reset(all) => {
                let mut gone: BTreeSet<ServiceKey> = self.services.keys().cloned().collect();
                for (key, service) in all {
                    gone.remove(&key);
                    self.put_service(key, service);
                }
                gone.into_iter().for_each(|key| self.put_service(key, None));
                self.services_listed = true;
            }
        }
    }

    /// A change of slices.
    pub fn slices(&mut self, event: Event<Known<SliceKey, Slice>>) {
        match event {
            Event::Apply((key, slice)) => self.put_slice(key, slice),
            Event::Delete((key, _)) => self.put_slice(key, None),
            Event::Reset(all) => {
                let mut gone: BTreeSet<SliceKey> = self.owners.keys().cloned().collect();
                for (key, slice) in all {
                    gone.remove(&key);
                    self.put_slice(key, slice);
                }
                gone.into_iter().for_each(|key| self.put_slice(key, None));
                self.slices_listed = true;
            }
        }
    }

    /// The changed Services, each once.
    pub fn take_dirty(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Look at this Service again, although nothing about it changed.
    pub fn touch(&mut self, key: ServiceKey) {
        self.dirty.insert(key);
    }

    /// Look at all of them again.
    pub fn touch_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// The Service and its slices; `None` if it is gone or not ours.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<(&Service, impl Iterator<Item = &Slice> + Clone)> {
        let service = self.services.get(key)?;
        Some((service, self.slices.get(key).into_iter().flat_map(BTreeMap::values)))
    }

    /// How many Services are served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether none is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    fn put_service(&mut self, key: ServiceKey, service: Option<Service>) {
        let before = match service.clone() {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(&key),
        };
        if before != service {
            self.dirty.insert(key);
        }
    }

    fn put_slice(&mut self, key: SliceKey, slice: Option<Slice>) {
        let before = self.owners.get(&key).cloned();
        if let Some(owner) = &before
            && slice.as_ref().is_none_or(|slice| slice.service != *owner)
        {
            self.remove_slice(owner, &key);
        }
        let Some(slice) = slice else { return };
        let owner = slice.service.clone();
        self.owners.insert(key.clone(), owner.clone());
        let unchanged = self.slices.get(&owner).and_then(|slices| slices.get(&key)) == Some(&slice);
        if !unchanged {
            self.slices.entry(owner.clone()).or_default().insert(key, slice);
            self.dirty.insert(owner);
        }
    }

    fn remove_slice(&mut self, owner: &ServiceKey, key: &SliceKey) {
        self.owners.remove(key);
        if let Some(slices) = self.slices.get_mut(owner) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
        }
        self.dirty.insert(owner.clone());
    }
}

//! [pure] Who owns whom.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

use crate::object::{is_deleting, name, namespace, uid};

/// The finalizer of an object that waits for its dependents to go.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents shall stay.
pub(super) const ORPHAN: &str = "orphan";

/// What the collector needs to know of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) resource: Arc<ApiResource>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Item {
    pub(super) fn of(meta: &ObjectMeta, resource: &Arc<ApiResource>) -> Self {
        Self {
            resource: Arc::clone(resource),
            namespace: namespace(meta).to_owned(),
            name: name(meta).to_owned(),
            uid: uid(meta).to_owned(),
            version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: is_deleting(meta),
        }
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|own| own == finalizer)
    }

    /// Whether it is being deleted and waits for its dependents.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    pub(super) fn owners_without(&self, uids: &[String]) -> Vec<&OwnerReference> {
        self.owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect()
    }

    pub(super) fn finalizers_without(&self, finalizer: &str) -> Vec<&String> {
        self.finalizers.iter().filter(|own| *own != finalizer).collect()
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, namespace, name, .. } = self;
        match namespace.as_str() {
            "" => write!(f, "{} {name}", resource.kind),
            namespace => write!(f, "{} {namespace}/{name}", resource.kind),
        }
    }
}

/// An object with its surroundings.
#[derive(Debug)]
pub(super) struct View {
    pub(super) item: Item,
    /// The owners that are known.
    pub(super) known_owners: Vec<Item>,
    /// The owners that the graph does not hold: they may be gone, or just not here yet.
    pub(super) unknown_owners: Vec<OwnerReference>,
    pub(super) dependents: Vec<Item>,
}

/// All objects and, by owner, what depends on them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Adds or replaces an object; the uids of those to look at.
    pub(super) fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        let old = self.items.insert(uid.clone(), item);
        let item = &self.items[&uid];
        let owners = |item: &Item| item.owners.iter().map(|owner| owner.uid.clone()).collect::<BTreeSet<_>>();
        let (before, now) = (old.as_ref().map(owners).unwrap_or_default(), owners(item));
        for owner in before.difference(&now) {
            unlink(&mut self.dependents, owner, &uid);
        }
        for owner in &now {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
        }
        let ending = |item: &Item| item.deleting && (item.has(FOREGROUND) || item.has(ORPHAN));
        let mut look = Vec::new();
        if (before != now && !now.is_empty()) || ending(item) {
            look.push(uid.clone());
        }
        if ending(item) && !old.as_ref().is_some_and(ending) {
            look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        // Owners that wait for this one to let go, or to go.
        look.extend(before.into_iter().filter(|owner| !now.contains(owner)));
        look
    }

    /// Removes an object; the uids of those to look at: its dependents, and owners that wait for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let mut look: Vec<_> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &item.owners {
            unlink(&mut self.dependents, &owner.uid, uid);
            look.push(owner.uid.clone());
        }
        look
    }

    /// An object with its owners and dependents.
    pub(super) fn view(&self, uid: &str) -> Option<View> {
        let item = self.items.get(uid)?.clone();
        // A namespaced object cannot own anything outside of its namespace.
        let visible = |owner: &&Item| owner.namespace.is_empty() || owner.namespace == item.namespace;
        let find = |reference: &OwnerReference| self.items.get(&reference.uid).filter(visible);
        let known_owners = item.owners.iter().filter_map(|owner| find(owner).cloned()).collect();
        let unknown_owners = item.owners.iter().filter(|owner| find(owner).is_none()).cloned().collect();
        let dependents = self.dependents.get(uid).into_iter().flatten();
        let dependents = dependents.filter_map(|uid| self.items.get(uid).cloned()).collect();
        Some(View { item, known_owners, unknown_owners, dependents })
    }
}

fn unlink(dependents: &mut HashMap<String, BTreeSet<String>>, owner: &str, uid: &str) {
    if let Some(set) = dependents.get_mut(owner) {
        set.remove(uid);
        if set.is_empty() {
            dependents.remove(owner);
        }
    }
}

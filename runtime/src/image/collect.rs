//! The store's side of garbage collection and of pull credentials: who needs, pinned, used and may use which image.
//!
//! ```text
//!  candidates ─▶ gc::choose [p] ─▶ collect (looks once more, under the lock)
//! ```
//! What is known here outlives the agent: last uses, pins, and who needed what when the agent last looked. Not for:
//! deciding (`gc.rs`), knowing pods.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Images, StoreError, Verification,
    access::may_use,
    digest::Digest,
    disk::{self, Flush, read_all, read_json, remove_file, write_json},
    gc::{Candidate, Choice, Usage},
    keyring::Keyring,
    reference::{self, Reference},
};

/// Images that something keeps here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// A file, or a word of the user.
    pub by: String,
    /// Image IDs.
    pub images: Vec<String>,
    /// What the file was like, where it is one, so that it need not be read again.
    #[serde(default)]
    pub stamp: String,
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Images that are gone.
    pub removed: Vec<Candidate>,
    /// Bytes that the disk has more now; other writers count against it.
    pub freed: u64,
    /// Images that could not be removed, by ID.
    pub failures: Vec<(String, StoreError)>,
}

impl Images {
    /// Whether a pod with these credentials may use what is here under a reference, without a pull.
    pub fn allowed(
        &self,
        reference: &str,
        credentials: &Keyring,
        verification: &Verification,
    ) -> Result<bool, StoreError> {
        let Some(image) = self.get(reference)? else { return Ok(true) };
        let repository = match reference::image_id(reference) {
            Some(_) => None,
            None => Some(self.parse(reference)?.name()),
        };
        let shown = repository.as_ref().map(|name| credentials.lookup(name)).unwrap_or_default();
        let record = match Digest::parse(&image.id) {
            Ok(id) => self.store.access(&id)?,
            Err(_) => None,
        };
        Ok(may_use(verification, record.as_ref(), repository.as_deref(), &shown))
    }

    /// Replaces what a pin keeps.
    pub fn pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let _lock = self.store.lock()?;
        write_json(&self.pin_path(&pin.by), pin, Flush::Yes)
    }

    /// Ends a pin; the images stay until they are collected.
    pub fn unpin(&self, by: &str) -> Result<(), StoreError> {
        let _lock = self.store.lock()?;
        remove_file(&self.pin_path(by))
    }

    /// All pins.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let _lock = self.store.lock_shared()?;
        read_all(&self.store.root.join("pins"))
    }

    /// Remembers who needs which image (by reference or ID), for commands and for a start without API server.
    pub fn set_needed(&self, needed: &BTreeMap<String, String>) -> Result<(), StoreError> {
        let _lock = self.store.lock()?;
        write_json(&self.store.root.join("needed.json"), needed, Flush::No)
    }

    /// What was remembered so. Nothing, where nothing or nothing readable is there.
    pub fn needed(&self) -> BTreeMap<String, String> {
        read_json(&self.store.root.join("needed.json")).ok().flatten().unwrap_or_default()
    }

    /// The disk that holds the images.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let root = &self.store.root;
        let found = rustix::fs::statvfs(root).map_err(disk::io("look at the file system of", root))?;
        Ok(Usage {
            capacity: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }

    /// What all of the store takes on the disk: layers, blobs, records, work in progress. Layers do not change: each is looked
    /// through once.
    pub fn stored(&self) -> Result<crate::Usage, StoreError> {
        let root = &self.store.root;
        let layers = root.join("layers");
        let names = disk::names(&layers)?;
        let mut known = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| names.contains(name));
        for name in names {
            known.entry(name).or_insert_with_key(|name| crate::Usage::of(&layers.join(name)));
        }
        let others = disk::names(root)?.into_iter().filter(|name| name != "layers");
        let others = others.map(|name| crate::Usage::of(&root.join(name)));
        let alone =
            |path: &Path| Ok(crate::Usage::from(&path.metadata().map_err(disk::io("look at", path))?));
        let around = alone(root)? + alone(&layers)?;
        Ok(known.values().copied().chain(others).chain([around]).sum())
    }

    /// All images with everything that speaks for or against them; marks as used what is needed now.
    pub fn candidates(
        &self,
        needed: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Vec<Candidate>, StoreError> {
        let _lock = self.store.lock()?;
        let names = self.names()?;
        let holders = self.holders()?;
        let mut pinned: BTreeMap<String, String> = BTreeMap::new();
        for Pin { by, images, .. } in read_all(&self.store.root.join("pins"))? {
            pinned.extend(images.into_iter().map(|id| (id, by.clone())));
        }
        let mut wanted: BTreeMap<String, &String> = BTreeMap::new();
        for (reference, by) in needed {
            wanted.insert(normalized(reference), by);
        }
        let mut found = Vec::new();
        for record in self.store.images()? {
            let id = record.id.to_string();
            let all: Vec<String> = names.get(&record.id).into_iter().flatten().cloned().collect();
            let by_name = all.iter().chain([&id]).find_map(|name| wanted.get(name).map(|by| (*by).clone()));
            let needed_by =
                by_name.or_else(|| holders.get(&record.id).map(|user| format!("container {user}")));
            if needed_by.is_some() {
                self.touch(&record.id, now)?;
            }
            found.push(Candidate {
                names: all,
                bytes: record.size,
                since: modified(&self.store.image_path(&record.id))?.unwrap_or(now),
                used: modified(&self.store.used_path(&record.id))?,
                needed_by,
                pinned_by: pinned.get(&id).cloned(),
                id,
            });
        }
        Ok(found)
    }

    /// Removes what was chosen, apart from what a container has begun to use since; carries on after failures.
    pub fn collect(&self, choice: &Choice) -> Collected {
        let before = self.usage().map(|usage| usage.available).unwrap_or_default();
        let mut collected = Collected::default();
        for (image, _) in &choice.remove {
            match self.remove_unheld(&image.id) {
                Ok(true) => collected.removed.push(image.clone()),
                Ok(false) => {}
                Err(error) => collected.failures.push((image.id.clone(), error)),
            }
        }
        let after = self.usage().map(|usage| usage.available).unwrap_or_default();
        collected.freed = after.saturating_sub(before);
        collected
    }

    fn remove_unheld(&self, id: &str) -> Result<bool, StoreError> {
        let Ok(id) = Digest::parse(id) else { return Ok(false) };
        let lock = self.store.lock()?;
        if self.holders()?.contains_key(&id) || self.store.image(&id)?.is_none() {
            return Ok(false);
        }
        for name in self.names()?.get(&id).into_iter().flatten() {
            self.store.remove_ref(&lock, name)?;
        }
        self.store.remove_image(&lock, &id)?;
        self.store.sweep(lock)?;
        Ok(true)
    }

    /// Images that containers hold, dead ones too, with one container each.
    fn holders(&self) -> Result<BTreeMap<Digest, String>, StoreError> {
        let holds = self.store.holds()?;
        let images = holds.into_iter().flat_map(|hold| {
            let all = hold.image.into_iter().chain(hold.others);
            all.map(move |image| (image, hold.user.clone()))
        });
        Ok(images.collect())
    }

    fn touch(&self, id: &Digest, at: Timestamp) -> Result<(), StoreError> {
        let path = self.store.used_path(id);
        let touched = File::create(&path).and_then(|file| file.set_modified(SystemTime::from(at)));
        touched.map_err(disk::io("mark as used", &path))
    }

    fn pin_path(&self, by: &str) -> std::path::PathBuf {
        self.store.root.join("pins").join(format!("{}.json", Digest::of(by.as_bytes()).hex()))
    }
}

/// The key under which the store has a reference; what is no reference stays as it is.
fn normalized(text: &str) -> String {
    match reference::image_id(text) {
        Some(id) => id.to_string(),
        None => Reference::parse(text).map_or_else(|_| text.to_owned(), |reference| reference.key()),
    }
}

/// A time before 1970 or one that cannot be told counts as the beginning.
fn modified(path: &std::path::Path) -> Result<Option<Timestamp>, StoreError> {
    match fs::metadata(path).and_then(|found| found.modified()) {
        Ok(at) => {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            Ok(Some(Timestamp::try_from(SystemTime::UNIX_EPOCH + since).unwrap_or(Timestamp::UNIX_EPOCH)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::io("look at", path)(error)),
    }
}

//! What is left of a store whose files were cut, zeroed or flipped: a prefix of what was acknowledged, or one clear
//! error. Never a panic, never something that was not written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use orlop_apiserver::store::fjall::FjallEngine;
use orlop_apiserver::store::{Change, Expect, Options, Store, Write};

type Contents = BTreeMap<String, String>;

/// A small generator: the same cuts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

fn open(dir: &Path) -> Result<Store, String> {
    let engine = FjallEngine::open(dir).map_err(|e| e.chain())?;
    Store::open(Box::new(engine), Options::default()).map_err(|e| e.chain())
}

fn contents(store: &Store) -> Contents {
    let list = store.list("").1;
    list.iter().map(|o| (o.key.to_string(), String::from_utf8_lossy(&o.value).into_owned())).collect()
}

async fn write(store: &Store, key: &str, text: String) {
    let expect = store.get(key).map_or(Expect::Absent, |o| Expect::Revision(o.revision));
    let change = Change::Put(Box::new(move |revision| format!("{revision}:{text}").into_bytes()));
    store.write(Write { key: key.into(), expect, durable: true, change }).await.unwrap();
}

/// A store with a history: every state that was acknowledged, in order.
async fn history(dir: &Path) -> Vec<Contents> {
    let store = open(dir).unwrap();
    let mut states = vec![Contents::new()];
    let mut random = Random(1);
    for i in 0..60_u64 {
        let key = format!("k{}", random.below(12));
        match store.get(&key).filter(|_| i % 5 == 4) {
            Some(object) => {
                let change = Change::Delete(Box::new(|_| Vec::new()));
                let expect = Expect::Revision(object.revision);
                store.write(Write { key, expect, durable: true, change }).await.unwrap();
            }
            None => write(&store, &key, "x".repeat(usize::try_from(random.below(900)).unwrap())).await,
        }
        states.push(contents(&store));
    }
    states
}

/// What a crash leaves of a live directory: each file's bytes up to its last non-zero one, and its length. The
/// journal is preallocated, so most of it is zeros.
struct Image(BTreeMap<PathBuf, (Vec<u8>, u64)>);

impl Image {
    fn take(live: &Path) -> Self {
        let read = |path: PathBuf| {
            let mut bytes = fs::read(&path).unwrap();
            let length = bytes.len() as u64;
            // Whole blocks first: these tests are not optimized.
            while bytes.len() > 4096 && bytes[bytes.len() - 4096..] == [0; 4096] {
                bytes.truncate(bytes.len() - 4096);
            }
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
            (path.strip_prefix(live).unwrap().to_owned(), (bytes, length))
        };
        Self(files(live).into_iter().map(read).collect())
    }

    fn write(&self, to: &Path) {
        for (path, (bytes, length)) in &self.0 {
            let path = to.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = fs::File::create(path).unwrap();
            file.write_all(bytes).unwrap();
            file.set_len(*length).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut(u64),
    ZeroFrom(u64),
    Flip(u64),
}

fn damage(path: &Path, damage: Damage) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    match damage {
        Damage::Cut(at) => file.set_len(at.min(length)).unwrap(),
        Damage::ZeroFrom(at) => {
            file.set_len(at.min(length)).unwrap();
            file.set_len(length).unwrap();
        }
        Damage::Flip(at) => {
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ 0x41]).unwrap();
        }
    }
}

/// Opens the damaged copy: `Some(number of states kept)`, or the error's text.
fn outcome(dir: &Path, states: &[Contents]) -> Result<usize, String> {
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| open(dir).map(|store| contents(&store))));
    let found = opened.unwrap_or_else(|_| panic!("opening {} panicked", dir.display()))?;
    let kept = states.iter().rposition(|state| *state == found);
    Ok(kept.unwrap_or_else(|| panic!("{found:?} was never acknowledged")))
}

#[derive(Debug)]
struct Outcomes {
    prefixes: usize,
    /// How many states the worst prefix lacked.
    lost: usize,
    errors: Vec<String>,
}

async fn every_damage(pick: impl Fn(&Path) -> bool, count: u64, seed: u64) -> Outcomes {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let states = history(&live).await;
    let image = Image::take(&live);
    let victims: Vec<_> =
        image.0.iter().filter(|(path, (bytes, _))| pick(path) && !bytes.is_empty()).collect();
    assert!(!victims.is_empty());
    let mut random = Random(seed);
    let (mut prefixes, mut shortest, mut errors) = (0, states.len() - 1, Vec::new());
    for round in 0..count {
        let (victim, (bytes, _)) = victims[usize::try_from(random.below(victims.len() as u64)).unwrap()];
        let at = random.below(bytes.len() as u64);
        let what =
            [Damage::Cut(at), Damage::ZeroFrom(at), Damage::Flip(at)][usize::try_from(round % 3).unwrap()];
        let copied = dir.path().join(format!("damaged-{round}"));
        image.write(&copied);
        damage(&copied.join(victim), what);
        match outcome(&copied, &states) {
            Ok(kept) => {
                prefixes += 1;
                shortest = shortest.min(kept);
            }
            Err(text) => {
                assert!(text.contains(&copied.display().to_string()), "names the place: {text}");
                errors.push(text);
            }
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    Outcomes { prefixes, lost: states.len() - 1 - shortest, errors }
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "jnl")
}

#[tokio::test]
async fn an_untouched_image_holds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (live, image) = (dir.path().join("live"), dir.path().join("image"));
    let states = history(&live).await;
    Image::take(&live).write(&image);
    assert_eq!(outcome(&image, &states), Ok(states.len() - 1));
}

#[tokio::test]
async fn a_damaged_journal_leaves_a_prefix() {
    let Outcomes { prefixes, errors, .. } = every_damage(is_journal, 120, 7).await;
    assert!(prefixes > 60, "{prefixes} prefixes, {errors:?}");
}

#[tokio::test]
async fn damage_anywhere_else_is_an_error_or_harmless() {
    let Outcomes { lost, errors, .. } = every_damage(|path| !is_journal(path), 120, 9).await;
    assert_eq!(lost, 0, "states lost without a word; {errors:?}");
}

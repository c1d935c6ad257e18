//! The file behind the allocator: an append-only log of [`Record`]s, rewritten when it is mostly history.
//!
//! A line is appended before the kernel is touched, and made durable before the address is used. A last line
//! that was cut (kill, power loss) never took effect and is dropped; damage anywhere else is an error, for
//! guessing could give an address twice. The file is locked while it is open.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use orlop_model::net::IpNet;

use super::{Allocator, Assigned, IpamError, Owner, record::Record};

/// Lines of history that are tolerated beyond twice the live ones.
const SLACK: usize = 512;

/// Allocator and log in step.
#[derive(Debug)]
pub(crate) struct Ledger {
    allocator: Allocator,
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    lines: usize,
    // Held for its lock; the log itself is replaced when it is rewritten.
    _lock: File,
}

impl Ledger {
    /// Opens or creates the ledger in `dir` and replays it. Waits for as long as `patience` while another process
    /// has it.
    pub(crate) fn open(dir: &Path, ranges: &[IpNet], patience: Duration) -> Result<Self, IpamError> {
        let path = dir.join("addresses");
        let fault = |what| {
            let path = path.clone();
            move |source| IpamError::File { what, path, source }
        };
        fs::create_dir_all(dir).map_err(fault("create directory of"))?;
        let lock = lock(&dir.join("addresses.lock"), patience)?;
        let mut file = open_log(&path).map_err(fault("open"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fault("read"))?;
        let replayed =
            replay(&text, ranges).map_err(|line| IpamError::Damaged { path: path.clone(), line })?;
        file.set_len(replayed.length).map_err(fault("trim"))?;
        let Replayed { allocator, length, lines } = replayed;
        let mut ledger =
            Self { allocator, path: path.clone(), file: Arc::new(file), length, lines, _lock: lock };
        if ledger.mostly_history() {
            ledger.rewrite().map_err(fault("rewrite"))?;
        }
        Ok(ledger)
    }

    /// The owner's addresses, those that are wished for among them; see [`Allocator::assign`]. Durable once
    /// [`Ledger::log`] has been synced.
    pub(crate) fn assign(&mut self, owner: &Owner, wishes: &[IpAddr]) -> Result<Assigned, IpamError> {
        let assigned = self.allocator.assign(owner, wishes)?;
        if !assigned.new && self.allocator.owner(&owner.uid) != Some(owner) {
            self.append(&Record::Assign(assigned.addresses.clone(), owner.clone()))?;
            self.allocator.insert(assigned.addresses.clone(), owner.clone());
        }
        if assigned.new
            && let Err(error) = self.append(&Record::Assign(assigned.addresses.clone(), owner.clone()))
        {
            self.allocator.release(&owner.uid);
            return Err(error);
        }
        Ok(assigned)
    }

    /// Takes over an assignment found in the kernel. False when it contradicts another one.
    pub(crate) fn adopt(&mut self, addresses: Vec<IpAddr>, owner: Owner) -> Result<bool, IpamError> {
        if !self.allocator.insert(addresses.clone(), owner.clone()) {
            return Ok(false);
        }
        self.append(&Record::Assign(addresses, owner)).map(|()| true)
    }

    /// Frees the pod's addresses. Not synced: a release that is lost is made again.
    pub(crate) fn release(&mut self, uid: &str) -> Result<(), IpamError> {
        if self.allocator.addresses(uid).is_none() {
            return Ok(());
        }
        self.append(&Record::Release(uid.to_owned()))?;
        self.allocator.release(uid);
        if self.mostly_history() {
            self.rewrite().map_err(|source| self.fault("rewrite", source))?;
        }
        Ok(())
    }

    /// The log, to be synced without holding the ledger.
    pub(crate) fn log(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Who has what.
    pub(crate) fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// An error about this ledger's file.
    pub(crate) fn fault(&self, what: &'static str, source: io::Error) -> IpamError {
        IpamError::File { what, path: self.path.clone(), source }
    }

    fn append(&mut self, record: &Record) -> Result<(), IpamError> {
        let line = format!("{record}\n");
        let mut file = &*self.file;
        if let Err(source) = file.write_all(line.as_bytes()) {
            // A part of the line may be there; the next one must not be glued to it.
            if let Err(error) = file.set_len(self.length) {
                tracing::warn!(%error, "address ledger: cannot trim a half-written line");
            }
            return Err(self.fault("write", source));
        }
        self.length += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    fn mostly_history(&self) -> bool {
        self.lines > 2 * self.allocator.len() + SLACK
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let live = self.allocator.assignments();
        let records = live.map(|(addresses, owner)| Record::Assign(addresses.to_vec(), owner.clone()));
        let (cursors, rests) =
            (self.allocator.last().map(Record::Cursor), self.allocator.resting().map(Record::Rest));
        let records: Vec<_> = records.chain(cursors).chain(rests).collect();
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = Arc::new(open_log(&self.path)?);
        self.length = text.len() as u64;
        self.lines = records.len();
        Ok(())
    }
}

struct Replayed {
    allocator: Allocator,
    length: u64,
    lines: usize,
}

/// Rebuilds the allocator; the error is the number of the damaged line.
fn replay(text: &[u8], ranges: &[IpNet]) -> Result<Replayed, usize> {
    let mut replayed = Replayed { allocator: Allocator::new(ranges), length: 0, lines: 0 };
    let mut rest = text.len();
    for line in text.split_inclusive(|b| *b == b'\n') {
        let number = replayed.lines + 1;
        rest -= line.len();
        let record = line.strip_suffix(b"\n").and_then(|l| Record::parse(std::str::from_utf8(l).ok()?));
        match record {
            Some(record) => apply(&mut replayed.allocator, record).ok_or(number)?,
            None if rest == 0 => break,
            None => return Err(number),
        }
        replayed.length += line.len() as u64;
        replayed.lines = number;
    }
    Ok(replayed)
}

fn apply(allocator: &mut Allocator, record: Record) -> Option<()> {
    match record {
        Record::Assign(addresses, owner) => allocator.insert(addresses, owner).then_some(()),
        Record::Release(uid) => allocator.release(&uid).map(drop),
        Record::Cursor(address) => {
            allocator.resume_after(address);
            Some(())
        }
        Record::Rest(address) => {
            allocator.rest(address);
            Some(())
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// Who waits does so in the kernel, in a queue: of many that look again and again, some never see it free.
fn lock(path: &Path, patience: Duration) -> Result<File, IpamError> {
    let fault = |source| IpamError::File { what: "lock", path: path.to_owned(), source };
    let file = File::create(path).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::Error(source)) => return Err(fault(source)),
        Err(TryLockError::WouldBlock) => {}
    }
    let (locked, waiting) = mpsc::channel();
    // Nobody may be waiting any more by then; the file is closed with it.
    let wait = move || locked.send(file.lock().map(|()| file));
    thread::Builder::new().name("ledger".into()).spawn(wait).map_err(fault)?;
    match waiting.recv_timeout(patience) {
        Ok(locked) => locked.map_err(fault),
        Err(_) => Err(IpamError::Locked { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    fn owner(uid: impl ToString) -> Owner {
        Owner { uid: uid.to_string(), pod: "default/p".into(), netns: None }
    }

    /// Another test of this process that starts a program has a copy of the lock for a moment.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn open(dir: &TempDir) -> Result<Ledger, IpamError> {
        Ledger::open(dir.path(), &["10.0.0.0/24".parse().unwrap()], PATIENCE)
    }

    fn held(ledger: &Ledger) -> Vec<(IpAddr, String)> {
        ledger.allocator().assignments().map(|(a, o)| (a[0], o.uid.clone())).collect()
    }

    #[test]
    fn assignments_and_position_survive_a_restart() {
        let dir = TempDir::new().unwrap();
        let mut ledger = open(&dir).unwrap();
        ledger.assign(&owner("a"), &[]).unwrap();
        ledger.assign(&owner("b"), &[]).unwrap();
        ledger.release("b").unwrap();
        drop(ledger);
        let mut ledger = open(&dir).unwrap();
        assert_eq!(held(&ledger), [([10, 0, 0, 2].into(), "a".into())]);
        assert_eq!(ledger.assign(&owner("c"), &[]).unwrap().addresses, [IpAddr::from([10, 0, 0, 4])]);
    }

    #[test]
    fn both_families_and_the_way_to_the_pod_survive_a_restart_and_a_rewrite() {
        let dir = TempDir::new().unwrap();
        let ranges = orlop_model::net::one_per_family("10.0.0.0/24,fd00::/64").unwrap();
        let open = || Ledger::open(dir.path(), &ranges, PATIENCE).unwrap();
        let at = |uid: &str, netns: &str| Owner { netns: Some(netns.into()), ..owner(uid) };
        let mut ledger = open();
        let first = ledger.assign(&at("a", "/run/netns/a"), &[]).unwrap().addresses;
        assert!(!ledger.assign(&at("a", "/run/netns/b"), &[]).unwrap().new);
        let mut ledger = {
            drop(ledger);
            open()
        };
        ledger.rewrite().unwrap();
        drop(ledger);
        let mut ledger = open();
        assert_eq!(
            ledger.allocator().assignments().collect::<Vec<_>>(),
            [(&first[..], &at("a", "/run/netns/b"))]
        );
        let second = ledger.assign(&owner("b"), &[]).unwrap().addresses;
        assert_eq!(second, ["10.0.0.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = TempDir::new().unwrap();
        let _first = open(&dir).unwrap();
        let again = Ledger::open(dir.path(), &["10.0.0.0/24".parse().unwrap()], Duration::ZERO);
        assert!(matches!(again, Err(IpamError::Locked { .. })));
    }

    #[test]
    fn damage_before_the_last_line_is_named_not_guessed_around() {
        let dir = TempDir::new().unwrap();
        let mut ledger = open(&dir).unwrap();
        for uid in ["a", "b", "c"] {
            ledger.assign(&owner(uid), &[]).unwrap();
        }
        let path = ledger.path.clone();
        drop(ledger);
        let text = fs::read_to_string(&path).unwrap().replace("10.0.0.3", "10.0.0.9");
        fs::write(&path, text).unwrap();
        assert!(matches!(open(&dir), Err(IpamError::Damaged { line: 2, .. })));
    }

    #[test]
    fn history_is_dropped_and_the_position_kept() {
        let dir = TempDir::new().unwrap();
        let mut ledger = open(&dir).unwrap();
        ledger.assign(&owner("stays"), &[]).unwrap();
        for round in 0..SLACK {
            ledger.assign(&owner(round), &[]).unwrap();
            ledger.release(&round.to_string()).unwrap();
        }
        let last = ledger.allocator().last().max();
        drop(ledger);
        let mut ledger = open(&dir).unwrap();
        assert!(ledger.lines < SLACK + 4, "{} lines", ledger.lines);
        assert_eq!(held(&ledger), [([10, 0, 0, 2].into(), "stays".into())]);
        assert!(Some(ledger.assign(&owner("next"), &[]).unwrap().addresses[0]) > last);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_log_cut_at_any_byte_holds_a_prefix_of_the_history(cut in 0usize..400) {
            let dir = TempDir::new().unwrap();
            let mut ledger = open(&dir).unwrap();
            let mut history = vec![held(&ledger)];
            for step in 0..8 {
                ledger.assign(&owner(step), &[]).unwrap();
                history.push(held(&ledger));
                if step % 3 == 0 {
                    ledger.release(&step.to_string()).unwrap();
                    history.push(held(&ledger));
                }
            }
            let path = ledger.path.clone();
            drop(ledger);
            let text = fs::read(&path).unwrap();
            fs::write(&path, &text[..cut.min(text.len())]).unwrap();
            let mut ledger = open(&dir).unwrap();
            prop_assert!(history.contains(&held(&ledger)));
            ledger.assign(&owner("after"), &[]).unwrap();
            let after = held(&ledger);
            drop(ledger);
            prop_assert_eq!(held(&open(&dir).unwrap()), after);
        }
    }
}

//! What the numbers of NetworkPolicies in the kernel's maps stand for, in a file beside them: for commands that ask
//! neither the agent nor an API server.
//!
//! ```text
//!  dataplane's status ─▶ keep ─▶ <run>/policies.json (0600) ─▶ read ─▶ orlop policies, orlop explain
//! ```
//! Numbers are hashes of what they stand for: a file that is a moment old says less, and never anything wrong. Not for:
//! metrics (the agent knows the names).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use orlop_dataplane::{
    Status,
    policy::{
        model::{Direction, Key},
        tables::Names,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

const FILE: &str = "policies.json";

/// The file's content; objects are `namespace/name`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    policies: BTreeMap<u32, String>,
    ingress: BTreeMap<u32, BTreeSet<String>>,
    egress: BTreeMap<u32, BTreeSet<String>>,
    pods: BTreeMap<IpAddr, String>,
}

/// Writes the names whenever they change, as long as there is a dataplane.
pub async fn keep(run_dir: PathBuf, mut status: watch::Receiver<Status>) {
    let mut last = None;
    loop {
        let names = status.borrow_and_update().policy_names.clone();
        if last.as_ref() != Some(&names) {
            if let Err(error) = write(&run_dir, &names) {
                tracing::warn!(%error, "write down what policies are called");
            }
            last = Some(names);
        }
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// In place whole or not at all.
fn write(run_dir: &Path, names: &Names) -> io::Result<()> {
    let text = serde_json::to_vec(&Written::of(names))?;
    let tmp = run_dir.join(FILE).with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    io::Write::write_all(&mut file, &text)?;
    fs::rename(&tmp, run_dir.join(FILE))
}

/// The names of a node, none where no agent wrote any.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn read(run_dir: &Path) -> io::Result<Names> {
    match fs::read(run_dir.join(FILE)) {
        Ok(bytes) => Ok(serde_json::from_slice::<Written>(&bytes)?.names()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::default()),
        Err(error) => Err(error),
    }
}

impl Written {
    fn of(names: &Names) -> Self {
        let sets = |way: Direction| {
            let sets = names.sets.iter().filter(move |(_, (of, _))| *of == way);
            sets.map(|(number, (_, keys))| (*number, keys.iter().map(Key::to_string).collect())).collect()
        };
        Self {
            policies: names.policies.iter().map(|(number, key)| (*number, key.to_string())).collect(),
            ingress: sets(Direction::Ingress),
            egress: sets(Direction::Egress),
            pods: names.pods.iter().map(|(ip, key)| (*ip, key.to_string())).collect(),
        }
    }

    fn names(self) -> Names {
        let keys = |texts: BTreeSet<String>| texts.iter().filter_map(|text| key(text)).collect();
        let ways = [(Direction::Ingress, self.ingress), (Direction::Egress, self.egress)];
        let sets = ways
            .into_iter()
            .flat_map(|(way, sets)| sets.into_iter().map(move |(number, texts)| (number, (way, texts))));
        Names {
            policies: self.policies.iter().filter_map(|(number, text)| Some((*number, key(text)?))).collect(),
            sets: sets.map(|(number, (way, texts))| (number, (way, keys(texts)))).collect(),
            pods: self.pods.iter().filter_map(|(ip, text)| Some((*ip, key(text)?))).collect(),
        }
    }
}

fn key(text: &str) -> Option<Key> {
    let (namespace, name) = text.split_once('/')?;
    Some(Key { namespace: namespace.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Names::default());
        let names = Names {
            policies: [(1, key("a/b").unwrap())].into(),
            sets: [
                (7, (Direction::Ingress, [key("a/b").unwrap(), key("a/c").unwrap()].into())),
                (8, (Direction::Egress, BTreeSet::new())),
            ]
            .into(),
            pods: [("fd00::1".parse().unwrap(), key("a/p").unwrap())].into(),
        };
        write(dir.path(), &names).unwrap();
        assert_eq!(read(dir.path()).unwrap(), names);
        fs::write(dir.path().join(FILE), "{").unwrap();
        read(dir.path()).unwrap_err();
    }
}

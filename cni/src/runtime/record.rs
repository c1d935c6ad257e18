//! What was given to which pod, on disk: a file per attachment, in the form of libcni's cache.
//!
//! A record without a result is an attachment that was begun; it is there before the first plugin runs, so that
//! whatever a killed process began is known to the next. Records are written aside, made durable and renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conf::{self, ConfError, List};
use crate::spec;

const KIND: &str = "cniCacheV1";

/// One attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    kind: String,
    /// The pod's uid.
    pub(crate) container_id: String,
    /// The list of plugins, encoded.
    config: String,
    /// Name of its interface.
    pub(crate) if_name: String,
    /// The network's name.
    pub(crate) network_name: String,
    /// The namespace's path.
    #[serde(default)]
    pub(crate) netns: PathBuf,
    /// `CNI_ARGS`.
    #[serde(default)]
    pub(crate) cni_args: Vec<(String, String)>,
    /// What the pod wished.
    #[serde(default)]
    pub(crate) capability_args: Map<String, Value>,
    /// What the chain gave, once it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    /// Ours: which namespace is meant, for paths come again.
    #[serde(default)]
    pub(crate) netns_identity: String,
    /// Ours: the version that was spoken.
    #[serde(default)]
    pub(crate) cni_version: String,
}

impl Record {
    /// An attachment by these plugins that is about to begin.
    pub(crate) fn new(list: &List, uid: &str, interface: &str) -> Self {
        Self {
            kind: KIND.to_owned(),
            container_id: uid.to_owned(),
            config: BASE64_STANDARD.encode(&list.text),
            if_name: interface.to_owned(),
            network_name: list.name.clone(),
            netns: PathBuf::new(),
            cni_args: Vec::new(),
            capability_args: Map::new(),
            result: None,
            netns_identity: String::new(),
            cni_version: String::new(),
        }
    }

    /// The plugins that made it.
    pub(crate) fn list(&self) -> Result<List, ConfError> {
        let text =
            BASE64_STANDARD.decode(&self.config).map_err(|error| ConfError::Form(error.to_string()))?;
        conf::parse(Path::new("cached.conflist"), &text)
    }

    /// The pod's addresses; none before it is done.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let result = self.result.as_ref().and_then(|result| spec::pod_result(result, &self.if_name).ok());
        result.map(|result| result.addresses).unwrap_or_default()
    }

    fn file_name(&self) -> String {
        format!("{}-{}-{}", self.network_name, self.container_id, self.if_name)
    }
}

/// The directory of all records.
#[derive(Clone, Debug)]
pub(crate) struct Store(PathBuf);

impl Store {
    /// Makes the directory, and removes what a killed process did not come to rename. It is for one process at a time.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("results");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self(dir))
    }

    /// All records; what cannot be read is told and left alone.
    pub(crate) fn all(&self) -> io::Result<Vec<Record>> {
        self.named(|_| true)
    }

    fn named(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !wanted(&name) {
                continue;
            }
            match read(&path) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => tracing::warn!(record = %path.display(), %error, "a CNI result cannot be read"),
            }
        }
        records.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        Ok(records)
    }

    /// The records of a pod: one, or one more where the network was changed at the wrong moment.
    pub(crate) fn of(&self, uid: &str, interface: &str) -> io::Result<Vec<Record>> {
        let ours = |record: &Record| record.container_id == uid && record.if_name == interface;
        // The network's name may end like a uid: the name of the file only spares reading most of them.
        let end = format!("-{uid}-{interface}");
        Ok(self.named(|name| name.ends_with(&end))?.into_iter().filter(ours).collect())
    }

    /// Writes a record; it is durable when this returns.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let name = record.file_name();
        let aside = self.0.join(format!(".{name}"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&aside, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// Removes a record. One that is gone is fine.
    pub(crate) fn remove(&self, record: &Record) -> io::Result<()> {
        match fs::remove_file(self.0.join(record.file_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// `None` if it went away meanwhile.
fn read(path: &Path) -> io::Result<Option<Record>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let record: Record = serde_json::from_slice(&text)?;
    match record.kind == KIND {
        true => Ok(Some(record)),
        false => Err(io::Error::other(format!("its kind is {:?}", record.kind))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    fn record(uid: &str) -> Record {
        let text = br#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;
        let list = conf::parse("a.conflist".as_ref(), text).unwrap();
        Record::new(&list, uid, "eth0")
    }

    #[test]
    fn records_read_back_and_are_nobody_elses_to_read() {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut first = record("c1");
        store.write(&first).unwrap();
        store.write(&record("c2")).unwrap();
        assert_eq!(store.of("c1", "eth0").unwrap(), [first.clone()]);
        first.result = Some(json!({"ips": [{"address": "10.0.0.2/24"}]}));
        store.write(&first).unwrap();
        let found = store.of("c1", "eth0").unwrap();
        assert_eq!(found[0].addresses(), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(found[0].list().unwrap().plugins[0].kind, "bridge");
        let mode = |path: &str| dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("results"), mode("results/n-c1-eth0")), (0o700, 0o600));
        store.remove(&first).unwrap();
        store.remove(&first).unwrap();
        assert_eq!(store.all().unwrap(), [record("c2")]);
    }

    #[test]
    fn libcnis_own_record_is_read_and_what_is_none_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let results = dir.path().join("results");
        let config = BASE64_STANDARD.encode(r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#);
        let theirs = json!({"kind": "cniCacheV1", "containerId": "c9", "config": config, "ifName": "eth0",
            "networkName": "n", "cniArgs": [["IgnoreUnknown", "1"]], "capabilityArgs": {"portMappings": []},
            "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/24"}]}});
        fs::write(results.join("n-c9-eth0"), theirs.to_string()).unwrap();
        fs::write(results.join("n-bad-eth0"), "{").unwrap();
        fs::write(results.join(".n-c8-eth0"), "half").unwrap();
        let all = store.all().unwrap();
        assert_eq!((all.len(), all[0].container_id.as_str(), all[0].addresses().len()), (1, "c9", 1));
        Store::open(dir.path()).unwrap();
        assert!(results.join("n-bad-eth0").exists() && !results.join(".n-c8-eth0").exists());
    }
}

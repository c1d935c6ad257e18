//! Where volumes are mounted and the records beside them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Csi,
    words::{self, VolData},
};
use crate::volume::{persistent::write_private, sub_path::detach};

pub(super) const RECORD: &str = "vol_data.json";

/// Paths of one volume for one pod.
pub(super) struct Places {
    /// Handed to the driver.
    pub(super) staging: PathBuf,
    pub(super) staged_record: PathBuf,
    pub(super) target: PathBuf,
    pub(super) record: PathBuf,
}

impl Csi {
    pub(super) fn plugins(&self) -> PathBuf {
        self.state_dir.join("plugins/kubernetes.io/csi")
    }

    pub(super) fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    pub(super) fn places(&self, uid: &str, name: &str, driver: &str, handle: &str, block: bool) -> Places {
        let (plugins, pod) = (self.plugins(), self.pods().join(uid));
        if block {
            let devices = plugins.join("volumeDevices");
            return Places {
                staging: devices.join("staging").join(name),
                staged_record: devices.join(name).join("data").join(RECORD),
                target: devices.join("publish").join(name).join(uid),
                record: pod.join("volumeDevices/kubernetes.io~csi").join(name).join(RECORD),
            };
        }
        let staged = plugins.join(driver).join(words::staged_name(handle));
        let own = pod.join("volumes/kubernetes.io~csi").join(name);
        Places {
            staging: staged.join("globalmount"),
            staged_record: staged.join(RECORD),
            target: own.join("mount"),
            record: own.join(RECORD),
        }
    }
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn keep(record: &Path, data: &VolData) -> Result<(), String> {
    let content = serde_json::to_vec(data).map_err(|error| error.to_string())?;
    write_private(record, &content)
}

/// What cannot be read is as good as not there.
pub(super) fn read(record: &Path) -> Option<VolData> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

pub(super) fn make_dir(path: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.recursive(true).create(path).map_err(|error| format!("make {}: {error}", path.display()))
}

pub(super) fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Removes an empty mount point and the directory with the record. Never what is in a volume: a directory that still
/// holds something is an error.
pub(super) fn clear(target: &Path, dir: &Path) -> Result<(), String> {
    let clear = || -> io::Result<()> {
        detach(target)?;
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => gone(fs::remove_dir(target))?,
            Ok(_) => gone(fs::remove_file(target))?,
            Err(_) => {}
        }
        gone(fs::remove_file(dir.join(RECORD)))?;
        gone(fs::remove_file(dir.join("vol_data.new")))?;
        gone(fs::remove_dir(dir))
    };
    clear().map_err(|error| format!("remove {}: {error}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("x").join(RECORD);
        assert!(read(&record).is_none());
        let data = VolData {
            spec_vol_id: "pv".into(),
            volume_handle: "h".into(),
            driver_name: "d".into(),
            node_name: "n".into(),
            attachment_id: String::new(),
            volume_lifecycle_mode: String::new(),
        };
        keep(&record, &data).unwrap();
        assert_eq!(read(&record), Some(data));
        fs::write(&record, "{\"volumeHandle\": ").unwrap();
        assert!(read(&record).is_none());
        // Data that is in the way stays.
        let target = record.with_file_name("mount");
        fs::create_dir_all(target.join("precious")).unwrap();
        clear(&target, record.parent().unwrap()).unwrap_err();
        assert!(target.join("precious").exists());
        fs::remove_dir(target.join("precious")).unwrap();
        clear(&target, record.parent().unwrap()).unwrap();
        assert!(!record.parent().unwrap().exists());
    }
}

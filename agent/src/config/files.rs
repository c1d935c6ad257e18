//! Files with settings: which are read, and what wins over what.
//!
//! ```text
//!  flags and environment  >  the program's own file  >  KubeletConfiguration, later drop-ins first  >  defaults
//! ```
//! Not for: what a value may be (the other files here, `kubelet` for what only the kubelet's own configuration says).

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    Config, ConfigError,
    kubelet::{self, Document, Said},
};
use crate::{
    args::{Flags, ModeArgs},
    pod::resources,
};

impl Config {
    /// Reads the files, if any are named, and checks everything.
    ///
    /// # Errors
    /// The first value that cannot be used, with the flag's name, or with file and field.
    pub fn load(args: ModeArgs) -> Result<Self, ConfigError> {
        let (mut file, mut documents) = (Flags::default(), Vec::new());
        for document in args.config.as_deref().map(read_documents).transpose()?.unwrap_or_default() {
            if kubelet::is_one(&document.value) {
                documents.push(document);
            } else {
                let path = document.file;
                let more = serde_json::from_value(document.value);
                file = Flags::or(more.map_err(|source| ConfigError::Flags { path, source })?, file);
            }
        }
        for path in args.config_dir.as_deref().map(drop_ins).transpose()?.unwrap_or_default() {
            // Whatever they are: what is no part of the kubelet's configuration is an error there.
            documents.extend(read_documents(&path)?);
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let said = kubelet::read(&documents, cores).map_err(ConfigError::Kubelet)?;
        let Said { kubelet, flags, notes } = said;
        let mut config = Self::try_from(args.flags.or(file).or(flags))?;
        if !kubelet.reserved_cpus.is_empty() {
            // These are kept, whatever is said of amounts.
            config.resources.reserved.cpu_milli =
                i64::try_from(kubelet.reserved_cpus.len()).unwrap_or(i64::MAX / 1000) * 1000;
        }
        config.resources.static_cpus = kubelet.static_cpus.is_some();
        if config.resources.static_cpus && config.resources.reserved.cpu_milli == 0 {
            let reason = "the static CPU manager policy needs processors that are kept (reservedSystemCPUs, or cpu of \
                          systemReserved or kubeReserved)";
            return Err(ConfigError::Missing { flag: "system-reserved", reason: reason.to_owned() });
        }
        config.resources.cfs_period_us = kubelet
            .cfs_quota
            .then(|| u64::try_from(kubelet.cfs_period.as_micros()).unwrap_or(resources::PERIOD_US));
        config.resources.throttling = kubelet.throttling;
        config.resources.seccomp_unconfined = !kubelet.seccomp_default;
        config.resources.longest_restart = kubelet.longest_restart;
        config.static_pod_path = config.static_pod_path.or_else(|| kubelet.static_pods.clone());
        config.kubelet = kubelet;
        if let Some(hard) = config.eviction_hard.take() {
            config.kubelet.eviction.hard = hard;
        }
        config.warnings = notes
            .into_iter()
            .map(|(file, note)| format!("{}: {} {}", file.display(), note.field, note.text))
            .collect();
        Ok(config)
    }
}

/// The documents of a YAML (or JSON) file; those with nothing in them do not count.
fn read_documents(path: &Path) -> Result<Vec<Document>, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(&text) {
        let value = Value::deserialize(document)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        if !value.is_null() {
            documents.push(Document { file: path.to_owned(), value });
        }
    }
    Ok(documents)
}

/// The files of a directory that count, in the order of their names.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    files.retain(|path| kubelet::is_drop_in(path) && path.is_file());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_kinds_are_read_and_merged() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration";
        let file = write(
            "config.yaml",
            &format!(
                "nodeName: n1\nnodeIp: 10.0.0.1\nshim: /s\nmtu: 1400\nkubeReserved: memory=1Gi\n---\n\
                 {{{head}, maxPods: 5, port: 1, kubeReserved: {{cpu: '1'}}, what: 1}}\n---\n"
            ),
        );
        let drop_ins = dir.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        write("conf.d/20.conf", &format!("{{{head}, port: 3, resolvConf: /r}}"));
        write("conf.d/10.conf", &format!("{{{head}, port: 2}}"));
        write("conf.d/30.conf.bak", "no YAML: [");
        let flags = Flags { max_pods: Some(7), ..Flags::default() };
        let load = || {
            let args = ModeArgs {
                config: Some(file.clone()),
                config_dir: Some(drop_ins.clone()),
                flags: flags.clone(),
            };
            Config::load(args)
        };
        let config = load().unwrap();
        // A flag wins over its field in the program's own file, and that over the kubelet's configuration.
        let shown = (config.max_pods, config.mtu, config.kubelet_port, config.resources.reserved.memory);
        assert_eq!(shown, (7, Some(1400), 3, 1 << 30));
        assert_eq!(config.resources.reserved.cpu_milli, 0);
        assert_eq!(config.kubelet.resolv_conf, Path::new("/r"));
        assert_eq!(config.warnings, [format!("{}: what there is no such field", file.display())]);
        let bad = write("conf.d/40.conf", &format!("{{{head}, cpuCFSQuota: 3}}"));
        assert_eq!(
            load().unwrap_err().to_string(),
            format!("kubelet configuration file {}: cpuCFSQuota 3: must be true or false", bad.display())
        );
        write("conf.d/40.conf", "maxPods: 3");
        let error = load().unwrap_err().to_string();
        assert!(
            error.ends_with("40.conf: apiVersion null: must be kubelet.config.k8s.io/v1beta1"),
            "{error}"
        );
    }

    #[test]
    fn processors_that_are_reserved_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.yaml");
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                    systemReserved: {cpu: 100m, memory: 1Gi}\nreservedSystemCPUs: 0,2-3\n";
        fs::write(&path, text).unwrap();
        let own: Flags = serde_norway::from_str("{nodeName: n1, nodeIp: 10.0.0.1, shim: /s}").unwrap();
        let args = ModeArgs { config: Some(path), config_dir: None, flags: own.clone() };
        let config = Config::load(args).unwrap();
        let reserved = config.resources.reserved;
        assert_eq!((reserved.cpu_milli, reserved.memory), (3000, 1 << 30));
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncpuManagerPolicy: static\n";
        let path = dir.path().join("static.yaml");
        fs::write(&path, text).unwrap();
        let args = |flags| ModeArgs { config: Some(path.clone()), config_dir: None, flags };
        let error = Config::load(args(own.clone())).unwrap_err().to_string();
        assert!(error.starts_with("--system-reserved is needed: the static CPU manager policy"), "{error}");
        let kept = Flags { kube_reserved: Some("cpu=500m".to_owned()), ..own };
        assert!(Config::load(args(kept)).unwrap().resources.static_cpus);
    }

    #[test]
    fn the_flag_wins_over_the_file() {
        let flag = Flags { max_pods: Some(7), ..Flags::default() };
        let file = Flags { max_pods: Some(9), mtu: Some(1400), ..Flags::default() };
        let merged = flag.or(file);
        assert_eq!((merged.max_pods, merged.mtu), (Some(7), Some(1400)));
    }
}

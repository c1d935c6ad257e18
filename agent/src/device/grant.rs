//! What a container gets with its devices: environment, mounts, device nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use orlop_cri_api::device_plugin::ContainerAllocateResponse;
use serde::{Deserialize, Serialize};

use crate::pod::machine::{ContainerSpec, Device, Mount};

/// Label of sandboxes: the [`Grants`] of the pod.
pub const LABEL: &str = "orlop/devices";
/// Beginning of labels of containers: annotations by plugins.
const ANNOTATION: &str = "orlop/annotation/";

/// By name of the container.
pub type Grants = BTreeMap<String, Grant>;

/// What one container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Ids of devices, by resource.
    pub resources: BTreeMap<String, BTreeSet<String>>,
    /// What comes with them, of all plugins together.
    pub extras: Extras,
}

/// What comes with devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the plugins' answer")]
pub struct Extras {
    pub env: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub annotations: BTreeMap<String, String>,
}

/// What a plugin answers.
///
/// # Errors
/// It wants what cannot be done here.
pub fn read(answer: ContainerAllocateResponse) -> Result<Extras, String> {
    let ContainerAllocateResponse { envs, mounts, devices, annotations, cdi_devices } = answer;
    if !cdi_devices.is_empty() {
        let names: Vec<_> = cdi_devices.into_iter().map(|device| device.name).collect();
        return Err(format!("CDI devices are not supported: {}", names.join(", ")));
    }
    let mount = |mount: orlop_cri_api::device_plugin::Mount| Mount {
        source: mount.host_path.into(),
        destination: mount.container_path.into(),
        read_only: mount.read_only,
        ..Mount::default()
    };
    let device = |device: orlop_cri_api::device_plugin::DeviceSpec| Device {
        host_path: device.host_path.into(),
        container_path: device.container_path.into(),
        permissions: device.permissions,
    };
    Ok(Extras {
        env: envs.into_iter().collect(),
        mounts: mounts.into_iter().map(mount).collect(),
        devices: devices.into_iter().map(device).collect(),
        annotations: annotations.into_iter().collect(),
    })
}

impl Extras {
    /// With those of another plugin. What one has said stays.
    pub fn add(&mut self, more: Extras) {
        for (name, value) in more.env {
            self.env.entry(name).or_insert(value);
        }
        for (name, value) in more.annotations {
            self.annotations.entry(name).or_insert(value);
        }
        self.mounts.extend(
            more.mounts
                .into_iter()
                .filter(|mount| !self.mounts.iter().any(|known| known.destination == mount.destination))
                .collect::<Vec<_>>(),
        );
        self.devices.extend(
            more.devices
                .into_iter()
                .filter(|device| {
                    !self.devices.iter().any(|known| known.container_path == device.container_path)
                })
                .collect::<Vec<_>>(),
        );
    }

    /// Into what the runtime is asked for. What the pod itself says of its environment wins.
    pub fn into_spec(self, spec: &mut ContainerSpec) {
        spec.env.splice(0..0, self.env);
        spec.mounts.splice(0..0, self.mounts);
        spec.devices.extend(self.devices);
        let labels = self.annotations.into_iter().map(|(key, value)| (format!("{ANNOTATION}{key}"), value));
        spec.labels.extend(labels);
    }
}

#[cfg(test)]
mod tests {
    use orlop_cri_api::device_plugin::CdiDevice;

    use super::*;

    fn answer(env: &str, path: &str) -> ContainerAllocateResponse {
        ContainerAllocateResponse {
            envs: [("ID".to_owned(), env.to_owned())].into(),
            mounts: vec![orlop_cri_api::device_plugin::Mount {
                container_path: format!("/m{path}"),
                host_path: "/lib".to_owned(),
                read_only: true,
            }],
            devices: vec![orlop_cri_api::device_plugin::DeviceSpec {
                container_path: format!("/dev/{path}"),
                host_path: "/dev/null".to_owned(),
                permissions: "rw".to_owned(),
            }],
            annotations: [("a".to_owned(), env.to_owned())].into(),
            cdi_devices: Vec::new(),
        }
    }

    #[test]
    fn two_plugins_and_the_pod_itself() {
        let mut extras = read(answer("one", "x")).unwrap();
        extras.add(read(answer("two", "x")).unwrap());
        extras.add(read(answer("three", "y")).unwrap());
        let mut spec = ContainerSpec { env: vec![("ID".into(), "own".into())], ..ContainerSpec::default() };
        extras.into_spec(&mut spec);
        // The last of one name counts.
        assert_eq!(spec.env, [("ID".into(), "one".into()), ("ID".into(), "own".into())]);
        let mounts: Vec<_> =
            spec.mounts.iter().map(|m| (m.destination.display().to_string(), m.read_only)).collect();
        assert_eq!(mounts, [("/mx".to_owned(), true), ("/my".to_owned(), true)]);
        let devices: Vec<_> = spec.devices.iter().map(|d| d.container_path.display().to_string()).collect();
        assert_eq!(devices, ["/dev/x", "/dev/y"]);
        assert_eq!(spec.labels["orlop/annotation/a"], "one");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let cdi = |name: &str| CdiDevice { name: name.to_owned() };
        let asked = ContainerAllocateResponse {
            cdi_devices: vec![cdi("v.example/gpu=0"), cdi("v.example/gpu=1")],
            ..ContainerAllocateResponse::default()
        };
        assert_eq!(
            read(asked).unwrap_err(),
            "CDI devices are not supported: v.example/gpu=0, v.example/gpu=1"
        );
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let grant = Grant {
            resources: [("a/b".to_owned(), ["x".to_owned()].into())].into(),
            extras: read(answer("one", "x")).unwrap(),
        };
        let grants = Grants::from([("c".to_owned(), grant)]);
        let text = serde_json::to_string(&grants).unwrap();
        assert_eq!(serde_json::from_str::<Grants>(&text).unwrap(), grants);
        assert_eq!(serde_json::from_str::<Grants>("{\"c\": {}}").unwrap()["c"], Grant::default());
    }
}

//! The node agent: what a kubelet, a container runtime, a CNI plugin and kube-proxy do together.
//!
//! `source` hears what should be, `worker` makes it so pod by pod (deciding in `pod`, a pure module), `status` and
//! `events` say what is. `wire` connects the workers' doors to the real runtime, image store, network and API.
//! `app` puts the parts together for each mode; nothing else builds anything.

pub mod args;
pub mod config;
pub mod cpu;
pub mod credential;
pub mod cri;
pub mod csi;
pub mod device;
pub mod dns;
pub mod events;
pub mod evict;
pub mod exclusive;
pub mod images;
pub mod memory;
pub mod metrics;
pub mod mirror;
pub mod node;
pub mod pod;
pub mod policy_names;
pub mod probe;
pub mod server;
pub mod shutdown;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod topology;
pub mod usage;
pub mod volume;
pub mod watch_dir;
pub mod wire;
pub mod worker;

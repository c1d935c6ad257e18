//! Messages, servers and clients of the gRPC interfaces around a kubelet: the Container Runtime Interface `runtime.v1`, the
//! Container Storage Interface, device plugins, pod resources, the registration of plugins.
//!
//! Made from the files in `proto` whenever this is built; that needs no protoc. `api.proto` is upstream's as a crate
//! carries it (see NOTICE), the others are our own. Not for: anything written by hand.

#![forbid(unsafe_code)]

/// The messages and services of CRI v1, as upstream documents them.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated from upstream's file"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Device plugins, v1beta1.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated"
)]
pub mod device_plugin {
    tonic::include_proto!("v1beta1");
}

/// Pod resources, v1.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated"
)]
pub mod pod_resources {
    tonic::include_proto!("v1");
}

/// What a kubelet calls of a CSI driver, v1.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Registration of plugins, v1.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated"
)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

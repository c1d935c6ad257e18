//! A CSI driver for tests: volumes are directories below one of its own, or files behind loop devices, really mounted.
//!
//! ```text
//! orlop-csi-driver --dir D --kubelet-dir K --name NAME --node-id ID
//!   D/log            one line per call: what, volume, path, what else was said
//!   D/volumes/<id>   what is in the volume
//!   K/plugins/NAME/csi.sock, K/plugins_registry/NAME-reg.sock
//! ```
//! Driver and registrar are two sockets, as they are two programs elsewhere. Not for: anything but tests; a volume is made
//! when it is first asked for.

mod mounts;
mod node;
mod registrar;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_cri_api::{csi::node_server::NodeServer, registration::registration_server::RegistrationServer};
use tokio::net::UnixListener;
use tonic::codegen::Service as _;

use node::Driver;
use registrar::Registrar;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program that says why it ends")]
            {
                eprintln!("orlop-csi-driver: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (mut dir, mut kubelet, mut name, mut node_id) = (None, None, None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--kubelet-dir" => kubelet = Some(PathBuf::from(value()?)),
            "--name" => name = Some(value()?),
            "--node-id" => node_id = Some(value()?),
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    let (dir, kubelet) = (dir.context("--dir")?, kubelet.context("--kubelet-dir")?);
    let (name, node_id) = (name.context("--name")?, node_id.context("--node-id")?);
    fs::create_dir_all(dir.join("volumes")).context("make the directory of the volumes")?;
    let endpoint = kubelet.join("plugins").join(&name).join("csi.sock");
    let announced = kubelet.join("plugins_registry").join(format!("{name}-reg.sock"));
    let driver = NodeServer::new(Driver { dir: dir.clone(), node_id });
    let registrar =
        RegistrationServer::new(Registrar { name, endpoint: endpoint.clone(), log: dir.join("log") });
    let (driver_socket, registrar_socket) = (listen(&endpoint)?, listen(&announced)?);
    let serve_driver = async {
        loop {
            let (stream, _) = driver_socket.accept().await?;
            let driver = driver.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mut driver = driver.clone();
                async move { driver.call(request.map(tonic::body::Body::new)).await }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    };
    let serve_registrar = async {
        loop {
            let (stream, _) = registrar_socket.accept().await?;
            let registrar = registrar.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mut registrar = registrar.clone();
                async move { registrar.call(request.map(tonic::body::Body::new)).await }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = serve_driver => ended,
        ended = serve_registrar => ended,
    };
    ended.context("serve")
}

fn listen(path: &std::path::Path) -> Result<UnixListener> {
    fs::create_dir_all(path.parent().context("a socket without a directory")?)?;
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))
}

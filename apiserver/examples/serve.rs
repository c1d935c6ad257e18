//! Runs the API server alone: `cargo run -p orlop-apiserver --example serve -- [PORT [DIR]]`.

#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use orlop_apiserver::{ApiServer, Config};
use orlop_model::net::IpNet;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().map_or(Ok(6443), |port| port.parse())?;
    let dir = args.next().map_or_else(
        || std::env::temp_dir().join(format!("orlop-apiserver-{}", std::process::id())),
        PathBuf::from,
    );
    let begin = std::time::Instant::now();
    let server = ApiServer::open(Config {
        data_dir: dir.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        advertise_address: Ipv4Addr::LOCALHOST.into(),
        service_cidrs: vec![IpNet::parse("10.96.0.0/16")?],
        names: Vec::new(),
    })
    .await?;
    let took = begin.elapsed();
    let kubeconfig = dir.join("kubeconfig");
    let url = format!("https://{}", server.address());
    std::fs::write(&kubeconfig, server.issue_kubeconfig("admin", &["system:masters".into()], &url)?)?;
    println!("ready after {took:?}; export KUBECONFIG={}", kubeconfig.display());
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            signal.cancel();
        }
    });
    Ok(server.serve(stop).await?)
}

//! Runs the controllers against any API server:
//! `cargo run -p orlop-controllers --example run -- --kubeconfig FILE [--controllers LIST]`.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use orlop_controllers::{Controller, ControllersConfig, run};
use orlop_model::net::PerFamily;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let (mut kubeconfig, mut enabled) = (None, Controller::all());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--kubeconfig" => kubeconfig = Some(value),
            "--controllers" => enabled = Controller::parse_list(value.split(','))?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let kubeconfig = Kubeconfig::read_from(kubeconfig.ok_or("--kubeconfig is missing")?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let ca = config.root_cert.iter().flatten().map(|der| pem(der)).collect();
    let client = Client::try_from(config)?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            signal.cancel();
        }
    });
    let config = ControllersConfig {
        cluster_cidrs: vec!["10.244.0.0/16".parse()?],
        node_cidr_masks: PerFamily { v4: 24, v6: 64 },
        ca_pem: ca,
        enabled,
    };
    run(client, config, stop).await?;
    Ok(())
}

/// A certificate in the text form that files have.
fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

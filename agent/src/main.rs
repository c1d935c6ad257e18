//! The multi-call entry: the CNI plugin by the name it is called by, `orlop create` before any thread exists, what becomes a
//! program of the host, everything else through the arguments.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod app;
mod cli;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use orlop::{
    args::{Cli, Command, ModeArgs},
    config::Config,
    telemetry, wire,
};
use orlop_dataplane::kube_proxy;

fn main() -> ExitCode {
    // The creator forks by raw clone3 and then allocates in the child: it must run with one thread (docs/runtime.md).
    let mut words = std::env::args_os();
    // A plugin is a program of this name in a directory of container runtimes' plugins.
    let called = words.next().unwrap_or_default();
    if Path::new(&called).file_name().is_some_and(|name| name == orlop_cni::plugin::NAME) {
        return orlop_cni::plugin::main();
    }
    let role = words.next().unwrap_or_default();
    if role == "create" {
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        orlop_runtime::create::create_main(&words);
    }
    if role == kube_proxy::ON_HOST {
        return kube_proxy::on_host(words);
    }
    match run(Cli::from_words().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Some libraries repeat the cause in the text of an error.
            eprintln!("orlop: {}", wire::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Standalone(args) => serve(args, app::standalone),
        Command::Node(args) => serve(args, app::node),
        Command::Dataplane(args) => serve(args, app::dataplane),
        Command::Cri(mut args) => {
            // No other node routes to this one through us.
            args.flags.node_ip.get_or_insert_with(|| "127.0.0.1".to_owned());
            serve(args, app::cri)
        }
        Command::Image { command, dirs } => cli::images(command, &dirs),
        Command::Ps { all, dirs } => cli::ps(all, &dirs),
        Command::Exec { stdin, tty, target, command, dirs } => cli::exec(stdin, tty, &target, command, &dirs),
        Command::Attach { stdin, target, dirs } => cli::attach(stdin, &target, &dirs),
        Command::Logs { follow, tail, timestamps, target, dirs } => {
            let part = orlop_runtime::log::Options { tail, timestamps, ..Default::default() };
            cli::logs(follow, &part, &target, &dirs)
        }
        Command::Inspect { pod, dirs } => cli::inspect(&pod, &dirs),
        Command::Trace { pod, dirs } => cli::trace(pod.as_deref(), &dirs),
        Command::Stats(dirs) => cli::stats(&dirs),
        Command::Services(dirs) => cli::services(&dirs),
        Command::Flows { follow: _, filter, dirs } => cli::flows(&filter, &dirs),
        Command::Policies(dirs) => cli::policies(&dirs),
        Command::Connections(dirs) => cli::connections(&dirs),
        Command::Explain { source, destination, protocol, dirs } => {
            cli::explain(source, destination, &protocol, &dirs)
        }
        Command::Kubeconfig(args) => cli::kubeconfig(&args),
        Command::Reset { yes, cgroup_root, dirs } => cli::reset(yes, &cgroup_root, &dirs),
        Command::Version => {
            println!(
                "orlop {} ({}-{})",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::ARCH,
                std::env::consts::OS
            );
            println!("eBPF object: {}", orlop_dataplane::loader::built_in());
            Ok(())
        }
    }
}

/// Runs a long-running mode until SIGTERM or SIGINT.
fn serve<F>(args: ModeArgs, mode: impl FnOnce(Config, tokio_util::sync::CancellationToken) -> F) -> Result<()>
where
    F: Future<Output = Result<app::Ending>>,
{
    let mut config = Config::load(args)?;
    telemetry::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("kubelet configuration file {warning}");
    }
    let open_files = app::allow_open_files(&mut config.rlimits);
    app::tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Work comes in short bursts; more threads than this cost memory and buy nothing on a small machine.
        .worker_threads(2)
        .thread_stack_size(1 << 20)
        // A burst of pods takes dozens of threads for file systems and netlink; their stacks need not outlive it.
        .thread_keep_alive(Duration::from_secs(3))
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let ended = runtime.block_on(async { mode(config, app::stop_signal()?).await })?;
    drop(runtime);
    match ended {
        app::Ending::Stopped => Ok(()),
        app::Ending::Anew => Err(app::begin_anew(open_files)),
    }
}

//! walb-proxy, the program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{logging, open_files, server};
use walb_proxy_server::ProxyServer;
use walb_proxy_server::config::Config;

/// Receives wlogs from storages, turns them into wdiffs and sends those to archives.
#[derive(Parser)]
#[command(
    name = "walb-proxy",
    version,
    after_help = "Example: walb-proxy --config /etc/walb/proxy.toml"
)]
struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "WALB_CONFIG")]
    config: PathBuf,
    /// Log more.
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    logging::init(args.debug);
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("walb-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let lifecycle = Lifecycle::install(Duration::from_secs(config.node.grace_seconds))
            .context("install signal handlers")?;
        // Before anything is touched: a taken port is found first.
        let listener = server::bind(&config.node)
            .await
            .with_context(|| format!("listen on {}", config.node.listen))?;
        let proxy = ProxyServer::open(config, lifecycle.clone()).await?;
        lifecycle.spawn_essential("server", server::serve(proxy.context(), listener, proxy.router()));
        Ok(lifecycle.until_stopped().await)
    })
}

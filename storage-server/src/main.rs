//! `walb-storage`: the daemon on the host that owns the volumes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{chain, logging, open_files, server};
use walb_storage_server::{Config, StorageServer};

/// Follows the logs of this host's WalB devices and sends every write to a proxy; runs full backups.
#[derive(Parser)]
#[command(
    name = "walb-storage",
    version,
    after_help = "Example:\n  walb-storage --config /etc/walb/storage.toml"
)]
struct Args {
    /// The configuration file (TOML).
    #[arg(long, env = "WALB_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Log more.
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    logging::init(args.debug);
    open_files::raise_limit();
    match start(&args) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("walb-storage: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    tokio::runtime::Runtime::new()
        .context("start the runtime")?
        .block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle = Lifecycle::install(std::time::Duration::from_secs(config.node.grace_seconds))?;
    // A taken port is found before any volume is touched.
    let listener = server::bind(&config.node)
        .await
        .with_context(|| format!("listen on {}", config.node.listen))?;
    let storage = StorageServer::open(config, lifecycle.clone()).await?;
    lifecycle.spawn_essential(
        "server",
        server::serve(storage.context(), listener, storage.router()),
    );
    Ok(lifecycle.until_stopped().await)
}

//! walb-archive: order matters here, and that is all this holds.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use walb_archive_server::{ArchiveServer, Config, fsck};
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{logging, open_files, server};

/// Keeps base images and diffs of volumes, and restores any of their snapshots.
#[derive(Parser)]
#[command(version, after_help = "Example: walb-archive --config /etc/walb/archive.toml")]
struct Args {
    /// Configuration file (TOML) with the tables `node`, `node.tls` and `archive`.
    #[arg(
        long,
        env = "WALB_CONFIG",
        global = true,
        default_value = "/etc/walb/archive.toml"
    )]
    config: PathBuf,
    /// Log more.
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Compares the files with the index, tells every contradiction, and rebuilds the index from the files.
    #[command(
        after_help = "Example: walb-archive fsck --config /etc/walb/archive.toml --read\n\nThe daemon must not run."
    )]
    Fsck {
        /// Also read every wdiff through, verifying every record.
        #[arg(long)]
        read: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = run(&args);
    result.unwrap_or_else(|error| {
        eprintln!("walb-archive: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?;
    logging::init(args.debug);
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let code = runtime.block_on(async {
        match args.command {
            None => serve(config).await,
            Some(Command::Fsck { read }) => check(&config, read).await,
        }
    });
    // Blocking file work of streams that were cut must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle =
        Lifecycle::install(Duration::from_secs(config.node.grace_seconds)).context("catch signals")?;
    let address = config.node.listen;
    let listener = server::bind(&config.node)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let archive = ArchiveServer::open(config, lifecycle.clone())
        .await
        .context("open the archive")?;
    tracing::info!(address = %listener.local_addr()?, node = archive.context().node_id(), "walb-archive serves");
    lifecycle.spawn_essential(
        "serve",
        server::serve(archive.context().clone(), listener, archive.router()),
    );
    Ok(lifecycle.until_stopped().await)
}

async fn check(config: &Config, read: bool) -> anyhow::Result<ExitCode> {
    let told = fsck::run(config, read).await.context("check the archive")?;
    let mut text = told.join("\n");
    if !told.is_empty() {
        text.push('\n');
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever closed it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write to stdout");
        }
        _ => {}
    }
    Ok(if told.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

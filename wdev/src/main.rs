//! `walb-wdev`: the daemon of user-space WalB devices.

use std::process::ExitCode;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use walb_wdev::client::default_socket;
use walb_wdev::daemon::{Daemon, bind_control_socket};

/// Runs user-space WalB devices: every write goes to a log device first, where walb-storage picks it up.
///
/// Devices are added with `wdevc create-wdev` and opened again at every start.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  walb-wdev --dir /var/lib/walb/wdev --socket /run/walb/wdev/control.sock"
)]
struct Args {
    /// Where the devices are remembered.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/walb/wdev")]
    dir: Utf8PathBuf,
    /// The control socket [default: $WALB_WDEV_SOCKET or /run/walb/wdev/control.sock].
    #[arg(long, value_name = "PATH")]
    socket: Option<Utf8PathBuf>,
    /// More messages.
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    walb_common::daemon::logging::init(args.debug);
    // A thread of a device that panics holds requests nobody else will answer. Ending the process loses nothing that was
    // acknowledged, and the next start redoes the log.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    if let Err(error) = walb_wdev::fuse::mark_as_io_path() {
        tracing::debug!("not marked as an IO path: {error}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        // A taken socket is found before any device is touched; clients wait in its queue until all devices are open.
        let listener = bind_control_socket(&socket)?;
        let dir = args.dir.clone();
        let daemon = tokio::task::spawn_blocking(move || Daemon::open(&dir))
            .await
            .context("open the devices")??;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tracing::info!(%socket, dir = %args.dir, "ready");
        let server = tokio::spawn(std::sync::Arc::clone(&daemon).serve(listener, stop.clone()));
        let [terminate, interrupt] = &mut signals;
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("signal: stopping");
        stop.cancel();
        // Ends at once: it only accepts.
        let _ = server.await;
        tokio::task::spawn_blocking(move || daemon.stop())
            .await
            .context("stop the devices")?;
        // Leaving the socket file behind would only cost the next start a look at it.
        let _ = std::fs::remove_file(&socket);
        Ok(())
    })
}

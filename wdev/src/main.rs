//! `walb-wdev`: the daemon of user-space WalB devices.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use walb_common::disk::replace_durable;
use walb_common::wire::tls::{TlsContext, TlsFiles};
use walb_wdev::client::default_socket;
use walb_wdev::daemon::{Daemon, LockMemory, Network, bind_control_socket, give_memory_back};
use walb_wdev::nbd::bind_tcp;

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
    /// Serve devices over NBD on this TCP address, inside TLS only, to the guests named for each.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "tls_ca")]
    nbd_listen: Option<SocketAddr>,
    /// Write the bound TCP address to this file: for port 0.
    #[arg(long, value_name = "FILE", requires = "nbd_listen")]
    nbd_address_file: Option<Utf8PathBuf>,
    /// Certificates of the authorities that are trusted (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM). With it clients on unix sockets may use TLS, too.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of our certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_key: Option<PathBuf>,
    /// Which memory of this process is never paged out: short of memory, the kernel may need this process to get some.
    /// With swap on one of its devices it must be "all".
    #[arg(long, value_enum, default_value = "code")]
    lock_memory: LockMemory,
    /// More messages.
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    walb_common::daemon::logging::init(args.debug);
    walb_common::daemon::open_files::raise_limit();
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
    args.lock_memory.at_start();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A taken port or unusable TLS files are found before any device is touched.
fn network(args: &Args) -> anyhow::Result<Network> {
    let tls = match (&args.tls_ca, &args.tls_cert, &args.tls_key) {
        (Some(ca), Some(cert), Some(key)) => Some(TlsContext::load(&TlsFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
        })?),
        _ => None,
    };
    let listener = args.nbd_listen.map(bind_tcp).transpose()?;
    if let (Some(file), Some(listener)) = (&args.nbd_address_file, &listener) {
        let address = listener.local_addr()?.to_string();
        replace_durable(file.as_std_path(), address.as_bytes()).with_context(|| format!("write {file}"))?;
    }
    Ok(Network { tls, listener })
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
        let network = network(args)?;
        let dir = args.dir.clone();
        let daemon = tokio::task::spawn_blocking(move || Daemon::open(&dir, network))
            .await
            .context("open the devices")??;
        // What redo needed, on a thread for each device, goes back.
        give_memory_back();
        args.lock_memory.when_open();
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

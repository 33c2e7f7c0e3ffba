//! A stream over real TLS on loopback, both ends in this process: sent, encrypted, decrypted, verified, credited.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use tokio::sync::mpsc;
use walb_common::daemon::config::NodeConfig;
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::extract::Volume;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{database, server};
use walb_common::rest::ApiError;
use walb_common::types::VolumeName;
use walb_common::wire::client::Client;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Done, StreamKind};
use walb_common::wire::stream::{Bulk, Received, Stream};
use walb_common::wire::tls::TlsContext;
use walb_tests::pki::Pki;

use super::workload::Workload;
use super::{Cost, cpu_now};

async fn swallow(mut stream: Stream) {
    while let Ok(Received::Bulk(bulk)) = stream.recv_bulk().await {
        if stream.consumed(&bulk).await.is_err() {
            return;
        }
    }
    // The client measures until this arrives; whether it does is its business.
    let _ = stream.send(&Done {}).await;
    stream.close().await;
}

async fn handler(
    State(context): State<Arc<DaemonContext>>,
    Volume(volume): Volume,
    request: Request,
) -> Result<axum::response::Response, ApiError> {
    server::upgrade(&context, request, StreamKind::Wlog, volume, swallow)
}

/// Sends the wlog once, in frames of 1 MiB.
pub fn run(work: &Workload) -> Result<Cost> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(transfer(work))
}

async fn transfer(work: &Workload) -> Result<Cost> {
    let data = work.wlog_bytes()?;
    let dir = tempfile::tempdir()?;
    let pki = Pki::create(&dir.path().join("pki"))?;
    let tls = pki.issue(Role::Proxy, "p0")?;
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        dir.path(),
        tls.ca,
        tls.cert,
        tls.key
    );
    let config = dir.path().join("node.toml");
    std::fs::write(&config, text)?;
    let node: NodeConfig = walb_common::daemon::config::load(&config)?;
    let lifecycle = Lifecycle::new(Duration::from_secs(1));
    let listener = server::bind(&node).await?;
    let address = listener.local_addr()?.to_string();
    let pool = database::open(&dir.path().join("metadata.sqlite"), &[]).await?;
    let context = DaemonContext::new(node, TlsContext::load(&tls)?, lifecycle.clone(), pool).await?;
    let router = server::Api::<Arc<DaemonContext>>::new(&context)
        .get("/v1/streams/wlog/{vol}", &[Role::Storage], handler)
        .finish(context.clone());
    lifecycle.spawn(server::serve(context, listener, router));

    let client = pki.issue(Role::Storage, "s0")?;
    let patience = Duration::from_secs(10);
    let client = Client::new(TlsContext::load(&client)?, patience, patience);
    let volume = VolumeName::new("vol0").context("volume name")?;
    let mut stream = client
        .open_stream(&address, Role::Proxy, StreamKind::Wlog, &volume)
        .await?;
    let before = cpu_now();
    let (sender, mut chunks) = mpsc::channel(4);
    let bytes = data.len() as u64;
    tokio::spawn(async move {
        for at in (0..data.len()).step_by(1 << 20) {
            let chunk = data.slice(at..data.len().min(at + (1 << 20)));
            if sender.send(Bulk::raw(at as u64, chunk)).await.is_err() {
                return;
            }
        }
    });
    while let Some(bulk) = chunks.recv().await {
        stream.send_bulk(bulk).await?;
    }
    stream.send_end().await?;
    let _: Done = stream.recv().await?;
    let cpu = cpu_now().saturating_sub(before);
    lifecycle.stop();
    Ok(Cost { bytes, cpu })
}

//! Logs: one line per event on standard error, level by `WALB_LOG` (default `info`), JSON with `WALB_LOG_FORMAT=json`.

use tracing_subscriber::EnvFilter;

/// Starts the log of this process. `debug` raises our own crates to debug unless `WALB_LOG` says otherwise.
pub fn init(debug: bool) {
    let default = if debug {
        "info,walb=debug,walb_common=debug,walb_wdev=debug,walb_storage_server=debug,walb_proxy_server=debug,walb_archive_server=debug"
    } else {
        "info"
    };
    let filter = EnvFilter::try_from_env("WALB_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match std::env::var("WALB_LOG_FORMAT").as_deref() {
        Ok("json") => builder.json().try_init(),
        _ => builder.with_ansi(false).try_init(),
    };
    // Tests in one process start it more than once; the first one stays.
    drop(started);
}

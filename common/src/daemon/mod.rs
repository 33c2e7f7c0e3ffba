//! The frame every daemon runs in: configuration, logs, life and death, the TLS server, jobs, SQLite.
//!
//! Knows nothing of roles. A daemon's `main` reads: load the configuration, start the log, bind, open, serve, wait.

pub mod config;
pub mod context;
pub mod database;
pub mod extract;
pub mod jobs;
pub mod lifecycle;
pub mod logging;
pub mod occupancy;
pub mod open_files;
pub mod server;

/// An error with all its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some libraries repeat their cause's text in their own.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace(['\n', '\r'], " ")
}

//! The command line: `walbc` over the REST API of the three servers.
//!
//! ```text
//!  argv --arguments--> clap types (command::*) --session--> REST over TLS --> storage, proxy, archive
//!                                                   |
//!                       text of the existing tool <-+-> the server's JSON (--json)
//! ```
//!
//! Text outputs are those scripts know: nothing on stdout but the answer, one line on stderr for an error, exit status 0
//! or 1. Every renderer is a pure function from the REST types to text. Files of a server are never touched here.
//!
//! `walb-worker` (policies and schedule) will be a second binary of this crate: `src/bin/walb-worker.rs` with its code in
//! `src/worker/`, speaking to the servers through [`session`].

pub mod answer;
pub mod arguments;
pub mod command;
pub mod config;
pub mod error;
mod run;
pub mod session;

pub use run::run;

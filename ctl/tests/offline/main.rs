//! `walbc offline` as programs and people see it, against every golden file. Goal: what it shows, checks, converts and
//! applies is what the manifests of the golden files say. Method: the program itself, its JSON compared by this program.
#![allow(clippy::unwrap_used, reason = "tests")]

mod behaviour;
mod convert;
mod damaged;
mod devices;
mod images;
mod redo;
mod restore;
mod show;
mod support;

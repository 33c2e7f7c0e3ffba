//! Durable files: the only place that writes small files, replaces files and names fault points.

pub mod fault;

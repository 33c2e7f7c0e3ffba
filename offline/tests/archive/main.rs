//! Goal: whatever an archive's directory went through, what is restored from its files alone is the volume as it was, and
//! nothing in it is touched. Method: a volume in memory with its bytes at every gid; directories made of its IOs, as
//! either archive leaves them; every snapshot that is listed, byte for byte.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod damage;
mod devices;
mod images;
mod restore;
mod support;
mod verify;

//! One target per parser.

mod changed;
mod compression;
mod log;
mod nbd;
mod seeds;
mod text;
mod wdiff;
mod wdiffs;
mod wire;

pub use walb_fuzz_engine::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    log::SUPER_SECTOR,
    log::LOGPACK_HEADER,
    log::LOG_DEVICE,
    log::WLOG,
    changed::CHANGED,
    wdiff::SORTED,
    wdiff::INDEXED,
    wdiffs::APPLY,
    wdiffs::MERGE,
    compression::DECOMPRESS,
    text::NAMES,
    text::VALUES,
    text::CONFIGURATION,
    text::REST,
    wire::FRAMES,
    wire::MESSAGES,
    wire::STREAM,
    wire::CONTROL,
    nbd::NBD,
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// For inputs without checksums.
fn nothing_to_repair(_: &mut Vec<u8>, _: bool) {}

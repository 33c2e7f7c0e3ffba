//! Where the binaries under test are.

use std::path::PathBuf;

/// The path of a binary built beside the running test.
///
/// # Panics
/// When it is not there: a test that cannot run its subject must fail, not pass.
pub fn path(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    // target/PROFILE/deps/TEST -> target/PROFILE/NAME; an example or xtask-like binary sits one level higher.
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("binary {name} is not built: run `cargo build --workspace --bins` first"))
}

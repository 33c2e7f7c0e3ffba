//! What CI runs, locally the same.

use anyhow::{Context, Result};

use crate::run::visibly;
use crate::{build, fuzz, prerequisites, quickstart, vm};

/// Every test of the workspace; `arguments` go to the test binaries.
pub fn test(arguments: &[String]) -> Result<()> {
    prerequisites::root()?;
    prerequisites::ensure(prerequisites::TESTS)?;
    // The whole-system tests run the real binaries.
    build::binaries(false)?;
    let mut all = vec!["test", "--workspace", "--no-fail-fast", "--"];
    all.extend(arguments.iter().map(String::as_str));
    visibly("cargo", &all)
}

/// Everything.
pub fn all() -> Result<()> {
    std::env::set_current_dir(build::root()).context("enter the workspace")?;
    step("formatting");
    visibly("cargo", &["fmt", "--all", "--check"])?;
    step("lints");
    visibly(
        "cargo",
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    step("quickstart");
    quickstart::run(&quickstart::Options::small())?;
    step("tests");
    test(&[])?;
    step("emulated machine");
    vm::run(&vm::Options::ci())?;
    step("hostile bytes");
    fuzz::run(&fuzz::Options::ci())
}

fn step(name: &str) {
    println!("\n=== {name}");
}

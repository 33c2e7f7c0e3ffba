//! Goal: docs/durability.md stays true: every test it names is there, and its table has exactly the fault points of the code.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> Result<String> {
    read_to_string(root().join("docs/durability.md")).context("read the page")
}

/// What stands between backquotes.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_page_names_is_there() -> Result<()> {
    let mut named = 0;
    for line in page()?.lines() {
        let mut file = None;
        for name in quoted(line) {
            let (path, function) = name.split_once("::").unwrap_or((name, ""));
            let is_source = Path::new(path).extension().is_some_and(|e| e == "rs");
            if is_source {
                file = Some(path);
                ensure!(root().join(path).is_file(), "{path} is not there:\n{line}");
            }
            // `fault::point` and the like are not tests.
            if function.is_empty() || !(path.is_empty() || is_source) {
                continue;
            }
            let file = file.with_context(|| format!("::{function} follows no file:\n{line}"))?;
            let source = read_to_string(root().join(file))?;
            ensure!(
                source.contains(&format!("fn {function}(")),
                "{file} has no function {function}:\n{line}"
            );
            named += 1;
        }
    }
    ensure!(named > 50, "only {named} tests found on the page");
    Ok(())
}

/// Names of the fault points below a directory; `{}` stands for what is put in at run time.
fn points_below(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            points_below(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("disk/fault.rs") {
            let text = read_to_string(&path)?;
            for call in text.split("fault::point(").skip(1) {
                let name = call.split('"').nth(1);
                found.insert(name.with_context(|| format!("{}", path.display()))?.to_owned());
            }
        }
    }
    Ok(())
}

#[test]
fn the_table_of_fault_points_is_the_code_s() -> Result<()> {
    let mut in_code = BTreeSet::new();
    for member in std::fs::read_dir(root())? {
        let sources = member?.path().join("src");
        if sources.is_dir() {
            points_below(&sources, &mut in_code)?;
        }
    }
    let page = page()?;
    let table = page
        .split("## Fault points")
        .nth(1)
        .context("a table of fault points")?;
    let table = table.split("\n## ").next().unwrap_or_default();
    let first_cells = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let on_page: BTreeSet<_> = first_cells.map(|name| name.replace("STEP", "{step}")).collect();
    let missing: Vec<_> = in_code.difference(&on_page).collect();
    let gone: Vec<_> = on_page.difference(&in_code).collect();
    ensure!(
        missing.is_empty() && gone.is_empty(),
        "not on the page: {missing:?}; not in the code: {gone:?}"
    );
    ensure!(in_code.len() > 60, "{in_code:?}");
    Ok(())
}

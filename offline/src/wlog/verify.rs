//! `wlog verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::chain::Chain;
use crate::{Outcome, Output};

/// Checks headers, the order of packs, data and the end.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wlog verify a.wlog\n\nThe first damage ends it: what is wrong and where, exit \
status 1. A log without its end block is not whole, hence damaged."
)]
pub struct Verify {
    /// A wlog, or several one after the other; `-` for stdin
    file: PathBuf,
}

impl Verify {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let checked = Chain::open(vec![self.file], "verify").and_then(|mut chain| {
            while chain.next_pack()?.is_some() {}
            Ok(chain)
        });
        output.verdict(
            "wlog",
            checked.map(|chain| {
                let (begin, end, packs) = (chain.begin(), chain.next_lsid(), chain.packs());
                let json = json!({
                    "uuid": chain.uuid(), "wlogs": chain.wlogs(), "packs": packs, "begin_lsid": begin,
                    "real_end_lsid": end,
                });
                (json, format!("ok: {packs} packs, lsid {begin} to {end}\n"))
            }),
        )
    }
}

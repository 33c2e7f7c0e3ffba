//! `wdiff verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use walb_common::format::wdiff::{ReadWdiffError, WdiffFileError};
use walb_common::types::Lb;

use super::source::open_all;
use crate::{Outcome, Output};

/// Checks headers, the order of records, checksums, and that all data decompress to what they should be.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff verify a.wdiff\n\nThe first damage ends it: what is wrong and where, \
exit status 1."
)]
pub struct Verify {
    /// A wdiff; `-` for stdin
    file: PathBuf,
}

impl Verify {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        output.verdict("wdiff", self.check())
    }

    fn check(&self) -> anyhow::Result<(serde_json::Value, String)> {
        let (mut records, mut end) = (0u64, Lb(0));
        let mut uuid = None;
        for mut reader in open_all(std::slice::from_ref(&self.file), "verify")? {
            uuid = Some(reader.uuid());
            let name = reader.name().to_owned();
            while let Some(record) = reader.next_record()? {
                record.raw_data().map_err(|source| WdiffFileError {
                    name: name.clone(),
                    source: ReadWdiffError::Decompress {
                        address: record.address,
                        source,
                    },
                })?;
                (records, end) = (records + 1, record.end());
            }
        }
        let json = json!({ "uuid": uuid, "records": records, "end_lb": end });
        Ok((json, format!("ok: {records} records, up to block {end}\n")))
    }
}

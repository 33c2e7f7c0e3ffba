//! `walbc`: controls WalB servers. See `walbc -h`.

use std::process::ExitCode;

fn main() -> ExitCode {
    walb_ctl::run(std::env::args_os())
}

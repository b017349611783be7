//! `boardlane doctor`.

use std::path::PathBuf;

use boardlane::daemon::doctor;
use clap::Args;

use super::in_runtime;
use crate::{Failure, put};

#[derive(Debug, Args)]
#[command(
    after_help = "A line for each check: ok; warn, what links work without; FAIL, what a config needs. To find \
    out what\nthe kernel can do, a TAP and other netdevs are made in a namespace that ends with the look, which \
    may load\nthe kernel's modules. Nothing else is changed.\n\
    Exit status: 1 if something fails; 2 if a config is wrong."
)]
pub(crate) struct Options {
    /// The configs whose links are to work; otherwise /etc/boardlane/agent.toml and master.toml, if they are there
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON: an object with `ok` and `findings`
    #[arg(long)]
    json: bool,
}

/// Looks at this machine.
pub(crate) fn doctor(options: Options) -> Result<(), Failure> {
    let Options { files, json } = options;
    let looked = in_runtime(async {
        doctor::doctor(&doctor::Options { files, json }).map_err(Failure::Config)
    })?;
    put(&looked.shown)?;
    if looked.good { Ok(()) } else { Err(Failure::Told) }
}

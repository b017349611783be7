//! `boardlane capture`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use boardlane::daemon::capture::{Wanted, client};
use clap::Args;

use crate::{Failure, tell};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The name of the link
    #[arg(long, value_name = "NAME")]
    pub(crate) link: String,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) write: PathBuf,
    /// End after so many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Capture at most so many bytes of each frame
    #[arg(short, long, value_name = "BYTES", default_value_t = 262_144,
        value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) snaplen: u32,
    /// Capture only frames that are dropped
    #[arg(long)]
    pub(crate) drops: bool,
    /// Socket of the daemon; otherwise the one in /run/boardlane that has the link
    #[arg(long, value_name = "SOCK")]
    pub(crate) control: Option<PathBuf>,
}

/// Captures a link's frames.
pub(crate) fn capture(options: Options) -> Result<(), Failure> {
    let Options { link, write, count, snaplen, drops, control } = options;
    let file = Some(write).filter(|path| path.as_os_str() != "-");
    if file.is_none() && io::stdout().is_terminal() {
        let what =
            "standard output is a terminal: write to a file with -w FILE, or to | tshark -r -";
        return Err(Failure::Usage(what.to_owned()));
    }
    let options = client::Options { wanted: Wanted { link, snaplen, drops }, file, control, count };
    client::capture(&options, tell).map_err(|error| match error {
        client::Error::Run(text) => Failure::Run(text),
        client::Error::Output(error) => Failure::Output(error),
    })
}

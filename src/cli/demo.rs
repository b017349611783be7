//! `boardlane demo`.

use boardlane::daemon::demo;
use clap::Args;

use crate::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example: boardlane demo --boards 4 --seconds 10 --mtu 9000\n\
    Without root's rights all of it is in a user namespace of its own, which this user must be\n\
    allowed to make. As root, one demo at a time: the network namespaces bl-master, bl-board0, ...\n\
    are then those of the machine (`ip netns`).")]
pub(crate) struct Options {
    /// Number of boards, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) boards: u8,
    /// Seconds that each TCP measurement takes, 1 to 3600
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// MTU of the links in bytes, 68 to 65521; below 1280 there is no IPv6
    #[arg(long, value_name = "M", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(68..=65521))]
    pub(crate) mtu: u32,
    /// Who copies the payload: auto, direct or engine
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = dma)]
    pub(crate) dma: String,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Stay until Ctrl-C, and say how to enter each namespace
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Runs the demo; what is not ok about it has been shown then.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    let Options { boards, seconds, mtu, dma, json, keep } = options;
    let options = demo::Options { boards, seconds, mtu, dma, json, keep, ..Default::default() };
    match demo::run(&options) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Told),
        Err(demo::Error::Output(e)) => Err(Failure::Output(e)),
        Err(e @ demo::Error::Usage(_)) => Err(Failure::Usage(e.to_string())),
        Err(e) => Err(Failure::Run(e.to_string())),
    }
}

fn dma(text: &str) -> Result<String, String> {
    match text {
        "auto" | "direct" | "engine" => Ok(text.into()),
        _ => Err("write auto, direct or engine".into()),
    }
}

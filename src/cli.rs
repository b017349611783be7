//! The options of each command, and what `--help` says about them.

#[cfg(test)]
mod man;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use boardlane::daemon::capture::{Wanted, client};
use boardlane::daemon::{self, Confine, Role, broker, demo};
use boardlane::os::access::{self, Access, Owner};
use boardlane::os::confine::{self, Part};
use boardlane::os::fabric::backplane::{Backplane, BackplaneConfig};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::{Failure, tell};

/// A virtio-net link between a PCI master and each of its boards.
///
/// The master runs `boardlane master`, each board `boardlane agent`; every link is an ordinary
/// network interface at both ends. Try `boardlane demo` first: it builds a master and boards out of
/// network namespaces on this machine, measures, and cleans up.
#[derive(Debug, Parser)]
#[command(name = "boardlane", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// How much is logged on standard error: off, error, warn, info, debug or trace [default:
    /// what the variable BOARDLANE_LOG says, or info]
    #[arg(long, global = true, value_name = "LEVEL", display_order = 100)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show links at work on this machine: builds them, measures, cleans up (needs TUN, but no root)
    Demo(DemoOptions),
    /// Stand for the PCI bus on one machine: serve the sockets through which ends meet
    Backplane(BackplaneOptions),
    /// Run a board's end of its links
    Agent(DaemonOptions),
    /// Run the PCI master's end of its links
    Master(DaemonOptions),
    /// What a daemon starts for itself, with a socket as standard input
    #[command(hide = true)]
    Broker {
        /// The daemon's: agent or master
        #[arg(value_parser = ["agent", "master"])]
        role: String,
        #[command(flatten)]
        options: DaemonOptions,
    },
    /// Show what the daemons of this machine do
    #[command(after_help = "Exit status: 1 if a daemon does not answer within 2 s, or none runs.")]
    Status {
        /// Socket of the daemon to ask; otherwise all in /run/boardlane are asked
        #[arg(long, value_name = "SOCK")]
        control: Option<PathBuf>,
        /// Print JSON: an object with --control, otherwise an array of them
        #[arg(long)]
        json: bool,
        /// Show it again each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Say what stands in the window of a board or slot; without a target, what there is to look at
    ///
    /// Whoever holds a target is asked; what no daemon of this machine holds is mapped, to be read only.
    /// Nothing is written anywhere. To look at a slot's socket is to join it for a second, which the others
    /// in it see as a client that comes and goes.
    #[command(
        after_help = "Exit status: 1 if a target cannot be looked at, or has no window that this \
        program understands."
    )]
    Probe {
        /// The name of a link, or a transport as in a config: shm:/run/boardlane/slot0.sock, pci:0000:00:03.0,
        /// uio:/dev/uio0
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Socket of the daemon to ask; otherwise all in /run/boardlane are asked
        #[arg(long, value_name = "SOCK")]
        control: Option<PathBuf>,
        /// Print JSON: an array of objects, one for each target; without a target one object
        #[arg(long)]
        json: bool,
    },
    /// Write the frames of a link as they pass, as pcapng, which tshark and Wireshark read meanwhile
    ///
    /// Each frame comes with its direction as the netdev sees it, its queue pair, and, if it was dropped, the
    /// reason as a comment. Another comment says which offloads it carries: such a frame may be larger than
    /// the MTU, or have a checksum that is not finished. What the reader is too slow for is lost by the
    /// capture, which counts it; the link does not wait. A capture goes on while its link is restarted.
    #[command(after_help = "Example: boardlane capture --link bl0 | tshark -r -\n\
        boardlane capture --link bl0 --drops -w drops.pcapng\n\
        It ends at Ctrl-C, after --count frames, or with its reader. Frames are shown to root, the daemon's\n\
        user and the owner of its control socket.\n\
        Exit status: 1 if it cannot begin, or the daemon ends first; the file is good then, too.")]
    Capture(CaptureOptions),
    /// Remove what daemons, a backplane or a demo left when they were killed: netdevs, sockets, notes
    #[command(
        after_help = "What is alive is not touched, nor what is not boardlane's. A netdev that a \
        daemon kept when it was\nstopped has no daemon either, and goes.\n\
        Exit status: 1 if something could not be removed."
    )]
    Clean {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Clean up after the daemon with this config, and nothing else; may be given several times
        ///
        /// Otherwise: netdevs in this network namespace, what is in /run/boardlane, what a demo left,
        /// and what belongs to /etc/boardlane/agent.toml and master.toml.
        #[arg(long, value_name = "FILE")]
        config: Vec<PathBuf>,
    },
    /// Have the daemons of this machine read their configs again, and do what is different in them
    ///
    /// Links of which the config says the same are not touched. Addresses, routes, `keep` and a
    /// master's MTU are changed while the link runs; any other change restarts that link alone. With an
    /// error in the config nothing is changed. SIGHUP to a daemon does the same, and tells its log.
    #[command(
        after_help = "Exit status: 1 if a daemon does not answer within 30 s, does not let this \
        user, or none runs; 2 if\nsomething is wrong in a config, or changes what takes a restart: the \
        control socket."
    )]
    Reload {
        /// Socket of the daemon to ask; otherwise all in /run/boardlane are asked
        #[arg(long, value_name = "SOCK")]
        control: Option<PathBuf>,
    },
    /// Read a config and say what is wrong in it, with line and column; nothing is changed
    #[command(after_help = "Exit status: 2 if something is wrong.")]
    Check {
        /// The config, such as /etc/boardlane/master.toml
        file: PathBuf,
        /// Print the config with all defaults written out, as TOML
        ///
        /// A file with "agent" in its name gets an agent's defaults, any other a master's.
        #[arg(long)]
        expand: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DaemonOptions {
    /// The config, such as /etc/boardlane/master.toml; `boardlane check` reads it without running
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Leave out a part of what confines the daemon, for debugging: caps (capabilities are dropped),
    /// seccomp (system calls are filtered), landlock (files are out of reach), broker (a process of its
    /// own opens things for a confined daemon; without it, only the threads that move frames are confined)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = Confine::NAMES,
        hide_possible_values = true)]
    pub(crate) no_confine: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CaptureOptions {
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

#[derive(Debug, Args)]
#[command(after_help = "Example: boardlane demo --boards 4 --seconds 10 --mtu 9000\n\
    Without root's rights all of it is in a user namespace of its own, which this user must be\n\
    allowed to make. As root, one demo at a time: the network namespaces bl-master, bl-board0, ...\n\
    are then those of the machine (`ip netns`).")]
pub(crate) struct DemoOptions {
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

#[derive(Debug, Args)]
#[command(
    after_help = "Example: boardlane backplane --dir /run/boardlane --slots 4 --owner :kvm --mode 0660\n\
    The sockets speak the ivshmem-server protocol: QEMU's ivshmem-doorbell device fits a slot too."
)]
pub(crate) struct BackplaneOptions {
    /// Directory of the sockets slot0.sock, slot1.sock, ...; made if it is missing
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Number of slots, 1 to 256: one for each board
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) slots: u16,
    /// Memory of each slot in bytes, a power of two; K, M and G may follow, as in 64M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size)]
    pub(crate) window: u64,
    /// Doorbell vectors of each end: one for messages and one for each queue pair
    #[arg(long, value_name = "V", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vectors: u16,
    /// Owner of the sockets: USER, USER:GROUP or :GROUP, by name or number [default: this process's]
    #[arg(long, value_name = "OWNER", value_parser = Owner::parse)]
    pub(crate) owner: Option<Owner>,
    /// Mode of the sockets in octal: who may write to a slot's may be an end of it
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    pub(crate) mode: u32,
    /// Leave out a part of what confines the backplane, for debugging: caps (capabilities are dropped),
    /// seccomp (system calls are filtered), landlock (files are out of reach)
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
        value_parser = ["caps", "seccomp", "landlock"], hide_possible_values = true)]
    pub(crate) no_confine: Vec<String>,
}

/// Runs the demo; what is not ok about it has been shown then.
pub(crate) fn demo(options: DemoOptions) -> Result<(), Failure> {
    let DemoOptions { boards, seconds, mtu, dma, json, keep } = options;
    let options = demo::Options { boards, seconds, mtu, dma, json, keep, ..Default::default() };
    match demo::run(&options) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Told),
        Err(demo::Error::Output(e)) => Err(Failure::Output(e)),
        Err(e @ demo::Error::Usage(_)) => Err(Failure::Usage(e.to_string())),
        Err(e) => Err(Failure::Run(e.to_string())),
    }
}

/// Captures a link's frames.
pub(crate) fn capture(options: CaptureOptions) -> Result<(), Failure> {
    let CaptureOptions { link, write, count, snaplen, drops, control } = options;
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

/// Runs an agent or a master.
pub(crate) fn daemon(role: Role, options: &DaemonOptions) -> Result<(), Failure> {
    let confine = Confine::without(&options.no_confine);
    daemon::run(role, &options.config, confine).map_err(|failure| match failure {
        daemon::Failure::Config(error) => Failure::Config(error),
        daemon::Failure::Run(text) => Failure::Run(text),
    })
}

/// Is a daemon's broker.
pub(crate) fn broker(role: &str, options: &DaemonOptions) -> Result<(), Failure> {
    let role = if role == "agent" { Role::Agent } else { Role::Master };
    let confine = Confine::without(&options.no_confine);
    broker::serve(role, &options.config, confine)
        .map_err(|e| Failure::Run(format!("standard input is no daemon's socket: {e}")))
}

/// Runs the backplane until SIGTERM or SIGINT.
pub(crate) fn backplane(options: BackplaneOptions) -> Result<(), Failure> {
    let config = BackplaneConfig {
        dir: options.dir,
        slots: options.slots,
        slot_len: options.window,
        vectors: options.vectors,
        access: Access { mode: options.mode, owner: options.owner.unwrap_or_default() },
    };
    in_runtime(async {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::interrupt()).map_err(failed)?,
        );
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let backplane = Backplane::open(&config).map_err(|e| match e.is_config() {
            true => Failure::Usage(e.to_string()),
            false => Failure::Run(e.to_string()),
        })?;
        let walls = Confine::without(&options.no_confine).walls;
        confine::process(Part::Backplane, Some(&config.dir), walls).log();
        backplane.serve(stop).await;
        Ok(())
    })
}

fn failed(e: std::io::Error) -> Failure {
    Failure::Run(format!("starting: {e}"))
}

/// Runs a task to its end, on this thread.
pub(crate) fn in_runtime<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(task)
}

/// A number of bytes: `4096`, `64K`, `16M`, `1G`.
fn size(text: &str) -> Result<u64, String> {
    let shift = match text.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    let number = if shift == 0 { text } else { &text[..text.len() - 1] };
    // A plain parse would take a sign.
    let digits = number.bytes().all(|octet| octet.is_ascii_digit());
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|_| digits).ok_or_else(|| "write bytes, as 16M, 1G or 1048576".into())
}

fn mode(text: &str) -> Result<u32, String> {
    access::parse_mode(text).ok_or_else(|| "write three octal digits, as 0660".into())
}

fn dma(text: &str) -> Result<String, String> {
    match text {
        "auto" | "direct" | "engine" => Ok(text.into()),
        _ => Err("write auto, direct or engine".into()),
    }
}

/// The level that `--log`, the environment or nobody asks for.
pub(crate) fn log_level(option: Option<String>) -> Result<LevelFilter, Failure> {
    const VARIABLE: &str = "BOARDLANE_LOG";
    let (source, text) = match option {
        Some(text) => ("--log", text),
        None => match std::env::var_os(VARIABLE) {
            Some(text) => (VARIABLE, text.to_string_lossy().into_owned()),
            None => return Ok(LevelFilter::INFO),
        },
    };
    Ok(match text.as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            let levels = "off, error, warn, info, debug or trace";
            return Err(Failure::Usage(format!("{source} {text:?} is no level, write {levels}")));
        }
    })
}

/// What clap says in several lines, without the usage that follows.
pub(crate) fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = lines.collect::<Vec<_>>().join(" ").replace(" tip: ", ", ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_bytes_with_or_without_a_unit() {
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("16M"), Ok(16 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for bad in ["", "M", "-1", "+1", "1.5M", "16MB", "16 M", "99999999999G", "\u{e9}"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_options_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

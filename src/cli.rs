//! The options of each command, and what `--help` says about them.

#[cfg(feature = "backplane")]
pub(crate) mod backplane;
pub(crate) mod capture;
#[cfg(feature = "demo")]
pub(crate) mod demo;
#[cfg(feature = "doctor")]
pub(crate) mod doctor;
pub(crate) mod log;
#[cfg(test)]
mod man;
pub(crate) mod watch;

use std::path::PathBuf;

use boardlane::daemon::{self, Confine, Role, broker};
use clap::{Args, Parser, Subcommand};

use crate::Failure;

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
    #[cfg(feature = "demo")]
    Demo(demo::Options),
    /// Stand for the PCI bus on one machine: serve the sockets through which ends meet
    #[cfg(feature = "backplane")]
    Backplane(backplane::Options),
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
    ///
    /// A line for each link: its state and for how long; bits and frames a second as its netdev receives and
    /// sends them, over a quarter of a second; bytes so far; how often it has ceased to be up; frames
    /// dropped, with the most frequent reason; why it is not up, or what is odd about it.
    #[command(after_help = "Exit status: 1 if a daemon does not answer within 2 s, or none runs.")]
    Status {
        /// Socket of the daemon to ask; otherwise all in /run/boardlane are asked
        #[arg(long, value_name = "SOCK")]
        control: Option<PathBuf>,
        /// Print JSON: an object with --control, otherwise an array of them
        #[arg(long)]
        json: bool,
        /// Show it again each second, until Ctrl-C, with rates over that second
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
    /// Look whether this machine has what links need, and say what to do; nothing is changed
    #[cfg(feature = "doctor")]
    Doctor(doctor::Options),
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
    Capture(capture::Options),
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
#[command(
    after_help = "Signals: SIGTERM and SIGINT stop it, and what it has made goes, but for netdevs with `keep`.\n\
    SIGUSR2 stops it and leaves all netdevs to its next start. SIGHUP has it read its config again."
)]
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

pub(crate) fn failed(e: std::io::Error) -> Failure {
    Failure::Run(format!("starting: {e}"))
}

/// Runs a task to its end, on this thread.
pub(crate) fn in_runtime<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(task)
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
    fn the_options_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

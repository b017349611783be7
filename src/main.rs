//! boardlane's command line.
//!
//! Exit status: 0; 1 for what fails at run time; 2 for usage and config. What went wrong is told on
//! standard error, in lines that begin with `boardlane:`. Standard output may be a closed pipe at
//! any moment, so nothing here prints with a macro that would panic then.

mod cli;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use boardlane::daemon::config::{Config, ConfigError};
use boardlane::daemon::control::client::{self, ClientError};
use boardlane::daemon::control::report::{Reporter, StatusOptions};
use boardlane::daemon::status::table::fit;
use boardlane::daemon::{self, Role, probe};
use boardlane::os::terminal::size;
use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli::log::level(cli.log).map(cli::log::start).and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            // The reader has seen enough.
            ExitCode::SUCCESS
        }
        Err(Failure::Output(error)) => {
            tell(&format!("standard output: {error}"));
            ExitCode::FAILURE
        }
        Err(Failure::Run(text)) => {
            tell(&text);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(text)) => {
            tell(&text);
            ExitCode::from(2)
        }
        Err(Failure::Config(error)) => {
            tell_config(&error);
            ExitCode::from(2)
        }
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::ConfigTold) => ExitCode::from(2),
    }
}

/// How a command ends other than well.
enum Failure {
    /// At run time.
    Run(String),
    /// The command line or the environment is wrong.
    Usage(String),
    /// The config is wrong.
    Config(ConfigError),
    /// Standard output does not take what is written.
    Output(io::Error),
    /// At run time, and everything has been said.
    Told,
    /// A daemon's config is wrong, and everything has been said.
    ConfigTold,
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "demo")]
        Command::Demo(options) => cli::demo::run(options),
        #[cfg(feature = "backplane")]
        Command::Backplane(options) => cli::backplane::run(options),
        Command::Agent(options) => cli::daemon(Role::Agent, &options),
        Command::Master(options) => cli::daemon(Role::Master, &options),
        Command::Broker { role, options } => cli::broker(&role, &options),
        Command::Status { control, json, watch } => {
            show_status(StatusOptions { control, json }, watch)
        }
        Command::Probe { targets, control, json } => {
            show_probe(&probe::Options { targets, control, json })
        }
        Command::Capture(options) => cli::capture::capture(options),
        #[cfg(feature = "doctor")]
        Command::Doctor(options) => cli::doctor::doctor(options),
        Command::Clean { dry_run, config } => clean(&config, dry_run),
        Command::Reload { control } => reload(control),
        Command::Check { file, expand } => check(&file, expand),
    }
}

fn clean(files: &[PathBuf], dry_run: bool) -> Result<(), Failure> {
    let usual: Vec<PathBuf> =
        ["agent", "master"].map(|r| format!("/etc/boardlane/{r}.toml").into()).into();
    let machine = files.is_empty();
    let there = usual.into_iter().filter(|file| file.exists());
    let files: Vec<_> = if machine { there.collect() } else { files.to_vec() };
    let (mut configs, mut failure) = (Vec::new(), None);
    for file in &files {
        match Config::load(file, Role::of_file(file)) {
            Ok(config) => configs.push(config),
            // What belongs to no config, or to another one, goes all the same.
            Err(error) if machine => {
                let _ = writeln!(io::stderr(), "{error}");
                tell(&format!("{}: what belongs to it is not looked for", file.display()));
                failure = Some(Failure::ConfigTold);
            }
            Err(error) => return Err(Failure::Config(error)),
        }
    }
    let report = cli::in_runtime(async { Ok(daemon::clean::clean(&configs, machine, dry_run)) })?;
    let would = if dry_run { "would remove " } else { "" };
    put(&report.removed.iter().map(|what| format!("{would}{what}\n")).collect::<String>())?;
    report.problems.iter().for_each(|problem| tell(problem));
    let failed = failure.or((!report.problems.is_empty()).then_some(Failure::Told));
    failed.map_or(Ok(()), Err)
}

fn check(file: &Path, expand: bool) -> Result<(), Failure> {
    let config = Config::load(file, Role::of_file(file)).map_err(Failure::Config)?;
    if expand {
        return put(&config.expand(&daemon::functions::of_machine()));
    }
    let counted = |n, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    };
    let all = [counted(config.links.len(), "link"), counted(config.patterns.len(), "pattern")];
    let all: Vec<_> = all.into_iter().flatten().collect();
    put(&format!("{}: ok, {}\n", file.display(), all.join(" and ")))
}

fn show_status(options: StatusOptions, watch: bool) -> Result<(), Failure> {
    let on_screen = !options.json && io::stdout().is_terminal();
    if watch && on_screen {
        return cli::watch::watch(Reporter::new(options));
    }
    let blank = if options.json { "" } else { "\n" };
    let mut reporter = Reporter::new(options);
    for n in 0_u64.. {
        let mut report = reporter.look();
        if on_screen && !report.shown.is_empty() {
            report.shown = fit(&report.shown, size()[0], usize::MAX) + "\n";
        }
        put(&format!("{}{}", if n == 0 { "" } else { blank }, report.shown))?;
        report.failures.iter().for_each(|failure| tell(failure));
        if !watch {
            return if report.failures.is_empty() { Ok(()) } else { Err(Failure::Told) };
        }
        std::thread::sleep(cli::watch::INTERVAL);
    }
    Ok(())
}

fn show_probe(options: &probe::Options) -> Result<(), Failure> {
    let report = probe::probe(options);
    put(&report.shown)?;
    report.failures.iter().for_each(|failure| tell(failure));
    if report.good && report.failures.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

fn reload(control: Option<PathBuf>) -> Result<(), Failure> {
    let mut failure = None;
    for path in client::asked(control).map_err(Failure::Run)? {
        let done = client::ask_reload(&path);
        let path = path.display();
        match done {
            Ok(report) => put(&format!("{path}: {report}\n"))?,
            Err(ClientError::Config(text)) => {
                // A daemon's words, which a terminal is not to obey.
                let visible = |c: char| if c.is_control() && !"\n\t".contains(c) { '?' } else { c };
                let _ = writeln!(io::stderr(), "{}", text.chars().map(visible).collect::<String>());
                tell(&format!("{path}: nothing was changed"));
                failure = Some(Failure::ConfigTold);
            }
            Err(error) => {
                tell(&format!("{path}: {error}"));
                failure = failure.or(Some(Failure::Told));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Writes `text` to standard output.
fn put(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes one line to standard error, where there is nobody to tell if that fails.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}boardlane: {text}", cli::log::error_mark());
}

fn tell_config(error: &ConfigError) {
    let ConfigError::Invalid { file, .. } = error else { return tell(&error.to_string()) };
    for line in error.to_string().lines() {
        let _ = writeln!(io::stderr(), "{}{line}", cli::log::error_mark());
    }
    let n = error.count();
    tell(&format!("{file}: {n} error{}, nothing was changed", if n == 1 { "" } else { "s" }));
}

/// Tells what clap found, in one line; help and version go to standard output.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Standard error is where it goes, and nobody is left to tell if that fails.
        let _ = error.print();
        return ExitCode::from(2);
    }
    tell(&cli::one_line(&error.to_string()));
    ExitCode::from(2)
}

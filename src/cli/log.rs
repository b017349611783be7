//! How much is logged, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;

use crate::Failure;

/// The level that `--log`, the environment or nobody asks for.
pub(crate) fn level(option: Option<String>) -> Result<LevelFilter, Failure> {
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

/// Has what is logged from now on written.
pub(crate) fn start(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // Its complaint about a closed standard error would go there, and panic.
        .log_internal_errors(false)
        .init();
}

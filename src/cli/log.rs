//! How much is logged, and in what form: lines on standard error.
//!
//! Where that is the journal's stream, a line begins with its priority as `<N>`, and has neither time nor
//! level, which the journal keeps itself (sd-daemon(3)). Fields of our own, as LINK=, would take the
//! journal's socket: one more thing that a confined process may reach, and lines that are lost while
//! journald restarts, which keeps its streams. A line about a link begins with its name: `journalctl -g '^bl0:'`.

use std::fmt;
use std::io::{self, IsTerminal};

use boardlane::os::log::to_journal;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // Its complaint about a closed standard error would go there, and panic.
        .log_internal_errors(false);
    if to_journal() { builder.event_format(Journal).init() } else { builder.init() }
}

/// What stands before an error that is written without the log.
pub(crate) fn error_mark() -> &'static str {
    if to_journal() { "<3>" } else { "" }
}

/// Lines as the journal takes them from a stream.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        // Each line is one of the journal's.
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// As in syslog(3): errors, warnings, what is normal, debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is written to a log of this form by `f`.
    fn said(journal: bool, f: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(octets)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
        let builder =
            builder.with_target(false).with_ansi(false).with_writer(move || writer.clone());
        if journal {
            tracing::subscriber::with_default(builder.event_format(Journal).finish(), f);
        } else {
            tracing::subscriber::with_default(builder.finish(), f);
        }
        let octets = sink.0.lock().unwrap().clone();
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn each_line_has_its_priority() {
        let text = said(true, || {
            tracing::error!("reload: nothing was changed: x.toml:1:1\n  1 | x");
            tracing::warn!("not confined");
            tracing::info!(slots = 3, "ready");
            tracing::debug!("a");
            tracing::trace!("b");
        });
        let expected = "<3>reload: nothing was changed: x.toml:1:1\n<3>  1 | x\n<4>not confined\n\
            <6>ready slots=3\n<7>a\n<7>b\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_line_writes_to_a_terminal_that_shows_the_log() {
        for journal in [false, true] {
            let text = said(journal, || tracing::info!("{}", "bl0: \x1b[31m\u{9b}2J\x07"));
            assert!(!text.contains(['\x1b', '\u{9b}', '\x07']), "{text:?}");
        }
    }
}

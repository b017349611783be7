//! `status --watch` on a terminal: a screen that is drawn anew each second.

use std::pin::pin;
use std::time::Duration;

use boardlane::daemon::control::report::{Reporter, StatusReport};
use boardlane::daemon::status::table::fit;
use boardlane::os::terminal::{Screen, size};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::{Failure, cli};

/// Between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Shows what the reporter finds until SIGINT, SIGTERM, SIGHUP or the end of the terminal, which is as it was then.
pub(crate) fn watch(reporter: Reporter) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cli::failed)?;
    let done = runtime.block_on(until_stopped(reporter));
    // A daemon that does not answer is not waited for.
    runtime.shutdown_background();
    done
}

async fn until_stopped(mut reporter: Reporter) -> Result<(), Failure> {
    let on = |kind| signal(kind).map_err(cli::failed);
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hang_up = on(SignalKind::hangup())?;
    let mut resize = on(SignalKind::window_change())?;
    let mut suspend = on(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
    let mut screen = Screen::enter().map_err(Failure::Output)?;
    let (mut report, mut pause) = (StatusReport::default(), Duration::ZERO);
    loop {
        let mut next = pin!(look(reporter, pause));
        (reporter, report) = loop {
            tokio::select! {
                done = &mut next => break done?,
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hang_up.recv() => return Ok(()),
                _ = resize.recv() => {}
                _ = suspend.recv() => {
                    // The shell gets its terminal as it was, until it continues this process.
                    drop(screen);
                    let _ = kill_process(getpid(), Signal::STOP);
                    screen = Screen::enter().map_err(Failure::Output)?;
                }
            }
            draw(&screen, &report)?;
        };
        draw(&screen, &report)?;
        pause = INTERVAL;
    }
}

/// What there is to see after a pause.
async fn look(
    mut reporter: Reporter,
    pause: Duration,
) -> Result<(Reporter, StatusReport), Failure> {
    sleep(pause).await;
    let looked = spawn_blocking(move || {
        let report = reporter.look();
        (reporter, report)
    });
    looked.await.map_err(|e| Failure::Run(format!("asking: {e}")))
}

fn draw(screen: &Screen, report: &StatusReport) -> Result<(), Failure> {
    let failures = report.failures.iter().map(|failure| format!("boardlane: {failure}\n"));
    let text = failures.fold(report.shown.clone(), |text, failure| text + &failure);
    let [columns, rows] = size();
    screen.show(&fit(&text, columns, rows)).map_err(Failure::Output)
}

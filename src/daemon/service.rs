//! What the service manager is told while a daemon or a backplane runs: how it is, and that it lives.
//!
//! The watchdog is fed by the runtime that links, control socket and signals run on, so one that does not
//! turn any more is killed and started anew; and only as long as whoever it depends on answers.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::os::notify::Manager;

/// How often it is looked whether there is something else to tell.
const LOOK: Duration = Duration::from_secs(1);

/// Tells what there is to tell until it is dropped: a `status` that has changed, and that this lives if it is
/// `alive`, or else why not.
pub async fn attend(
    manager: &Manager,
    status: impl Fn() -> String,
    alive: impl AsyncFn() -> Result<(), String>,
) {
    if !manager.is_there() {
        return std::future::pending().await;
    }
    // Three times in the watchdog's time, as one answer may be late.
    let every = manager.watchdog().map(|time| time / 3);
    let mut next = Instant::now();
    let mut told = String::new();
    let mut ticks = interval(every.map_or(LOOK, |every| every.min(LOOK)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = status();
        if told != now {
            manager.tell(&format!("STATUS={now}"));
            told = now;
        }
        let Some(every) = every.filter(|_| Instant::now() >= next) else { continue };
        next = Instant::now() + every;
        match alive().await {
            Ok(()) => manager.tell("WATCHDOG=1"),
            Err(why) => tracing::warn!("the watchdog is not fed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut text = [0; 100];
        while let Ok(len) = manager.recv(&mut text) {
            all.push(String::from_utf8(text[..len].to_vec()).unwrap());
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_is_fed_three_times_in_its_time_by_one_that_lives() {
        let (theirs, ours) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let manager = Manager::over(ours, Some(Duration::from_secs(30)));
        let (up, lives) = (Cell::new(0), Cell::new(true));
        let alive = async || if lives.get() { Ok(()) } else { Err("a test".to_owned()) };
        let mut attending =
            Box::pin(attend(&manager, || format!("2 links, {} up", up.get()), alive));
        let mut seconds = async |n| {
            let time = Duration::from_secs(n) - LOOK / 2;
            assert!(tokio::time::timeout(time, &mut attending).await.is_err());
            tokio::time::advance(LOOK / 2).await;
            heard(&theirs)
        };
        let fed = "WATCHDOG=1".to_owned();
        assert_eq!(seconds(10).await, ["STATUS=2 links, 0 up", "WATCHDOG=1"]);
        assert_eq!(seconds(20).await, [fed.clone(), fed.clone()]);
        up.set(1);
        lives.set(false);
        assert_eq!(seconds(60).await, ["STATUS=2 links, 1 up"]);
        lives.set(true);
        assert_eq!(seconds(10).await, [fed]);
    }
}

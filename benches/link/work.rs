//! One measurement of one subject.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{
    FrameFlood, Ping, TcpTest, flood_frames, frame_socket, message_round_trips, round_trips,
    tcp_throughput,
};

use crate::Result;
use crate::subject::Subject;

/// Echoes of one measurement.
const ECHOES: u16 = 10_000;
/// How long a flood goes on before what arrives is counted: until queues are full.
const FLOOD_RISES: Duration = Duration::from_millis(100);

/// Ends are given by number: 0 is the master, 1 the board.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// TCP to each of these ends at once: Gbit/s of payload that arrive, all together.
    Tcp { to: &'static [usize], streams: usize },
    /// Echoes from the master: mean, median and 99th percentile, in microseconds.
    Echoes,
    /// TCP messages from the master: median and 99th percentile, in microseconds.
    Messages,
    /// Frames to the board: thousands a second that arrive, and that are sent.
    Frames { len: usize },
}

impl Work {
    pub(crate) fn run(
        self,
        subject: &Subject,
        duration: Duration,
        stop: &AtomicBool,
    ) -> Result<Vec<f64>> {
        match self {
            Self::Tcp { to, streams } => {
                Ok(vec![tcp(subject, to, TcpTest { duration, streams }, stop)?])
            }
            Self::Echoes => echoes(subject, stop),
            Self::Messages => messages(subject, duration, stop),
            Self::Frames { len } => frames(subject, len, duration, stop),
        }
    }
}

fn tcp(subject: &Subject, to: &[usize], test: TcpTest, stop: &AtomicBool) -> Result<f64> {
    let rates = thread::scope(|scope| {
        let start = |to: &usize| {
            let [server, client] = [&subject.namespaces[*to], &subject.namespaces[1 - *to]];
            let address = subject.addresses[*to];
            scope.spawn(move || tcp_throughput(server, client, address, &test, stop, &mut |_| {}))
        };
        let threads: Vec<_> = to.iter().map(start).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        };
        threads.into_iter().map(ended).collect::<io::Result<Vec<_>>>()
    })?;
    Ok(rates.iter().map(|rate| rate.gbit_s()).sum())
}

fn echoes(subject: &Subject, stop: &AtomicBool) -> Result<Vec<f64>> {
    let plan = Ping { count: ECHOES, interval: Duration::ZERO, ..Ping::default() };
    let board = subject.addresses[1];
    let (echoes, mut times) = subject.namespaces[0].run(|| round_trips(board, &plan, stop))??;
    if echoes.received < echoes.sent {
        let lost = echoes.sent - echoes.received;
        return Err(
            format!("{}: {lost} of {} echoes are lost", subject.plan.name, echoes.sent).into()
        );
    }
    times.sort();
    let mean = echoes.average().map_or(f64::NAN, microseconds);
    Ok(vec![mean, percentile(&times, 50), percentile(&times, 99)])
}

fn messages(subject: &Subject, duration: Duration, stop: &AtomicBool) -> Result<Vec<f64>> {
    let [master, board] = [&subject.namespaces[0], &subject.namespaces[1]];
    let mut times = message_round_trips(board, master, subject.addresses[1], duration, stop)?;
    times.sort();
    Ok(vec![percentile(&times, 50), percentile(&times, 99)])
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Of sorted times, the one that so many percent do not exceed, in microseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().map_or(f64::NAN, microseconds)
}

fn frames(
    subject: &Subject,
    len: usize,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let socket = subject.namespaces[0].run(|| frame_socket(Subject::NETDEV))??;
    let flood = FrameFlood::default();
    thread::scope(|scope| {
        let thread = scope.spawn(|| flood_frames(&socket, len, &flood));
        let count = || -> Result<(Instant, u64, u64)> {
            let arrived = subject.received_frames(1)?;
            Ok((Instant::now(), arrived, flood.sent.load(Ordering::Relaxed)))
        };
        thread::sleep(FLOOD_RISES);
        let before = count();
        pause(duration, stop);
        let after = count();
        flood.done.store(true, Ordering::Relaxed);
        thread.join().map_err(|_| "a thread panicked")??;
        let ((began, arrived_before, sent_before), (ended, arrived, sent)) = (before?, after?);
        stopped(stop)?;
        let thousands = (ended - began).as_secs_f64() * 1e3;
        Ok([arrived - arrived_before, sent - sent_before].map(|n| n as f64 / thousands).into())
    })
}

/// Sleeps, but not on when told to stop.
fn pause(duration: Duration, stop: &AtomicBool) {
    let began = Instant::now();
    while began.elapsed() < duration && !stop.load(Ordering::Relaxed) {
        let left = duration.saturating_sub(began.elapsed());
        thread::sleep(left.min(boardlane::daemon::traffic::SLICE));
    }
}

fn stopped(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err("stopped".into()) } else { Ok(()) }
}

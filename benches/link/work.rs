//! One measurement of one subject.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{
    Datagrams, FrameFlood, Ping, SLICE, TcpTest, Throughput, datagram_throughput, flood_frames,
    frame_socket, message_round_trips, round_trips, tcp_throughput,
};

use crate::Result;
use crate::subject::Subject;
use crate::usage::{Processors, Usage};

/// Echoes of one measurement.
const ECHOES: u16 = 10_000;
/// How long a flood goes on before what arrives is counted: until queues are full.
const FLOOD_RISES: Duration = Duration::from_millis(100);
/// How long links have been up before it counts as idle what they do.
const IDLE_SETTLES: Duration = Duration::from_secs(5);
/// Bytes of an IPv4 and a UDP header.
const UDP_HEADERS: u16 = 20 + 8;

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
    /// UDP with segmentation offload to an end: Gbit/s of payload that arrive.
    Datagrams { to: usize },
    /// One TCP stream to an end: milliseconds of processor time a Gbit, whole machine; notifications each
    /// way for 1,000 frames.
    TcpCost { to: usize },
    /// Frames to the board: notifications each way for 1,000 of them.
    FrameCost { len: usize },
    /// Links without traffic: percent of a CPU, of all processes and of the master's; percent of a CPU for
    /// a link; times a second that threads go to sleep, and that for a link; MiB of memory of their own, of
    /// all processes and of the master's; MiB of shared memory that a link has touched.
    Idle,
}

impl Work {
    /// How long a subject is to be left alone at first.
    pub(crate) fn settles(self) -> Duration {
        if matches!(self, Self::Idle) { IDLE_SETTLES } else { Duration::ZERO }
    }

    pub(crate) fn run(
        self,
        subject: &Subject,
        duration: Duration,
        stop: &AtomicBool,
    ) -> Result<Vec<f64>> {
        match self {
            Self::Tcp { to, streams } => {
                Ok(vec![tcp(subject, to, test(subject, duration, streams), stop)?])
            }
            Self::Echoes => echoes(subject, stop),
            Self::Messages => messages(subject, duration, stop),
            Self::Frames { len } => frames(subject, len, duration, stop),
            Self::Datagrams { to } => datagrams(subject, to, duration, stop),
            Self::TcpCost { to } => tcp_cost(subject, to, duration, stop),
            Self::FrameCost { len } => {
                let before = Notifications::now(subject)?;
                frames(subject, len, duration, stop)?;
                Ok(vec![Notifications::now(subject)?.per_thousand(&before)])
            }
            Self::Idle => idle(subject, duration, stop),
        }
    }
}

fn test(subject: &Subject, duration: Duration, streams: usize) -> TcpTest<'_> {
    TcpTest { duration, streams, congestion: subject.congestion.as_deref() }
}

fn tcp(subject: &Subject, to: &[usize], test: TcpTest<'_>, stop: &AtomicBool) -> Result<f64> {
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
    if rates.iter().any(|rate| rate.elapsed.is_zero()) {
        return Err(format!("{}: no TCP payload came", subject.plan.name).into());
    }
    Ok(rates.iter().map(Throughput::gbit_s).sum())
}

fn tcp_cost(
    subject: &Subject,
    to: usize,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let [server, client] = [&subject.namespaces[to], &subject.namespaces[1 - to]];
    let test = test(subject, duration, 1);
    let notified = Notifications::now(subject)?;
    // What was used by the first and by the last time that data is known to have come.
    let mut first = None;
    let mut last = None;
    let mut look = |so_far: Throughput| {
        if let Ok(processors) = Processors::now() {
            let known = (so_far.bytes, processors);
            if first.is_none() { first = Some(known) } else { last = Some(known) }
        }
    };
    tcp_throughput(server, client, subject.addresses[to], &test, stop, &mut look)?;
    let notifications = Notifications::now(subject)?.per_thousand(&notified);
    let (Some((before, first)), Some((after, last))) = (first, last) else {
        return Err(format!("{}: no TCP data in time", subject.plan.name).into());
    };
    let gbit = (after - before) as f64 * 8.0 / 1e9;
    Ok(vec![last.busy_ms(&first) / gbit, notifications])
}

/// Frames and notifications each way up to a moment, as a link's master counts them.
struct Notifications {
    frames: f64,
    notifications: f64,
}

impl Notifications {
    /// NaN for what is no link.
    fn now(subject: &Subject) -> Result<Self> {
        let Some(status) = subject.status(0)? else {
            return Ok(Self { frames: f64::NAN, notifications: f64::NAN });
        };
        let queues = || status.links.iter().flat_map(|link| &link.queues);
        let frames: u64 = queues().map(|queue| queue.rx.frames + queue.tx.frames).sum();
        let notifications: u64 =
            queues().map(|queue| queue.notifications_sent + queue.notifications_received).sum();
        Ok(Self { frames: frames as f64, notifications: notifications as f64 })
    }

    fn per_thousand(&self, before: &Self) -> f64 {
        (self.notifications - before.notifications) * 1e3 / (self.frames - before.frames)
    }
}

fn datagrams(
    subject: &Subject,
    to: usize,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<Vec<f64>> {
    let [server, client] = [&subject.namespaces[to], &subject.namespaces[1 - to]];
    let test = Datagrams { duration, payload: subject.plan.mtu - UDP_HEADERS };
    let arrived = datagram_throughput(server, client, subject.addresses[to], &test, stop)?;
    Ok(vec![arrived.gbit_s()])
}

fn idle(subject: &Subject, duration: Duration, stop: &AtomicBool) -> Result<Vec<f64>> {
    let usage = || -> Result<(Instant, Usage, Usage)> {
        let [backplane, master, agent] = subject.pids()?;
        let master = Usage::of_family(master)?;
        let all = master.clone().and_family(agent)?.and_family(backplane)?;
        Ok((Instant::now(), all, master))
    };
    let (began, all_before, master_before) = usage()?;
    pause(duration, stop);
    let (ended, all, master) = usage()?;
    stopped(stop)?;
    let (seconds, links) = ((ended - began).as_secs_f64(), subject.plan.links());
    let [cpu, sleeps] = all.since(&all_before).map(|sum| sum / seconds);
    let [master_cpu, _] = master.since(&master_before).map(|sum| sum / seconds);
    let percent = |nanoseconds: f64| nanoseconds / 1e7;
    Ok(vec![
        percent(cpu),
        percent(master_cpu),
        percent(cpu) / links,
        sleeps,
        sleeps / links,
        all.anonymous_kib / 1024.0,
        master.anonymous_kib / 1024.0,
        all.shared_kib / 1024.0 / links,
    ])
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
pub(crate) fn pause(duration: Duration, stop: &AtomicBool) {
    let began = Instant::now();
    while began.elapsed() < duration && !stop.load(Ordering::Relaxed) {
        let left = duration.saturating_sub(began.elapsed());
        thread::sleep(left.min(SLICE));
    }
}

fn stopped(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err("stopped".into()) } else { Ok(()) }
}

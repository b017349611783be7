//! A plain bridge between two TAPs: the least work that can carry frames through user space, and so
//! the floor that other figures are compared with.
//!
//!     cargo run --release --example tap_bridge -- [--netns-a NS] [--netns-b NS] [--seconds N] TAP_A TAP_B
//!
//! One thread per direction, one buffer per thread, one read and one write per frame; the virtio-net
//! header goes along unchanged, so that segments and checksums stay unfinished end to end. It keeps
//! frames waiting in the TAP while the other one has no room. NS is a namespace's name, path or
//! process id; the TAPs may as well be moved and configured with `ip` while it runs. It ends on
//! Ctrl-C, on SIGTERM, after N seconds, or when a TAP is deleted.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to its user")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use boardlane::os::netns::Namespace;
use boardlane::os::poll::{Events, Interest, Poll, Trigger, Waker};
use boardlane::os::tap::{IoSpan, IoSpanMut, LostTap, Tap, Write};
use boardlane::spec::net::HEADER_LEN;
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: tap_bridge [--netns-a NS] [--netns-b NS] [--seconds N] TAP_A TAP_B";

/// The largest GSO frame, with an Ethernet and a VLAN header, behind a virtio-net header.
const BUFFER_LEN: usize = HEADER_LEN + 65536 + 18;

// Tags of what a direction waits for.
const SOURCE: u64 = 0;
const SINK: u64 = 1;
const STOP: u64 = 2;

#[derive(Default)]
struct Options {
    taps: Vec<String>,
    netns: [Option<String>; 2],
    seconds: Option<u64>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--netns-a" => options.netns[0] = Some(value()?),
            "--netns-b" => options.netns[1] = Some(value()?),
            "--seconds" => {
                let text = value()?;
                let seconds = text.parse().map_err(|_| format!("--seconds {text}: no number"))?;
                options.seconds = Some(seconds);
            }
            option if option.starts_with('-') => return Err(format!("{option}?\n{USAGE}")),
            _ => options.taps.push(arg),
        }
    }
    match options.taps.len() {
        2 => Ok(options),
        _ => Err(USAGE.to_owned()),
    }
}

fn open(name: &str, netns: Option<&str>) -> Result<Tap, Box<dyn Error>> {
    let tap = match netns {
        Some(netns) => Namespace::open(netns)?.run(|| Tap::create(name, false))??,
        None => Tap::create(name, false)?,
    };
    let offload = tap.probe_offload()?;
    tap.set_offload(offload)?;
    tap.set_carrier(true)?;
    let place = netns.map_or(String::new(), |n| format!(" in namespace {n}"));
    println!("made TAP {name}{place}, offloads: {offload:?}");
    Ok(tap)
}

/// One direction's thread.
struct Direction {
    from: Arc<Tap>,
    to: Arc<Tap>,
    poll: Poll,
    stop: Arc<AtomicBool>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    frames: u64,
    bytes: u64,
    lost_down: u64,
    lost_bad: u64,
}

impl Direction {
    fn new(from: &Arc<Tap>, to: &Arc<Tap>, stop: &Arc<AtomicBool>) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        poll.add(from, SOURCE, Interest::Read, Trigger::Edge)?;
        poll.add(to, SINK, Interest::Write, Trigger::Edge)?;
        let (from, to, stop) = (from.clone(), to.clone(), stop.clone());
        Ok(Self { from, to, poll, stop, counts: Counts::default() })
    }

    /// Edges come once: reads until nothing waits, and writes until the frame is gone.
    fn run(&mut self) -> Result<(), LostTap> {
        let mut events = Events::with_capacity(4);
        let mut buffer = vec![0; BUFFER_LEN];
        while !self.stop.load(Ordering::Relaxed) {
            match self.from.read_into(&mut [IoSpanMut::private(&mut buffer)])? {
                Some(len) => self.pass_on(&buffer[..len], &mut events)?,
                None => self.wait(&mut events)?,
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, frame: &[u8], events: &mut Events) -> Result<(), LostTap> {
        while !self.stop.load(Ordering::Relaxed) {
            match self.to.write_from(&[IoSpan::private(frame)])? {
                Write::WouldBlock => {
                    // A TAP tells only who has polled it that it has room again.
                    let again = self.poll.modify(&self.to, SINK, Interest::Write, Trigger::Edge);
                    again.map_err(lost)?;
                    self.wait(events)?;
                    continue;
                }
                Write::Sent => {
                    self.counts.frames += 1;
                    self.counts.bytes += (frame.len() - HEADER_LEN) as u64;
                }
                Write::Down => self.counts.lost_down += 1,
                Write::BadFrame | Write::NoMemory => self.counts.lost_bad += 1,
            }
            break;
        }
        Ok(())
    }

    fn wait(&self, events: &mut Events) -> Result<(), LostTap> {
        self.poll.wait(events, None).map_err(lost)?;
        match events.iter().any(|r| r.failed && r.tag != STOP) {
            true => Err(LostTap::Deleted),
            false => Ok(()),
        }
    }
}

fn lost(error: std::io::Error) -> LostTap {
    LostTap::Os(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Waits for a signal, for the time to be over, or for a direction to end by itself.
fn wait_for_the_end(seconds: Option<u64>, ended: mpsc::Receiver<()>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (done, direction) = tokio::sync::oneshot::channel();
        thread::spawn(move || ended.recv().map(|()| done.send(())));
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            Ok(()) = direction => {}
            () = tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(u64::MAX))) => {}
        }
        Ok(())
    })
}

fn bridge(options: &Options) -> Result<(), Box<dyn Error>> {
    let a = Arc::new(open(&options.taps[0], options.netns[0].as_deref())?);
    let b = Arc::new(open(&options.taps[1], options.netns[1].as_deref())?);
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, ended) = mpsc::channel();
    let mut wakers = Vec::new();
    let mut threads = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let name = format!("{}>{}", from.name(), to.name());
        let mut direction = Direction::new(from, to, &stop)?;
        wakers.push(Waker::new(&direction.poll, STOP)?);
        let tell = tell.clone();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            let result = direction.run();
            // Nobody listens any more once the end has come.
            let _ = tell.send(());
            (result, direction.counts)
        })?;
        threads.push((name, thread));
    }
    println!("bridging; Ctrl-C ends it");
    wait_for_the_end(options.seconds, ended)?;
    stop.store(true, Ordering::Relaxed);
    for waker in &wakers {
        waker.wake()?;
    }
    let mut lost = None;
    for (name, thread) in threads {
        let (result, counts) = thread.join().map_err(|_| "a thread panicked")?;
        println!("{name}: {counts:?}");
        lost = lost.or(result.err());
    }
    match lost {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match bridge(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tap_bridge: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Takes frames out of rings and writes them as pcapng, the earliest first.
//!
//! Nobody tells it of a frame: it looks, often while frames come and seldom while none do. So a capture
//! costs the daemon's workers no system call.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use super::now;
use super::pcapng::{self, Packet, Statistics};
use super::ring::{Broken, Consumer, Record, TX};
use crate::net::frame::Drop as FrameDrop;
use crate::spec::net;

/// Octets that are written at once.
const WRITE_LEN: usize = 256 << 10;
/// Between looks at rings that were empty: at first, and at most, which is what a frame may wait.
const SOON: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(20);

/// Why a capture has ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was meant to: a signal, or all frames that were wanted.
    Wanted,
    /// By the daemon.
    Daemon(String),
    /// By who reads what is written, or by a full disk.
    Output(io::Error),
}

/// A queue pair's ring.
#[derive(Debug)]
struct Source {
    ring: Consumer,
    /// Its next record, if it was looked at.
    next: Option<Record>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    sources: Vec<Source>,
    out: File,
    /// What is to be written.
    octets: Vec<u8>,
    frame: Vec<u8>,
    /// By which the daemon sees that we are there.
    connection: UnixStream,
    stop: Arc<AtomicBool>,
    /// Frames that are wanted still.
    left: Option<u64>,
    totals: Statistics,
}

impl Writer {
    /// Writes what is in these rings, after `start`, until `stop` is set or `count` frames are written.
    pub(super) fn new(
        rings: Vec<Consumer>,
        out: File,
        start: Vec<u8>,
        connection: UnixStream,
        stop: Arc<AtomicBool>,
        count: Option<u64>,
    ) -> Self {
        Self {
            sources: rings.into_iter().map(|ring| Source { ring, next: None }).collect(),
            out,
            octets: start,
            frame: Vec::new(),
            connection,
            stop,
            left: count,
            totals: Statistics { start: now(), ..Statistics::default() },
        }
    }

    /// To the end.
    pub(super) fn run(mut self) -> (Statistics, End) {
        let mut end = self.frames().unwrap_or_else(|end| end);
        self.totals.end = now();
        for (seen, lost) in self.sources.iter().map(|source| source.ring.counters()) {
            self.totals.seen = self.totals.seen.wrapping_add(seen);
            self.totals.lost = self.totals.lost.wrapping_add(lost);
        }
        if !matches!(end, End::Output(_)) {
            pcapng::interface_statistics(&mut self.octets, &self.totals);
            end = self.flush().err().unwrap_or(end);
        }
        (self.totals, end)
    }

    /// All frames; why there are no more.
    fn frames(&mut self) -> Result<End, End> {
        self.flush()?;
        let mut pause = SOON;
        loop {
            let end = self.end()?;
            // What has been seen so far is still written.
            let until = if end.is_some() { now() } else { u64::MAX };
            let before = self.totals.written;
            while self.pass(until)? {}
            if self.left == Some(0) {
                return Ok(End::Wanted);
            }
            if let Some(end) = end {
                return Ok(end);
            }
            pause = if self.totals.written > before { SOON } else { LATE.min(2 * pause) };
            thread::sleep(pause);
        }
    }

    /// Whether it is to end now, and why.
    fn end(&mut self) -> Result<Option<End>, End> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Some(End::Wanted));
        }
        // A pipe whose reader has gone; with nothing to write nobody would notice.
        let mut fds = [PollFd::new(&self.out, PollFlags::empty())];
        let found = poll(&mut fds, Some(&Timespec::default())).unwrap_or(0);
        if found > 0 && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Err(End::Output(io::ErrorKind::BrokenPipe.into()));
        }
        let mut line = [0; 1024];
        match self.connection.read(&mut line) {
            Ok(len) => Ok(Some(End::Daemon(why(&line[..len])))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(_) => Ok(Some(End::Daemon(why(&[])))),
        }
    }

    /// Writes what there is of frames seen until then; `true`: there may be more.
    fn pass(&mut self, until: u64) -> Result<bool, End> {
        while self.octets.len() < WRITE_LEN && self.left != Some(0) {
            let Some((queue, record)) = self.earliest(until)? else {
                self.flush()?;
                return Ok(false);
            };
            let source = &mut self.sources[queue];
            let lost = source.ring.take(&record, &mut self.frame);
            source.next = None;
            let packet = Packet {
                time: record.time.get(),
                len: record.len.get(),
                outbound: record.way == TX,
                queue: u32::try_from(queue).unwrap_or(u32::MAX),
                lost: lost.into(),
                comments: &comments(&record),
            };
            pcapng::enhanced_packet(&mut self.octets, &self.frame, &packet);
            self.totals.written += 1;
            self.left = self.left.map(|left| left - 1);
        }
        self.flush()?;
        Ok(self.left != Some(0))
    }

    /// The ring with the earliest frame, and its record.
    fn earliest(&mut self, until: u64) -> Result<Option<(usize, Record)>, End> {
        let mut first: Option<(usize, Record)> = None;
        for (queue, source) in self.sources.iter_mut().enumerate() {
            if source.next.is_none() {
                source.next = source.ring.peek().map_err(|Broken| {
                    End::Daemon("the memory that it fills makes no sense".to_owned())
                })?;
            }
            let Some(next) = source.next.filter(|next| next.time.get() <= until) else { continue };
            if first.is_none_or(|(_, first)| next.time.get() < first.time.get()) {
                first = Some((queue, next));
            }
        }
        Ok(first)
    }

    fn flush(&mut self) -> Result<(), End> {
        self.out.write_all(&self.octets).map_err(End::Output)?;
        self.octets.clear();
        Ok(())
    }
}

/// Why the daemon has ended the capture, by its last line; without one it has ended itself.
fn why(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Last {
        error: String,
    }
    match serde_json::from_slice::<Last>(line) {
        Ok(Last { error }) => error.escape_debug().to_string(),
        Err(_) => "the daemon has ended".to_owned(),
    }
}

/// What people are told of a frame beside its octets.
fn comments(record: &Record) -> Vec<String> {
    let mut comments = Vec::new();
    if let Some(index) = usize::from(record.dropped).checked_sub(1) {
        let reason = FrameDrop::ALL.get(index).map_or("unknown", |reason| reason.name());
        let gone = if record.captured.get() == 0 { " (nothing of it is at hand)" } else { "" };
        comments.push(format!("dropped: {reason}{gone}"));
    }
    let mut offloads = Vec::new();
    let kind = match record.gso_type & !net::GSO_ECN {
        net::GSO_NONE => None,
        net::GSO_TCPV4 => Some("tcpv4".to_owned()),
        net::GSO_TCPV6 => Some("tcpv6".to_owned()),
        net::GSO_UDP_L4 => Some("udp".to_owned()),
        other => Some(other.to_string()),
    };
    if let Some(kind) = kind {
        let ecn = if record.gso_type & net::GSO_ECN == 0 { "" } else { " ecn" };
        offloads.push(format!("gso {kind}{ecn} mss {}", record.gso_size));
    }
    if record.flags & net::HDR_F_NEEDS_CSUM != 0 {
        offloads.push("needs csum".to_owned());
    }
    if !offloads.is_empty() {
        comments.push(offloads.join(", "));
    }
    comments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_told_with_its_reason_and_its_offloads() {
        let plain = Record { captured: 60.into(), ..Record::default() };
        assert!(comments(&plain).is_empty());
        let dropped = Record { dropped: FrameDrop::ForeignMac as u8 + 1, ..plain };
        assert_eq!(comments(&dropped), ["dropped: foreign_mac"]);
        let gone = Record { dropped: FrameDrop::DmaError as u8 + 1, ..Record::default() };
        assert_eq!(comments(&gone), ["dropped: dma_error (nothing of it is at hand)"]);
        let strange = Record { dropped: 200, ..plain };
        assert_eq!(comments(&strange), ["dropped: unknown"]);
        let gso = |gso_type| Record { flags: 1, gso_type, gso_size: 1448.into(), ..dropped };
        assert_eq!(comments(&gso(1))[1], "gso tcpv4 mss 1448, needs csum");
        assert_eq!(comments(&gso(0x84))[1], "gso tcpv6 ecn mss 1448, needs csum");
        assert_eq!(comments(&gso(5))[1], "gso udp mss 1448, needs csum");
        assert_eq!(comments(&gso(9))[1], "gso 9 mss 1448, needs csum");
        assert_eq!(comments(&Record { flags: 1, ..plain }), ["needs csum"]);
    }

    #[test]
    fn the_daemon_s_last_line_says_why() {
        assert_eq!(why(b"{\"error\":\"no\\u001b more\"}\n"), "no\\u{1b} more");
        assert_eq!(why(b""), "the daemon has ended");
        assert_eq!(why(b"{\"error\":"), "the daemon has ended");
    }
}

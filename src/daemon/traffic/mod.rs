//! Traffic of our own, through ordinary sockets: echo requests, TCP streams and messages, floods of
//! datagrams and of frames. The demo shows its links with it, tests and benches judge them with it; no
//! external tool is needed.
//!
//! A socket stays in the network namespace in which it was made. So [`ping`] and [`ping_all`] run
//! wholly on a thread inside the namespace; other measurements take sockets, each made inside its own,
//! or make them there, and may then run anywhere.
//!
//! Invariant: nothing here waits without a bound. Sockets have timeouts of at most [`SLICE`], and
//! between two waits every loop looks at its deadline and at the caller's stop flag. Loss is a
//! result, never an error.

mod datagrams;
mod frames;
mod messages;
mod ping;
mod tcp;

pub use datagrams::{Datagrams, datagram_throughput};
pub use frames::{FrameFlood, flood_frames, frame_socket};
pub use messages::message_round_trips;
pub use ping::{Echoes, Ping, ping, ping_all, round_trips};
pub use tcp::{Flow, TcpTest, Throughput, connect, listen, measure, tcp_throughput};

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest wait in one system call, and so the longest time until a stop is obeyed.
pub const SLICE: Duration = Duration::from_millis(100);

/// The error of a measurement that was told to stop.
fn stopped(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
    }
    Ok(())
}

/// Whether an error says only that a socket's timeout ran out, or a signal came.
fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

//! TCP throughput, measured where the data arrives.
//!
//! Every stream has a thread that writes and one that reads; the caller's thread keeps the time. The
//! clock starts with the first byte that arrives, so connecting and slow start's first round trip do
//! not count; it stops at the set duration. At the end sockets are aborted (linger 0), so neither
//! unsent data nor an orphaned connection keeps a namespace alive.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{SLICE, is_pause, stopped};
use crate::atomic::AtomicU64;
use crate::os::netns::Namespace;

/// Bytes per write and per read.
const CHUNK: usize = 128 * 1024;
/// How long a connection may take, and the first byte after it.
const CONNECT: Duration = Duration::from_secs(5);
/// Streams of one measurement at most.
const STREAMS_MAX: usize = 64;

/// What one measurement does.
#[derive(Debug, Clone, Copy)]
pub struct TcpTest<'a> {
    /// How long to measure, from the first byte on.
    pub duration: Duration,
    /// Parallel connections: 1..=64.
    pub streams: usize,
    /// The senders' congestion control; the namespace's own if there is none.
    pub congestion: Option<&'a str>,
}

/// What arrived so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Bytes of payload.
    pub bytes: u64,
    /// The time they took, from the first byte.
    pub elapsed: Duration,
}

impl Throughput {
    /// Gigabits (10^9 bits) of TCP payload per second; zero if nothing arrived.
    pub fn gbit_s(&self) -> f64 {
        if self.elapsed.is_zero() {
            return 0.0;
        }
        self.bytes as f64 * 8.0 / 1e9 / self.elapsed.as_secs_f64()
    }
}

/// The two ends of a measurement's connections, not yet joined.
#[derive(Debug)]
pub struct Flow {
    /// Where the data arrives.
    pub listener: TcpListener,
    /// Where it is written.
    pub clients: Vec<TcpStream>,
}

/// Listens on `address` (port 0: any) in the calling thread's network namespace.
///
/// # Errors
/// Those of socket, bind and listen.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(SLICE))?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Connects to `address` from the calling thread's network namespace, within five seconds.
///
/// # Errors
/// Those of socket and connect; `TimedOut`.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&address.into(), CONNECT)?;
    Ok(socket.into())
}

/// The whole measurement between two namespaces: listens on `address` in `server`, connects from `client`,
/// writes there and counts what arrives.
///
/// # Errors
/// The namespaces cannot be entered, the connection fails or times out, `stop` was set.
pub fn tcp_throughput(
    server: &Namespace,
    client: &Namespace,
    address: IpAddr,
    test: &TcpTest<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Throughput),
) -> io::Result<Throughput> {
    let streams = test.streams.clamp(1, STREAMS_MAX);
    let listener =
        server.run(move || listen(SocketAddr::new(address, 0))).map_err(io::Error::other)??;
    let target = listener.local_addr()?;
    let clients = client
        .run(move || (0..streams).map(|_| connect(target)).collect::<io::Result<Vec<_>>>())
        .map_err(io::Error::other)??;
    for (client, name) in clients.iter().zip(test.congestion.iter().cycle()) {
        SockRef::from(client).set_tcp_congestion(name.as_bytes())?;
    }
    measure(Flow { listener, clients }, test.duration, stop, progress)
}

/// Joins the ends of a flow, writes at the clients for `duration` and counts what arrives at the
/// listener; `progress` hears of it ten times a second.
///
/// # Errors
/// A connection is not accepted within five seconds; `stop` was set. Streams that break or stall while
/// measuring are no error: what arrived is the result.
pub fn measure(
    flow: Flow,
    duration: Duration,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Throughput),
) -> io::Result<Throughput> {
    let servers = accept_all(&flow, stop)?;
    let shared = Shared {
        received: AtomicU64::new(0),
        readers: AtomicUsize::new(servers.len()),
        done: AtomicBool::new(false),
    };
    for socket in flow.clients.iter().chain(&servers) {
        socket.set_read_timeout(Some(SLICE))?;
        socket.set_write_timeout(Some(SLICE))?;
        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
    }
    let shared = &shared;
    thread::scope(|scope| {
        let run = || {
            for socket in servers {
                thread::Builder::new().spawn_scoped(scope, move || shared.read_all(socket))?;
            }
            for socket in flow.clients {
                thread::Builder::new().spawn_scoped(scope, move || shared.write_all(socket))?;
            }
            let ended = || shared.readers.load(Ordering::Relaxed) == 0;
            keep_time(duration, &shared.received, &ended, stop, progress)
        };
        let result = run();
        // Whatever came of it: the scope waits for its threads.
        shared.done.store(true, Ordering::Relaxed);
        result
    })
}

/// Accepts one connection of each client; strangers are turned away.
pub(super) fn accept_all(flow: &Flow, stop: &AtomicBool) -> io::Result<Vec<TcpStream>> {
    let mut expected =
        flow.clients.iter().map(TcpStream::local_addr).collect::<io::Result<Vec<_>>>()?;
    let deadline = Instant::now() + CONNECT;
    SockRef::from(&flow.listener).set_read_timeout(Some(SLICE))?;
    let mut accepted = Vec::new();
    while !expected.is_empty() {
        stopped(stop)?;
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s"));
        }
        match flow.listener.accept() {
            Ok((socket, peer)) => {
                if let Some(index) = expected.iter().position(|address| *address == peer) {
                    expected.swap_remove(index);
                    accepted.push(socket);
                }
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(accepted)
}

/// What the threads of one measurement share.
struct Shared {
    received: AtomicU64,
    /// Streams that can still deliver.
    readers: AtomicUsize,
    done: AtomicBool,
}

impl Shared {
    fn read_all(&self, mut socket: TcpStream) {
        let mut buffer = vec![0; CHUNK];
        while !self.done.load(Ordering::Relaxed) {
            match socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    self.received.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
                }
                Err(error) if is_pause(&error) => {}
                Err(_) => break,
            }
        }
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    fn write_all(&self, mut socket: TcpStream) {
        let buffer = vec![0x5a; CHUNK];
        while !self.done.load(Ordering::Relaxed) {
            match socket.write(&buffer) {
                Ok(_) => {}
                Err(error) if is_pause(&error) => {}
                Err(_) => break,
            }
        }
    }
}

/// Waits for the first of the `received` bytes, then for `duration` or until the senders have `ended`.
pub(super) fn keep_time(
    duration: Duration,
    received: &AtomicU64,
    ended: &dyn Fn() -> bool,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Throughput),
) -> io::Result<Throughput> {
    let opened = Instant::now();
    while received.load(Ordering::Relaxed) == 0 {
        stopped(stop)?;
        if opened.elapsed() >= CONNECT || ended() {
            return Ok(Throughput::default());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let base = received.load(Ordering::Relaxed);
    let start = Instant::now();
    loop {
        stopped(stop)?;
        let left = duration.saturating_sub(start.elapsed());
        thread::sleep(left.min(SLICE));
        let bytes = received.load(Ordering::Relaxed).saturating_sub(base);
        let so_far = Throughput { bytes, elapsed: start.elapsed() };
        if so_far.elapsed >= duration || ended() {
            return Ok(so_far);
        }
        progress(so_far);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(streams: usize) -> Flow {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        Flow { listener, clients: (0..streams).map(|_| connect(target).unwrap()).collect() }
    }

    #[test]
    fn throughput_is_bits_over_time_and_zero_without_time() {
        let one = Throughput { bytes: 250_000_000, elapsed: Duration::from_secs(2) };
        assert!((one.gbit_s() - 1.0).abs() < 1e-9);
        assert!(Throughput::default().gbit_s().abs() < 1e-9);
    }

    #[test]
    fn several_streams_over_loopback_carry_data_and_report_it() {
        let stop = AtomicBool::new(false);
        let mut heard = Vec::new();
        let duration = Duration::from_millis(350);
        let result = measure(loopback(3), duration, &stop, &mut |part| heard.push(part)).unwrap();
        assert!(result.bytes > 0 && result.elapsed >= duration, "{result:?}");
        assert!(heard.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes), "{heard:?}");
        assert!(heard.last().is_some_and(|last| last.bytes <= result.bytes), "{heard:?}");
    }

    #[test]
    fn a_stop_ends_a_measurement_that_has_hours_to_go() {
        let stop = AtomicBool::new(false);
        let error = measure(loopback(1), Duration::from_secs(36_000), &stop, &mut |_| {
            stop.store(true, Ordering::Relaxed);
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_stranger_on_the_listener_is_not_counted() {
        let mut flow = loopback(0);
        let target = flow.listener.local_addr().unwrap();
        let stranger = connect(target).unwrap();
        flow.clients.push(connect(target).unwrap());
        let accepted = accept_all(&flow, &AtomicBool::new(false)).unwrap();
        assert_eq!(accepted.len(), 1);
        assert_ne!(accepted[0].peer_addr().unwrap(), stranger.local_addr().unwrap());
    }
}

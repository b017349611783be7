//! Traffic between machines: echo requests and TCP streams whose octets are compared.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::{self, Echoes, Ping};
use boardlane::os::netns::Namespace;
use socket2::SockRef;

use crate::world::{PATIENCE, World, check, wait};

impl World {
    /// Echo requests from a machine.
    pub(crate) fn ping(&self, machine: &str, to: &str, plan: Ping) -> Echoes {
        let to = to.parse().unwrap();
        self.inside(machine, || traffic::ping(to, &plan, &AtomicBool::new(false)).unwrap())
    }

    /// Echo requests that must all be answered.
    pub(crate) fn ping_well(&self, machine: &str, to: &str) {
        let echoes = self.ping(machine, to, Ping { timeout: PATIENCE, ..Ping::default() });
        assert_eq!(echoes.received, echoes.sent, "{machine} to {to}");
    }

    /// Waits until an echo request is answered.
    pub(crate) fn wait_ping(&self, what: &str, machine: &str, to: &str) {
        let plan = Ping { count: 1, timeout: Duration::from_millis(50), ..Ping::default() };
        wait(what, || check(self.ping(machine, to, plan).received == 1, "no answer"));
    }

    /// Echo requests without a pause until it is told to finish.
    pub(crate) fn steady_ping(&self, machine: &str, to: &str) -> Steady {
        let to: IpAddr = to.parse().unwrap();
        let namespace = Namespace::open(&self.namespace(machine)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let plan = Ping { count: 1, timeout: PATIENCE, ..Ping::default() };
        let work = move || {
            let mut all = Echoes::default();
            while !flag.load(Ordering::Relaxed) {
                let one = traffic::ping(to, &plan, &AtomicBool::new(false)).unwrap();
                all.sent += one.sent;
                all.received += one.received;
                all.max = all.max.max(one.max);
                thread::sleep(Duration::from_millis(1));
            }
            all
        };
        Steady { thread: thread::spawn(move || namespace.run(work).unwrap()), stop }
    }

    /// A TCP connection from one machine to an address of another: its two ends.
    pub(crate) fn connection(&self, from: &str, to: &str, address: &str) -> [TcpStream; 2] {
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        let listener = self.inside(to, || traffic::listen(address).unwrap());
        let target = listener.local_addr().unwrap();
        let client = self.inside(from, || traffic::connect(target).unwrap());
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
        let (server, _) = listener.accept().unwrap();
        [client, server]
    }

    /// Sends `len` bytes by TCP from one machine to an address of another; they must arrive as sent.
    pub(crate) fn transfer(&self, from: &str, to: &str, address: &str, len: usize) {
        let [client, server] = self.connection(from, to, address);
        exchange(&client, &server, len, &format!("{from} to {address}"));
    }
}

/// Writes `len` bytes of a pattern into `client`; they must come out of `server`.
pub(crate) fn exchange(mut client: &TcpStream, mut server: &TcpStream, len: usize, what: &str) {
    let sent = pattern(len);
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut received = vec![0; len];
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| client.write_all(&sent).unwrap());
        server.read_exact(&mut received).unwrap();
    });
    assert!(received == sent, "{what}: {len} bytes arrived altered");
    eprintln!("{what}: {len} bytes arrived as sent after {:.2} s", start.elapsed().as_secs_f64());
}

/// Bytes without a period that a shifted or repeated copy would match.
fn pattern(len: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

/// Numbers that look random (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn octet(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// A ping that goes on.
pub(crate) struct Steady {
    thread: JoinHandle<Echoes>,
    stop: Arc<AtomicBool>,
}

impl Steady {
    /// Ends it; nothing may have been lost.
    pub(crate) fn finish_without_loss(self) {
        self.stop.store(true, Ordering::Relaxed);
        let Echoes { sent, received, max, .. } = self.thread.join().unwrap();
        eprintln!("steady ping: {received} of {sent} answered, the slowest after {max:?}");
        assert!(sent > 0 && sent == received, "{} of {sent} lost", sent - received);
    }
}

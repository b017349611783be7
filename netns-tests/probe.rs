//! Traffic that goes on while daemons die: a numbered datagram each way every millisecond, and one
//! connection with a message every ten, which comes back and is compared.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::traffic::Random;
use crate::world::{PATIENCE, World, check, wait};

const PORT: u16 = 7700;
const DATAGRAM_PERIOD: Duration = Duration::from_millis(1);
const MESSAGE_PERIOD: Duration = Duration::from_millis(10);
const MESSAGE_LEN: usize = 64;
/// Datagrams that are further apart than this have not been flowing.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// The datagrams of one direction.
#[derive(Default)]
struct Way {
    sent: AtomicU64,
    received: AtomicU64,
    /// When they came, since the last [`Probe::forget`].
    arrivals: Mutex<Vec<Instant>>,
}

impl Way {
    fn arrivals(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.arrivals.lock().unwrap()
    }

    /// When datagrams have come without a pause since, as seen at `now`; how long the longest pause
    /// after `from` was.
    fn flowing(&self, from: Instant, now: Instant) -> (Instant, Duration) {
        let arrivals = self.arrivals();
        let ends = arrivals.iter().copied().filter(|at| *at > from).chain([now]);
        let (mut last, mut since, mut longest) = (from, from, Duration::ZERO);
        for end in ends {
            longest = longest.max(end - last);
            if end - last > PAUSE {
                since = end;
            }
            last = end;
        }
        (since, longest)
    }
}

/// What goes on between the master and board 0.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    hush: Arc<AtomicBool>,
    ways: [Arc<Way>; 2],
    messages: Arc<[AtomicU64; 2]>,
    /// The connection, if there is one.
    stream: Option<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Begins, over a link that is up; with a connection, or with datagrams only.
    pub(crate) fn start(world: &World, connection: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let hush = Arc::new(AtomicBool::new(false));
        let ways = [Arc::new(Way::default()), Arc::new(Way::default())];
        let messages = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut threads = Vec::new();
        // Not bound to an address, which may go with the netdev for a while.
        let sockets = ["master", "board0"]
            .map(|machine| world.inside(machine, || UdpSocket::bind(("0.0.0.0", PORT)).unwrap()));
        for (way, (from, to)) in [(0, 1), (1, 0)].into_iter().enumerate() {
            let (sender, receiver) = (sockets[from].try_clone(), sockets[to].try_clone());
            let (sender, receiver) = (sender.unwrap(), receiver.unwrap());
            let target = format!("10.77.0.{}:{PORT}", to + 1);
            let (flag, way) = (hush.clone(), ways[way].clone());
            let sent = way.clone();
            threads.push(thread::spawn(move || send(&sender, &target, &flag, &sent)));
            let flag = stop.clone();
            threads.push(thread::spawn(move || receive(&receiver, &flag, &way)));
        }
        let mut probe = Self { stop, hush, ways, messages, stream: None, threads };
        if connection {
            probe.connect(world);
        }
        probe
    }

    fn connect(&mut self, world: &World) {
        let [client, server] = world.connection("master", "board0", "10.77.0.2");
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        server.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        client.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        self.threads.push(thread::spawn(move || give_back(server)));
        let (writer, counts) = (client.try_clone().unwrap(), self.messages.clone());
        let flag = self.hush.clone();
        self.threads.push(thread::spawn(move || write(writer, &flag, &counts[0])));
        let (reader, counts) = (client.try_clone().unwrap(), self.messages.clone());
        self.threads.push(thread::spawn(move || read(reader, &counts[1])));
        self.stream = Some(client);
    }

    /// Nothing that has come so far matters any more.
    pub(crate) fn forget(&self) {
        self.ways.iter().for_each(|way| way.arrivals().clear());
    }

    /// Since when datagrams have come both ways without a pause, if they do; and the longest pause
    /// after `from`.
    pub(crate) fn flowing(&self, from: Instant, now: Instant) -> (Instant, Duration) {
        let [(a, x), (b, y)] = [&self.ways[0], &self.ways[1]].map(|way| way.flowing(from, now));
        (a.max(b), x.max(y))
    }

    /// Waits until a message has come back on the connection, which may sit out the last silence once
    /// more before it sends again.
    pub(crate) fn wait_message(&self) {
        if self.stream.is_none() {
            return;
        }
        let (before, start) = (self.messages[1].load(Ordering::Relaxed), Instant::now());
        while self.messages[1].load(Ordering::Relaxed) == before {
            assert!(start.elapsed() < PATIENCE, "no message has come back");
            thread::sleep(DATAGRAM_PERIOD);
        }
    }

    /// Ends it: every message must have come back. Says what there was.
    pub(crate) fn finish(self) {
        self.hush.store(true, Ordering::Relaxed);
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        wait("every message has come back", || {
            let [sent, back] = [&self.messages[0], &self.messages[1]].map(count);
            check((sent > 0) == self.stream.is_some() && sent == back, (sent, back))
        });
        self.stop.store(true, Ordering::Relaxed);
        if let Some(stream) = self.stream {
            rustix::net::shutdown(stream.as_fd(), rustix::net::Shutdown::Both).unwrap();
        }
        let failed = self.threads.into_iter().filter_map(|thread| thread.join().err()).count();
        assert_eq!(failed, 0, "threads of the probe that panicked");
        for (way, name) in self.ways.iter().zip(["to the board", "to the master"]) {
            eprintln!("{name}: {} of {} datagrams", count(&way.received), count(&way.sent));
        }
        eprintln!("{} messages came back on one connection", count(&self.messages[1]));
    }
}

fn send(socket: &UdpSocket, target: &str, stop: &AtomicBool, way: &Way) {
    while !stop.load(Ordering::Relaxed) {
        let number = way.sent.fetch_add(1, Ordering::Relaxed);
        // With the netdev, the route to the other end is away for a while.
        let _ = socket.send_to(&number.to_le_bytes(), target);
        thread::sleep(DATAGRAM_PERIOD);
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, way: &Way) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // A kernel that has asked for an address overtakes what has waited for the answer.
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut datagram = [0; 16];
        let Ok(len) = socket.recv(&mut datagram) else { continue };
        assert_eq!(len, 8);
        let number = u64::from_le_bytes(datagram[..8].try_into().unwrap());
        let at = usize::try_from(number).unwrap();
        seen.resize(seen.len().max(at + 1), false);
        assert!(!std::mem::replace(&mut seen[at], true), "datagram {number} came twice");
        way.received.fetch_add(1, Ordering::Relaxed);
        way.arrivals().push(Instant::now());
    }
}

/// Message `number`, unlike any other.
fn message(number: u64) -> [u8; MESSAGE_LEN] {
    let mut random = Random(number + 1);
    std::array::from_fn(|_| random.octet())
}

fn write(mut stream: TcpStream, stop: &AtomicBool, count: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let number = count.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&message(number)).unwrap();
        thread::sleep(MESSAGE_PERIOD);
    }
}

fn give_back(mut stream: TcpStream) {
    let mut octets = [0; MESSAGE_LEN];
    for number in 0.. {
        match stream.read(&mut octets[..1]) {
            Ok(0) => return,
            one => assert_eq!(one.unwrap(), 1),
        }
        stream.read_exact(&mut octets[1..]).unwrap();
        assert_eq!(octets, message(number), "message {number}");
        stream.write_all(&octets).unwrap();
    }
}

fn read(mut stream: TcpStream, count: &AtomicU64) {
    let mut octets = [0; MESSAGE_LEN];
    for number in 0.. {
        match stream.read(&mut octets[..1]) {
            Ok(0) => return,
            one => assert_eq!(one.unwrap(), 1),
        }
        stream.read_exact(&mut octets[1..]).unwrap();
        assert_eq!(octets, message(number), "message {number} that came back");
        count.fetch_add(1, Ordering::Relaxed);
    }
}

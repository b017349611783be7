//! Echo requests and replies: ICMP (RFC 792) and ICMPv6 (RFC 4443 §4.1, §4.2) through raw sockets.
//!
//! A measurement is a number of rounds. In each, every target gets one request, then replies are
//! collected until all are there or the timeout is over: many targets cost no more time than one.
//! A reply counts if its source is a target, its type, identifier and sequence number are ours and its
//! payload starts with the cookie of this measurement; the first one counts, repeats do not.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{SLICE, is_pause, stopped};

/// Bytes of type, code, checksum, identifier and sequence number.
const HEADER: usize = 8;
/// Bytes of the cookie at the head of the payload.
const COOKIE: usize = 8;
/// The largest payload: what an IPv4 packet of 65,535 bytes carries.
const PAYLOAD_MAX: usize = 65_535 - 20 - HEADER;

/// What one measurement sends.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// Rounds, one request per target each.
    pub count: u16,
    /// Pause between the end of a round and the next.
    pub interval: Duration,
    /// How long a round waits for its replies.
    pub timeout: Duration,
    /// Bytes after the ICMP header: 8..=65507.
    pub payload: usize,
}

impl Default for Ping {
    /// Ten rounds of 56 bytes (as `ping` sends), 10 ms apart, with a second for each reply.
    fn default() -> Self {
        Self {
            count: 10,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
            payload: 56,
        }
    }
}

/// What came of the requests to one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Echoes {
    /// Requests sent, or refused by the kernel on the way out (no route, link down).
    pub sent: u32,
    /// Replies in time.
    pub received: u32,
    /// Shortest round trip; zero without replies.
    pub min: Duration,
    /// Longest round trip; zero without replies.
    pub max: Duration,
    /// Sum of all round trips.
    pub total: Duration,
}

impl Echoes {
    /// Requests without a reply, in percent; 100 if nothing was sent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 {
            return 100.0;
        }
        f64::from(self.sent.saturating_sub(self.received)) * 100.0 / f64::from(self.sent)
    }

    /// Mean round trip; `None` without replies.
    pub fn average(&self) -> Option<Duration> {
        self.total.checked_div(self.received)
    }

    fn count_reply(&mut self, round_trip: Duration) {
        self.min = if self.received == 0 { round_trip } else { self.min.min(round_trip) };
        self.max = self.max.max(round_trip);
        self.total += round_trip;
        self.received += 1;
    }
}

/// Sends echo requests to one address, from the calling thread's network namespace.
///
/// # Errors
/// As [`ping_all`].
pub fn ping(target: IpAddr, plan: &Ping, stop: &AtomicBool) -> io::Result<Echoes> {
    Ok(ping_all(&[target], plan, stop)?.pop().unwrap_or_default())
}

/// As [`ping`]; also each round trip, in the order of the replies.
///
/// # Errors
/// As [`ping_all`].
pub fn round_trips(
    target: IpAddr,
    plan: &Ping,
    stop: &AtomicBool,
) -> io::Result<(Echoes, Vec<Duration>)> {
    let targets = [target];
    let mut run = run(&targets, plan, stop)?;
    Ok((run.echoes.pop().unwrap_or_default(), run.round_trips))
}

/// Sends echo requests to several addresses at once, from the calling thread's network namespace;
/// results stand in the order of `targets`.
///
/// # Errors
/// No permission for a raw socket; targets of both families; a payload out of range; `stop` was set.
pub fn ping_all(targets: &[IpAddr], plan: &Ping, stop: &AtomicBool) -> io::Result<Vec<Echoes>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    Ok(run(targets, plan, stop)?.echoes)
}

fn run<'a>(targets: &'a [IpAddr], plan: &'a Ping, stop: &AtomicBool) -> io::Result<Run<'a>> {
    let v4 = targets.first().is_none_or(IpAddr::is_ipv4);
    if targets.iter().any(|target| target.is_ipv4() != v4) {
        return Err(invalid("targets of both address families in one measurement"));
    }
    if !(COOKIE..=PAYLOAD_MAX).contains(&plan.payload) {
        return Err(invalid("the payload of an echo request is 8 to 65507 bytes"));
    }
    let mut run = Run::new(targets, plan, v4)?;
    for round in 0..plan.count {
        stopped(stop)?;
        run.round(round, stop)?;
        if round + 1 < plan.count {
            std::thread::sleep(plan.interval.min(SLICE));
        }
    }
    Ok(run)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// One measurement under way.
struct Run<'a> {
    targets: &'a [IpAddr],
    plan: &'a Ping,
    v4: bool,
    socket: UdpSocket,
    identifier: u16,
    cookie: [u8; COOKIE],
    echoes: Vec<Echoes>,
    round_trips: Vec<Duration>,
    /// Per target, when this round's request left; `None` when answered or not sent.
    waiting: Vec<Option<Instant>>,
    buffer: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(targets: &'a [IpAddr], plan: &'a Ping, v4: bool) -> io::Result<Self> {
        static MEASUREMENTS: AtomicU32 = AtomicU32::new(0);
        let number = MEASUREMENTS.fetch_add(1, Ordering::Relaxed);
        let mut cookie = [0; COOKIE];
        cookie[..4].copy_from_slice(&std::process::id().to_be_bytes());
        cookie[4..].copy_from_slice(&number.to_be_bytes());
        let [.., high, low] = number.wrapping_add(std::process::id()).to_be_bytes();
        let (domain, protocol) =
            if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // A round's replies may all arrive before the first is read.
        socket.set_recv_buffer_size(1 << 20)?;
        socket.set_write_timeout(Some(SLICE))?;
        Ok(Self {
            targets,
            plan,
            v4,
            // Only for its safe recv_from: to the kernel it stays a raw socket.
            socket: socket.into(),
            identifier: u16::from_be_bytes([high, low]),
            cookie,
            echoes: vec![Echoes::default(); targets.len()],
            round_trips: Vec::new(),
            waiting: vec![None; targets.len()],
            buffer: vec![0; PAYLOAD_MAX + HEADER + 60],
        })
    }

    fn round(&mut self, sequence: u16, stop: &AtomicBool) -> io::Result<()> {
        let mut request = self.request(sequence);
        if self.v4 {
            let sum = checksum(&request).to_be_bytes();
            request[2..4].copy_from_slice(&sum);
        }
        for (index, target) in self.targets.iter().enumerate() {
            self.echoes[index].sent += 1;
            let now = Instant::now();
            // A request that the kernel refuses (no route, no carrier) is a lost one.
            let sent = self.socket.send_to(&request, SocketAddr::new(*target, 0)).is_ok();
            self.waiting[index] = sent.then_some(now);
        }
        let deadline = Instant::now() + self.plan.timeout;
        while self.waiting.iter().any(Option::is_some) {
            stopped(stop)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left.min(SLICE).max(Duration::from_micros(1))))?;
            match self.socket.recv_from(&mut self.buffer) {
                Ok((len, from)) => self.reply(len, from.ip(), sequence, Instant::now()),
                Err(error) if is_pause(&error) => {}
                // An ICMP error about a request: that request stays unanswered.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(())
    }

    /// The echo request of a round, its checksum zero (for ICMPv6 the kernel fills it in).
    fn request(&self, sequence: u16) -> Vec<u8> {
        let mut request = vec![if self.v4 { 8 } else { 128 }, 0, 0, 0];
        request.extend(self.identifier.to_be_bytes());
        request.extend(sequence.to_be_bytes());
        request.extend(self.cookie);
        request.resize(HEADER + self.plan.payload, 0x5a);
        request
    }

    fn reply(&mut self, len: usize, from: IpAddr, sequence: u16, now: Instant) {
        let packet = self.buffer.get(..len).unwrap_or_default();
        // A raw IPv4 socket gives the IP header too, a raw IPv6 socket does not.
        let skip = match packet.first() {
            Some(first) if self.v4 => usize::from(first & 0xf) * 4,
            _ => 0,
        };
        let Some(message) = packet.get(skip..) else { return };
        let mut expected = vec![if self.v4 { 0 } else { 129 }, 0];
        expected.extend(message.get(2..4).unwrap_or_default());
        expected.extend(self.identifier.to_be_bytes());
        expected.extend(sequence.to_be_bytes());
        expected.extend(self.cookie);
        if !message.starts_with(&expected) || message.len() != HEADER + self.plan.payload {
            return;
        }
        let Some(index) = self.targets.iter().position(|target| *target == from) else { return };
        if let Some(sent) = self.waiting[index].take() {
            let round_trip = now.saturating_duration_since(sent);
            self.echoes[index].count_reply(round_trip);
            self.round_trips.push(round_trip);
        }
    }
}

/// The Internet checksum (RFC 1071) of a message whose checksum field is zero.
fn checksum(message: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in message.chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        sum += u32::from(word);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        // RFC 1071 §3: the words 0001 f203 f4f5 f6f7 add up to ddf2.
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&words), !0xddf2);
        let mut message = words.to_vec();
        message.extend(checksum(&words).to_be_bytes());
        assert_eq!(checksum(&message), 0);
        assert_eq!(checksum(&[0xff]), !0xff00, "an odd last byte is the high one");
    }

    #[test]
    fn loss_is_total_when_nothing_was_sent_and_none_when_all_came_back() {
        let mut echoes = Echoes::default();
        assert!((echoes.loss_percent() - 100.0).abs() < 1e-9);
        assert_eq!(echoes.average(), None);
        echoes.sent = 4;
        for us in [30, 10, 20] {
            echoes.count_reply(Duration::from_micros(us));
        }
        assert!((echoes.loss_percent() - 25.0).abs() < 1e-9);
        assert_eq!(echoes.min, Duration::from_micros(10));
        assert_eq!(echoes.max, Duration::from_micros(30));
        assert_eq!(echoes.average(), Some(Duration::from_micros(20)));
    }

    #[test]
    fn a_payload_out_of_range_or_mixed_families_are_refused() {
        let stop = AtomicBool::new(false);
        let v4: IpAddr = "127.0.0.1".parse().unwrap();
        let v6: IpAddr = "::1".parse().unwrap();
        for payload in [0, 7, 65_508] {
            let plan = Ping { payload, ..Ping::default() };
            let error = ping(v4, &plan, &stop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let error = ping_all(&[v4, v6], &Ping::default(), &stop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

//! Frames made by hand, and the packet socket by which a board's netdev sends and receives them.

use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::os::announce::address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::world::{PATIENCE, World};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// The type of the frames that a case numbers (IEEE 802, local experiments).
pub(crate) const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A frame to this address from nobody in particular, with a number and content that depends on it.
pub(crate) fn numbered(to: [u8; 6], tag: &[u8], number: u32, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 0x99], tag, &EXPERIMENT].concat();
    frame.extend(number.to_be_bytes());
    while frame.len() < len {
        frame.push(content(number, frame.len()));
    }
    frame
}

fn content(number: u32, at: usize) -> u8 {
    (number as usize).wrapping_mul(31).wrapping_add(at).to_le_bytes()[0]
}

/// The number of a frame made by [`numbered`], whose content must be as it was sent.
pub(crate) fn number_of(frame: &[u8], tag: usize) -> Option<u32> {
    let at = 12 + tag;
    if frame.get(at..at + 2)? != EXPERIMENT {
        return None;
    }
    let number = u32::from_be_bytes(frame.get(at + 2..at + 6)?.try_into().unwrap());
    let altered = (at + 6..frame.len()).find(|at| frame[*at] != content(number, *at));
    assert_eq!(altered, None, "frame {number} of {} bytes", frame.len());
    Some(number)
}

/// A VLAN tag of this type.
pub(crate) fn tag(kind: u16, id: u16) -> Vec<u8> {
    [kind.to_be_bytes(), id.to_be_bytes()].concat()
}

/// The payload of a UDP datagram over IPv4 in this frame, with its source port.
pub(crate) fn udp_of(frame: &[u8]) -> Option<(u16, &[u8])> {
    if frame.get(12..14)? != [8, 0] || *frame.get(14)? != 0x45 || *frame.get(23)? != 17 {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
    Some((u16::from_be_bytes([frame[34], frame[35]]), frame.get(42..34 + len)?))
}

/// The Internet checksum (RFC 1071) of these octets, from a sum on.
pub(crate) fn checksum(mut sum: u32, octets: &[u8]) -> u16 {
    for pair in octets.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 packet in a frame; the protocol's checksum is the caller's.
pub(crate) fn ipv4(
    macs: [[u8; 6]; 2],
    [from, to]: [Ipv4Addr; 2],
    protocol: u8,
    body: &[u8],
) -> Vec<u8> {
    let total = u16::try_from(20 + body.len()).unwrap();
    let mut head = vec![0x45, 0];
    head.extend(total.to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    head.extend(from.octets());
    head.extend(to.octets());
    let sum = checksum(0, &head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    [&macs[1][..], &macs[0], &[8, 0], &head, body].concat()
}

/// The sum of the pseudo header that TCP's and UDP's checksums begin with.
pub(crate) fn pseudo([from, to]: [Ipv4Addr; 2], protocol: u8, len: usize) -> u32 {
    let words = [from.octets(), to.octets()];
    let words = words.iter().flat_map(|ip| ip.chunks(2));
    let sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    sum + u32::from(protocol) + u32::try_from(len).unwrap()
}

/// A packet socket on a machine's netdev.
pub(crate) struct Wire {
    socket: Socket,
    to: SockAddr,
}

impl Wire {
    /// Of the frames that come in, it sees those made by [`numbered`].
    pub(crate) fn new(world: &World, machine: &str, netdev: &str) -> Self {
        let index = world.netdev(machine, netdev).unwrap()["ifindex"].as_u64().unwrap();
        let to = address(u32::try_from(index).unwrap()).unwrap();
        let kind = u16::from_be_bytes(EXPERIMENT).to_be();
        let kind = Protocol::from(i32::from(kind));
        let socket =
            world.inside(machine, || Socket::new(Domain::PACKET, Type::RAW, Some(kind)).unwrap());
        socket.bind(&to).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_recv_buffer_size(8 << 20).unwrap();
        Self { socket, to }
    }

    /// Sends a frame, and waits where the netdev's queue is full.
    pub(crate) fn send(&self, frame: &[u8]) {
        let start = Instant::now();
        while let Err(e) = self.socket.send_to(frame, &self.to) {
            let full = e.kind() == ErrorKind::WouldBlock || e.raw_os_error() == Some(105);
            assert!(full && start.elapsed() < PATIENCE, "sending a frame: {e}");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// The next frame that has come in.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_600];
        let len = (&self.socket).read(&mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }
}

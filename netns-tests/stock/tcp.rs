//! A TCP receiver by hand: takes one connection, and acknowledges what has come without a gap.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::frames::{checksum, ipv4, pseudo};

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 0x10;
const TCP: u8 = 6;

/// The octet of the stream at this place.
pub(crate) fn octet(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]
}

/// The receiving end.
pub(crate) struct Sink {
    ip: Ipv4Addr,
    port: u16,
    /// The next octet expected, as a sequence number, and where in the stream it is.
    next: u32,
    pub(crate) at: u64,
    pub(crate) finished: bool,
    /// What came beyond a gap, by its place. Without it, a sender that hears of no selective
    /// acknowledgment would wait for its timer again and again.
    beyond: BTreeMap<u64, Vec<u8>>,
}

impl Sink {
    pub(crate) fn new(ip: Ipv4Addr, port: u16) -> Self {
        Self { ip, port, next: 0, at: 0, finished: false, beyond: BTreeMap::new() }
    }

    /// Takes a frame; the answer to it, if it is one for us.
    pub(crate) fn handle(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let ours = frame.get(12..14)? == [8, 0]
            && *frame.get(23)? == TCP
            && frame[30..34] == self.ip.octets()
            && frame.get(36..38)? == self.port.to_be_bytes();
        if !ours {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let segment = frame.get(34..14 + total)?;
        let seq = u32::from_be_bytes(segment[4..8].try_into().unwrap());
        let flags = segment[13];
        let payload = &segment[usize::from(segment[12] >> 4) * 4..];
        if flags & SYN != 0 {
            self.next = seq.wrapping_add(1);
            // The largest segment on this link, and a window scale of 7.
            return Some(self.reply(frame, SYN | ACK, 0, &[2, 4, 5, 0xb4, 1, 3, 3, 7]));
        }
        if payload.is_empty() && flags & FIN == 0 {
            return None;
        }
        let gap = i32::from_ne_bytes(seq.wrapping_sub(self.next).to_ne_bytes());
        if gap > 0 {
            let place = self.at + u64::from(gap.unsigned_abs());
            self.beyond.insert(place, payload.to_vec());
        } else if let Some(new) = payload.get(gap.unsigned_abs() as usize..) {
            self.accept(new);
            while let Some(entry) = self.beyond.first_entry().filter(|e| *e.key() <= self.at) {
                let (place, payload) = entry.remove_entry();
                let known = usize::try_from(self.at - place).unwrap();
                self.accept(payload.get(known..).unwrap_or_default());
            }
            if flags & FIN != 0 {
                self.next = self.next.wrapping_add(1);
                self.finished = true;
            }
        }
        Some(self.reply(frame, ACK, 1, &[]))
    }

    fn accept(&mut self, octets: &[u8]) {
        for found in octets {
            assert_eq!(*found, octet(self.at), "the stream is altered at {}", self.at);
            self.at += 1;
        }
        self.next = self.next.wrapping_add(u32::try_from(octets.len()).unwrap());
    }

    fn reply(&self, to: &[u8], flags: u8, seq: u32, options: &[u8]) -> Vec<u8> {
        let mac = |at: usize| -> [u8; 6] { to[at..at + 6].try_into().unwrap() };
        let peer = Ipv4Addr::new(to[26], to[27], to[28], to[29]);
        let mut segment = [&to[36..38], &to[34..36]].concat();
        segment.extend(seq.to_be_bytes());
        segment.extend(self.next.to_be_bytes());
        let words = u8::try_from((20 + options.len()) / 4).unwrap();
        segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        let sum = checksum(pseudo([self.ip, peer], TCP, segment.len()), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        ipv4([mac(0), mac(6)], [self.ip, peer], TCP, &segment)
    }
}

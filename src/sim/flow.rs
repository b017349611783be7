//! The reference FIFO: what goes into one direction of a queue pair, and what may come out.
//!
//! Frames are numbered, and their octets follow from their number. They come out in order, none twice,
//! none altered, and in the session in which they went in. Of a session that goes on, as many may be
//! missing as either end has counted as dropped; of one that has ended, one ring more.

use std::collections::{BTreeMap, VecDeque};

use super::random::mix;
use crate::net::features::Features;
use crate::spec::net::{self, HEADER_LEN};
use crate::tunnel::part::Role;

/// Frames that a session may lose when it ends: those in one ring, and one that waits for room.
pub(super) const RING: u64 = 257;
/// Where the number stands: behind the virtio-net header.
const NUMBER: usize = HEADER_LEN;
/// Shortest frame: header, and an Ethernet header in which the number stands.
pub(super) const SHORTEST: usize = HEADER_LEN + 14;
/// What the device writes, whatever the frame says.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;

/// Epochs of the device and of the driver.
pub(super) type Session = (u32, u32);

/// What a frame asks of whoever sends it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offload {
    None,
    Checksum,
    Segments,
}

/// A frame that went in and has not come out.
#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    len: usize,
    offload: Offload,
    session: Session,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    missing: u64,
    dropped: u64,
    ended: bool,
}

/// One direction of one queue pair.
#[derive(Debug)]
pub(super) struct Flow {
    key: u64,
    /// Who sends.
    from: Role,
    next: u64,
    out: VecDeque<Sent>,
    /// The number after that of the frame that came out last.
    came: u64,
    accounts: BTreeMap<Session, Account>,
    /// Frames, and their bytes, that came out.
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) dropped: u64,
}

/// Writes what follows from a number.
fn fill(frame: &mut [u8], key: u64, number: u64) {
    let mut state = mix(key ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for chunk in frame.chunks_mut(8) {
        state = state.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(23) ^ key;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

impl Flow {
    pub(super) fn new(key: u64, from: Role) -> Self {
        Self {
            key: mix(key),
            from,
            next: 0,
            out: VecDeque::new(),
            came: 0,
            accounts: BTreeMap::new(),
            frames: 0,
            bytes: 0,
            lost: 0,
            dropped: 0,
        }
    }

    fn offload(&self, number: u64, len: usize, features: Features) -> Offload {
        let (csum, tso) = match self.from {
            Role::Device => (net::F_GUEST_CSUM, net::F_GUEST_TSO4),
            Role::Driver => (net::F_CSUM, net::F_HOST_TSO4),
        };
        match mix(self.key ^ number) % 4 {
            0 if features.has(tso) && len > 1600 => Offload::Segments,
            0 | 1 if features.has(csum) && len > 100 => Offload::Checksum,
            _ => Offload::None,
        }
    }

    fn write(&self, number: u64, offload: Offload, frame: &mut [u8]) {
        let (header, rest) = frame.split_at_mut(HEADER_LEN);
        header.fill(0);
        if offload != Offload::None {
            header[0] = net::HDR_F_NEEDS_CSUM;
            header[6] = 34; // csum_start
            header[8] = 16; // csum_offset
        }
        if offload == Offload::Segments {
            header[1] = net::GSO_TCPV4;
            header[2] = 54; // hdr_len
            header[4..6].copy_from_slice(&1448u16.to_le_bytes());
        }
        rest[..8].copy_from_slice(&number.to_le_bytes());
        fill(&mut rest[8..], self.key, number);
    }

    /// The next frame, of `len` bytes with its header, for the netdev to give.
    pub(super) fn make(&self, len: usize, features: Features, frame: &mut Vec<u8>) {
        frame.resize(len, 0);
        self.write(self.next, self.offload(self.next, len, features), frame);
    }

    /// The frame that was made went in.
    pub(super) fn went(&mut self, len: usize, features: Features, session: Session) {
        let offload = self.offload(self.next, len, features);
        self.out.push_back(Sent { number: self.next, len, offload, session });
        self.next += 1;
        self.accounts.entry(session).or_default();
    }

    /// The frame that was made was dropped at once, and counted.
    pub(super) fn refused(&mut self) {
        self.next += 1;
        self.dropped += 1;
    }

    /// An end counted a frame of this session as dropped.
    pub(super) fn dropped(&mut self, session: Session) {
        self.dropped += 1;
        self.accounts.entry(session).or_default().dropped += 1;
    }

    /// An end's worker with this session is gone.
    pub(super) fn ended(&mut self, session: Session) {
        self.accounts.entry(session).or_default().ended = true;
    }

    /// A frame came out, in this session.
    pub(super) fn came(&mut self, frame: &[u8], session: Session) -> Result<u64, String> {
        let number = frame.get(NUMBER..NUMBER + 8).and_then(|octets| octets.try_into().ok());
        let number = u64::from_le_bytes(number.ok_or("a frame that is too short came out")?);
        if number >= self.next {
            return Err(format!("frame {number} came out, and {} was sent last", self.next));
        }
        if number < self.came {
            return Err(format!("frame {number} came out again or late, after {}", self.came));
        }
        while let Some(sent) = self.out.front().filter(|sent| sent.number < number) {
            self.accounts.entry(sent.session).or_default().missing += 1;
            self.lost += 1;
            self.out.pop_front();
        }
        let sent = self.out.pop_front().filter(|sent| sent.number == number);
        let sent = sent.ok_or_else(|| format!("frame {number} came out, and was dropped"))?;
        self.came = number + 1;
        if sent.session != session {
            return Err(format!(
                "frame {number} of session {:x?} came out in {session:x?}",
                sent.session
            ));
        }
        self.compare(&sent, frame)?;
        self.frames += 1;
        self.bytes += frame.len() as u64;
        Ok(number)
    }

    fn compare(&self, sent: &Sent, frame: &[u8]) -> Result<(), String> {
        let number = sent.number;
        if frame.len() != sent.len {
            let len = frame.len();
            return Err(format!("frame {number} has {len} bytes and had {}", sent.len));
        }
        let mut want = vec![0; sent.len];
        self.write(number, sent.offload, &mut want);
        want[NUM_BUFFERS].copy_from_slice(&frame[NUM_BUFFERS]);
        match want.iter().zip(frame).position(|(want, has)| want != has) {
            None => Ok(()),
            Some(at) => Err(format!("frame {number} of {} bytes is altered at {at}", sent.len)),
        }
    }

    /// Judges what is missing, with no doorbell, copy or store on its way.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for (session, account) in &self.accounts {
            let Account { missing, dropped, ended } = *account;
            let most = dropped + if ended { RING } else { 0 };
            if missing > most {
                return Err(format!(
                    "{missing} frames of session {session:x?} are missing, {dropped} were dropped{}",
                    if ended { ", and it has ended" } else { "" }
                ));
            }
        }
        // What has ended and has nothing on its way is done with.
        let open = self.out.front().map(|sent| sent.session);
        self.accounts.retain(|session, account| !account.ended || Some(*session) == open);
        Ok(())
    }

    /// What is left is lost: nothing more can come out. In a session that goes on only what was dropped.
    pub(super) fn close(&mut self) -> Result<(), String> {
        for sent in std::mem::take(&mut self.out) {
            self.accounts.entry(sent.session).or_default().missing += 1;
            self.lost += 1;
        }
        self.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Session = (3, 5);

    fn sent(flow: &mut Flow, len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        flow.make(len, Features::OFFER, &mut frame);
        flow.went(len, Features::OFFER, HERE);
        frame
    }

    fn flow() -> Flow {
        Flow::new(7, Role::Device)
    }

    #[test]
    fn what_went_in_comes_out_once_and_in_order() {
        let mut flow = flow();
        let frames: Vec<_> = [26, 27, 1514, 9000, 60_000].map(|len| sent(&mut flow, len)).into();
        for frame in &frames {
            flow.came(frame, HERE).unwrap();
        }
        assert!(flow.close().is_ok() && flow.came(&frames[4], HERE).is_err());
    }

    #[test]
    fn what_is_altered_late_strange_or_of_another_session_is_found() {
        let wrong = |spoil: fn(&mut Flow, &mut Vec<u8>) -> Session| {
            let mut flow = flow();
            let mut frame = sent(&mut flow, 200);
            sent(&mut flow, 300);
            let session = spoil(&mut flow, &mut frame);
            flow.came(&frame, session).unwrap_err()
        };
        assert!(
            wrong(|_, frame| {
                frame[199] ^= 1;
                HERE
            })
            .contains("altered at 199")
        );
        assert!(
            wrong(|_, frame| {
                frame[0] ^= 4;
                HERE
            })
            .contains("altered at 0")
        );
        assert!(
            wrong(|_, frame| {
                frame.pop();
                HERE
            })
            .contains("199 bytes")
        );
        assert!(
            wrong(|_, frame| {
                frame[12] = 9;
                HERE
            })
            .contains("was sent last")
        );
        assert!(wrong(|_, _| (3, 6)).contains("came out in"));
        let late = wrong(|flow, _| {
            let mut second = vec![0; 300];
            let sent = flow.out[1];
            flow.write(sent.number, sent.offload, &mut second);
            flow.came(&second, HERE).unwrap();
            HERE
        });
        assert!(late.contains("again or late"), "{late}");
    }

    #[test]
    fn what_is_missing_was_counted_or_lost_with_its_session() {
        let mut flow = flow();
        let frames: Vec<_> = (0..400).map(|_| sent(&mut flow, 60)).collect();
        flow.came(&frames[2], HERE).unwrap();
        assert!(flow.settle().is_err(), "two are missing");
        flow.dropped(HERE);
        flow.dropped(HERE);
        assert!(flow.settle().is_ok());
        flow.ended(HERE);
        flow.came(&frames[260], HERE).unwrap();
        assert!(flow.settle().is_ok(), "257 more");
        let mut flow = self::flow();
        (0..258).for_each(|_| drop(sent(&mut flow, 60)));
        flow.ended(HERE);
        assert!(flow.close().is_err(), "258 are more than a ring");
    }
}

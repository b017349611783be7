//! A stream of numbered frames, each with a checksum of its own, and the judgement of what comes back.

use boardlane::spec::net::HEADER_LEN;

/// Offsets in a frame without virtio-net header, behind the Ethernet header.
const NUMBER: usize = 14;
const CHECKSUM: usize = 22;
const PAYLOAD: usize = 30;

/// The frame of this number, virtio-net header included.
pub(crate) fn frame(number: u64) -> Vec<u8> {
    let mut dice = number;
    let mut roll = || {
        dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    // Now and then one that is more than a netdev's usual ones.
    let most = if number % 61 == 60 { 9000 } else { 1454 };
    let len = 60 + usize::try_from(roll() % most).unwrap();
    let mut frame = vec![0; HEADER_LEN + len];
    let body = &mut frame[HEADER_LEN..];
    body[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9]);
    body[12..NUMBER].copy_from_slice(&[0x88, 0xb5]); // an EtherType for experiments
    body[NUMBER..CHECKSUM].copy_from_slice(&number.to_le_bytes());
    for octets in body[PAYLOAD..].chunks_mut(8) {
        octets.copy_from_slice(&roll().to_le_bytes()[..octets.len()]);
    }
    let sum = checksum(body);
    body[CHECKSUM..PAYLOAD].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// FNV-1a of all but the checksum itself, and the length.
fn checksum(body: &[u8]) -> u64 {
    let octets = body[..CHECKSUM].iter().chain(&body[PAYLOAD..]);
    let sum = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3);
    octets.fold(0xcbf2_9ce4_8422_2325 ^ body.len() as u64, sum)
}

/// The number of a frame that is what it was, without virtio-net header.
fn number(body: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let (number, sum) = (word(NUMBER)?, word(CHECKSUM)?);
    // A checksum of zeros might be that of zeros.
    (body.len() >= 60 && body[13] == 0xb5 && sum == checksum(body)).then_some(number)
}

/// What was found from one event (a kill, a new connection) to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Frames that came, each time that one did.
    pub(crate) came: u64,
    pub(crate) altered: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// Places where the numbers did not go up by one.
    pub(crate) breaks: u64,
}

/// What has been sent, and what is to come.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Number of the next frame to be sent.
    pub(crate) next: u64,
    /// Number of the frame that is to come next.
    pub(crate) due: u64,
    seen: Seen,
}

impl Stream {
    /// A frame came, virtio-net header included.
    pub(crate) fn judge(&mut self, frame: &[u8]) {
        self.seen.came += 1;
        // `num_buffers` is the ring's own business.
        let clean = frame.len() > HEADER_LEN && frame[..10] == [0; 10];
        let number = if clean { number(&frame[HEADER_LEN..]) } else { None };
        let Some(number) = number.filter(|number| *number < self.next) else {
            self.seen.altered += 1;
            return;
        };
        if number != self.due {
            self.seen.breaks += 1;
            self.seen.lost += number.saturating_sub(self.due);
            self.seen.repeated += self.due.saturating_sub(number);
        }
        self.due = number + 1;
    }

    /// What has been found since this was asked last.
    pub(crate) fn take(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// What has been found so far.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Frames that are under way.
    pub(crate) fn under_way(&self) -> u64 {
        self.next - self.due
    }
}

//! What was sent and has not come yet, and the judgement of what comes.
//!
//! Order holds within a flow. A frame that comes in the state in which it was sent is right at once;
//! else both, what was sent and what came, are finished ([`segment`]) and compared piece by piece.
//! What was passed over is missing; if it comes later, it was swapped, and if not, it is lost.

use std::collections::VecDeque;
use std::fmt;
use std::mem::take;

use super::frame::{
    Frame, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, IPV6, Identity, Vnet, word,
};
use super::kinds::{FLOWS, kind_of};
use super::maker::Maker;
use super::segment;

/// Faults that are told in full.
const TOLD: usize = 12;

/// What frames of a way may leave to the receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) csum: bool,
    pub(crate) tso4: bool,
    pub(crate) tso6: bool,
    pub(crate) ecn: bool,
    pub(crate) uso4: bool,
    pub(crate) uso6: bool,
}

/// What was found wrong, in finished frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) swapped: u64,
    pub(crate) altered: u64,
    /// Frames that left to the receiver what was not negotiated.
    pub(crate) not_allowed: u64,
    /// The first of them.
    pub(crate) told: Vec<String>,
}

impl Faults {
    pub(crate) fn count(&self) -> u64 {
        self.lost + self.repeated + self.swapped + self.altered + self.not_allowed
    }

    fn tell(&mut self, id: Identity, what: fmt::Arguments<'_>) {
        if self.told.len() < TOLD {
            let (name, Identity { flow, number }) = (kind_of(id.flow).name, id);
            self.told.push(format!("{name}, flow {flow} number {number}: {what}"));
        }
    }
}

/// What came right, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Came {
    /// Finished frames.
    pub(crate) finished: u64,
    pub(crate) bytes: u64,
    /// Frames whose checksum was left over, and was it alone.
    pub(crate) partial: u64,
    /// Frames that came unsegmented: TCP over IPv4, over IPv6, UDP.
    pub(crate) whole: [u64; 3],
}

/// A frame of which something has not come yet.
struct Expected {
    id: Identity,
    frame: Frame,
    /// How many finished frames of it have not come yet.
    left: usize,
    /// They, once they were needed.
    finished: Option<VecDeque<Vec<u8>>>,
}

impl Expected {
    fn finished(&mut self) -> &mut VecDeque<Vec<u8>> {
        self.finished.get_or_insert_with(|| {
            let Frame { vnet, bytes } = &self.frame;
            segment::finished(vnet, bytes).expect("a frame that was made here").into()
        })
    }

    /// Takes out what equals `came`; gives what was due before it.
    fn take(&mut self, came: &[u8]) -> Option<Vec<Vec<u8>>> {
        let finished = self.finished();
        let at = finished.iter().position(|due| equal(due, came))?;
        let passed: Vec<_> = finished.drain(..=at).take(at).collect();
        self.left -= at + 1;
        Some(passed)
    }
}

/// One way's account.
pub(crate) struct Ledger {
    allowed: Allowed,
    /// Whether frames go by several queues of the sending netdev.
    queues: bool,
    pending: Vec<VecDeque<Expected>>,
    /// Passed over.
    missing: Vec<Expected>,
    in_flight: usize,
    pub(crate) came: Came,
    pub(crate) faults: Faults,
}

impl Ledger {
    pub(crate) fn new(allowed: Allowed, queues: bool) -> Self {
        Self {
            allowed,
            queues,
            pending: (0..FLOWS).map(|_| VecDeque::new()).collect(),
            missing: Vec::new(),
            in_flight: 0,
            came: Came::default(),
            faults: Faults::default(),
        }
    }

    /// Finished frames that are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Notes a frame that is sent now.
    pub(crate) fn sent(&mut self, id: Identity, frame: Frame) {
        let left = segment::count(&frame.vnet, &frame.bytes);
        self.in_flight += left;
        let expected = Expected { id, frame, left, finished: None };
        self.pending[usize::from(id.flow)].push_back(expected);
    }

    /// Judges a frame that came. `false`: it is not one of the checker's.
    pub(crate) fn receive(&mut self, maker: &Maker, vnet: &Vnet, bytes: &[u8]) -> bool {
        let Some(id) = Identity::of(bytes).filter(|id| usize::from(id.flow) < FLOWS) else {
            return false;
        };
        self.look_at_offload(id, vnet);
        let pending = &mut self.pending[usize::from(id.flow)];
        let as_sent = pending.front().is_some_and(|next| {
            next.finished.is_none() && next.frame.vnet.same(vnet) && next.frame.bytes == bytes
        });
        if as_sent {
            let left = pending.pop_front().map_or(0, |next| next.left);
            self.in_flight -= left;
            self.right(left, bytes.len());
            return true;
        }
        match segment::finished(vnet, bytes) {
            Ok(finished) => finished.iter().for_each(|piece| self.piece(maker, id, piece)),
            Err(why) => self.altered(id, format_args!("came unfit to be finished: {why}")),
        }
        true
    }

    /// No more will come: what has not come is lost.
    pub(crate) fn close(&mut self) {
        let mut lost = take(&mut self.missing);
        lost.extend(self.pending.iter_mut().flat_map(|flow| flow.drain(..)));
        self.in_flight = 0;
        for Expected { id, frame, left, .. } in lost {
            self.faults.lost += left as u64;
            let of = segment::count(&frame.vnet, &frame.bytes);
            let len = frame.bytes.len();
            self.faults.tell(id, format_args!("lost, {left} of {of} pieces ({len} bytes)"));
        }
    }

    fn right(&mut self, pieces: usize, bytes: usize) {
        self.came.finished += pieces as u64;
        self.came.bytes += bytes as u64;
    }

    fn altered(&mut self, id: Identity, what: fmt::Arguments<'_>) {
        self.faults.altered += 1;
        self.faults.tell(id, what);
    }

    fn look_at_offload(&mut self, id: Identity, vnet: &Vnet) {
        let Allowed { csum, tso4, tso6, ecn, uso4, uso6 } = self.allowed;
        let v6 = kind_of(id.flow).net.ethertype() == IPV6;
        let (allowed, whole) = match vnet.gso_type & !GSO_ECN {
            GSO_NONE => (csum || !vnet.needs_csum(), None),
            GSO_TCPV4 => (tso4, Some(0)),
            GSO_TCPV6 => (tso6, Some(1)),
            GSO_UDP => (if v6 { uso6 } else { uso4 }, Some(2)),
            _ => (false, None),
        };
        match whole {
            Some(i) => self.came.whole[i] += 1,
            None => self.came.partial += u64::from(vnet.needs_csum()),
        }
        if !allowed || (vnet.gso_type & GSO_ECN != 0 && !ecn) {
            self.faults.not_allowed += 1;
            self.faults.tell(id, format_args!("came with {vnet:?}, which was not negotiated"));
        }
    }

    /// Judges a finished frame.
    fn piece(&mut self, maker: &Maker, id: Identity, came: &[u8]) {
        let pending = &mut self.pending[usize::from(id.flow)];
        if let Some(found) = pending.iter().position(|due| due.id == id) {
            // What is before it was passed over, if the flow's order holds.
            let spread = self.queues && kind_of(id.flow).is_spread();
            let (at, passed) = if spread { (found, 0) } else { (0, found) };
            for passed in pending.drain(..passed) {
                self.in_flight -= passed.left;
                self.missing.push(passed);
            }
            let due = &mut pending[at];
            let taken = due.take(came);
            if let Some(passed) = taken {
                self.in_flight -= passed.len() + 1;
                if !passed.is_empty() {
                    let (frame, left) = (due.frame.clone(), passed.len());
                    self.missing.push(Expected { id, frame, left, finished: Some(passed.into()) });
                }
                if due.left == 0 {
                    pending.remove(at);
                }
                return self.right(1, came.len());
            }
        }
        if self.was_missing(id, came) {
            self.faults.swapped += 1;
            self.faults.tell(id, format_args!("came after what was sent later"));
        } else if Self::is_repeated(maker, id, came) {
            self.faults.repeated += 1;
            self.faults.tell(id, format_args!("came once more"));
        } else {
            self.unequal(id, came);
        }
    }

    /// What equals nothing that was sent stands for what is due.
    fn unequal(&mut self, id: Identity, came: &[u8]) {
        let pending = &mut self.pending[usize::from(id.flow)];
        let due = pending.iter_mut().find(|due| due.id == id);
        let Some(piece) = due.and_then(|due| {
            due.left -= 1;
            due.finished().pop_front()
        }) else {
            return self.altered(id, format_args!("nothing like it is under way"));
        };
        self.in_flight -= 1;
        pending.retain(|due| due.left > 0);
        self.altered(id, format_args!("{}", difference(&piece, came)));
    }

    /// Takes what had been passed over.
    fn was_missing(&mut self, id: Identity, came: &[u8]) -> bool {
        for due in self.missing.iter_mut().filter(|due| due.id == id) {
            let finished = due.finished();
            if let Some(at) = finished.iter().position(|due| equal(due, came)) {
                finished.remove(at);
                due.left -= 1;
                self.missing.retain(|due| due.left > 0);
                return true;
            }
        }
        false
    }

    /// Whether it is a piece of a frame of this number; then it came before.
    fn is_repeated(maker: &Maker, id: Identity, came: &[u8]) -> bool {
        let Frame { vnet, bytes } = maker.make(id);
        let pieces = segment::finished(&vnet, &bytes).expect("a frame that was made here");
        pieces.iter().any(|piece| equal(piece, came))
    }
}

/// Whether they are the same frame. Zero and all ones mean the same in TCP's checksum.
fn equal(due: &[u8], came: &[u8]) -> bool {
    if due == came {
        return true;
    }
    let check = Identity::of(due).and_then(|id| kind_of(id.flow).tcp_checksum(due));
    let Some(at) = check.filter(|at| due.len() == came.len() && at + 2 <= due.len()) else {
        return false;
    };
    let zero = |bytes: &[u8]| matches!(word(bytes, at), 0 | 0xffff);
    due[..at] == came[..at] && zero(due) && zero(came) && due[at + 2..] == came[at + 2..]
}

fn difference(due: &[u8], came: &[u8]) -> String {
    if due.len() != came.len() {
        return format!("{} bytes came where {} were due", came.len(), due.len());
    }
    let differ = || (0..due.len()).filter(|&i| due[i] != came[i]);
    let (first, count) = (differ().next().unwrap_or(0), differ().count());
    let (a, b) = (due[first], came[first]);
    format!("byte {first} of {} came as {b:#04x}, not {a:#04x} ({count} differ)", due.len())
}

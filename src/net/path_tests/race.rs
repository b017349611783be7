//! Another thread changes a frame's source while it is received: what comes out is what was judged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::memory::View;
use crate::net::driver_path::RECEIVE_BUFFER;
use crate::net::engine_path::{EnginePath, EngineUse};
use crate::net::sources::Sources;

const TRIES: u32 = 100_000;
/// The sender's own addresses; of each the last 16 bits become another's.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const IP: [u8; 4] = [10, 77, 0, 2];
const MAC_AT: usize = net::HEADER_LEN + 6;
const IP_AT: usize = net::HEADER_LEN + 14 + 12;
const OTHERS: u16 = 0x0909;

/// A frame from those addresses, longer than what is checked.
fn honest() -> Vec<u8> {
    let mut frame = vec![0; net::HEADER_LEN + 300];
    frame[MAC_AT..][..6].copy_from_slice(&MAC);
    frame[net::HEADER_LEN + 12..][..3].copy_from_slice(&[8, 0, 0x45]);
    frame[IP_AT..][..4].copy_from_slice(&IP);
    frame
}

fn is_honest(frame: &[u8]) -> bool {
    frame[MAC_AT..][..6] == MAC && frame[IP_AT..][..4] == IP
}

/// What was seen in so many tries.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    refused: u32,
    /// Shared memory held another source than the frame that had just been found good.
    changed: u32,
    /// A receiver that judges shared memory, and then copies, would have been fooled.
    fooled: u32,
}

/// A link's memory, and where frames of its sender begin in it.
struct Field {
    mem: Arc<BusMemory>,
    frames: Vec<u64>,
    sources: Sources,
}

impl Field {
    /// The 16 bits of a frame's fields that the attack changes, and their honest values.
    fn fields(&self, at: u64) -> [(View<'_>, u16); 2] {
        let field = |field: usize, own: [u8; 2]| {
            let span = self.mem.resolve(at + field as u64, 2).unwrap();
            (self.mem.view(span).unwrap(), u16::from_le_bytes(own))
        };
        [field(MAC_AT + 4, [MAC[4], MAC[5]]), field(IP_AT + 2, [IP[2], IP[3]])]
    }

    fn is_honest_now(&self, at: u64) -> bool {
        self.fields(at).iter().all(|(view, own)| view.load_le16(0) == *own)
    }

    /// What a receiver that judges shared memory finds.
    fn judge_shared(&self, at: u64) -> Result<(), Drop> {
        let mut start = [0; net::HEADER_LEN + 34];
        let span = self.mem.resolve(at, start.len() as u32).unwrap();
        self.mem.view(span).unwrap().copy_to(0, &mut start);
        self.sources.check(&start)
    }

    /// Makes each frame another's and honest again, until told to stop.
    fn attack(&self, stop: &AtomicBool) {
        let fields: Vec<_> = self.frames.iter().flat_map(|at| self.fields(*at)).collect();
        while !stop.load(Ordering::Relaxed) {
            fields.iter().for_each(|(view, _)| view.store_le16(0, OTHERS));
            fields.iter().for_each(|(view, own)| view.store_le16(0, *own));
        }
    }

    /// One frame from the sender to the receiver's netdev.
    fn pass(&self, sender: &mut dyn Path, receiver: &mut dyn Path, tally: &mut Tally) {
        let (mem, frame) = (&*self.mem, honest());
        read(mem, sender.room(mem).unwrap(), &frame);
        assert_eq!(sender.sent(mem, frame.len()).unwrap(), None);
        sender.flush(mem);
        let local = receiver.local();
        if let Some(local) = &local {
            assert!(matches!(receiver.receive(mem).unwrap(), Inward::Empty), "a copy comes first");
            let transfer = receiver.poll_transfer().unwrap();
            receiver.handle_completion(carry_out(mem, local, transfer)).unwrap();
        }
        match receiver.receive(mem).unwrap() {
            Inward::Frame { prefix, tail, len } => match self.sources.check(prefix) {
                Ok(()) => {
                    tally.passed += 1;
                    let other = self.frames.iter().any(|at| !self.is_honest_now(*at));
                    tally.changed += u32::from(other);
                    let out = written(local.as_deref().unwrap_or(mem), prefix, tail, len);
                    assert!(is_honest(&out), "{:02x?} came out", &out[..64]);
                }
                Err(Drop::ForeignMac | Drop::ForeignIp) => tally.refused += 1,
                Err(other) => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        receiver.received(mem).unwrap();
        receiver.release(mem);
    }
}

/// Has frames pass while another thread attacks, at least [`TRIES`], and until the attack has been seen.
fn race(what: &str, field: &Field, mut sender: impl Path, mut receiver: impl Path) {
    let (stop, start) = (AtomicBool::new(false), Instant::now());
    let mut tally = Tally::default();
    let mut tries = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| field.attack(&stop));
        // Also when an assertion fails, or the scope would wait for ever.
        let raced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let seen = |t: &Tally| t.changed > 0 && t.fooled > 0 && t.refused > 0 && t.passed > 0;
            while tries < TRIES || !seen(&tally) && start.elapsed() < Duration::from_secs(10) {
                tries += 1;
                field.pass(&mut sender, &mut receiver, &mut tally);
                let at = field.frames[0];
                let fooled = field.judge_shared(at).is_ok() && !field.is_honest_now(at);
                tally.fooled += u32::from(fooled);
            }
            assert!(seen(&tally), "{what}: the attack was not seen: {tally:?}");
        }));
        stop.store(true, Ordering::Relaxed);
        raced.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{what}: {tries} frames in {:.1} s, {tally:?}", start.elapsed().as_secs_f64());
}

/// Where the buffers of a placement's `range` begin that a frame at a time uses.
fn starts(range: &std::ops::Range<u64>, buffers: u64) -> Vec<u64> {
    (0..buffers).map(|i| range.start + i * u64::from(RECEIVE_BUFFER)).collect()
}

/// Our own placement with few receive buffers, in memory for both ends.
fn field(to_driver: bool) -> (Field, Features, Placement) {
    let features = features(true, true, true);
    let placement = placed(1 << 20, features, [2, 2]);
    let frames = match to_driver {
        true => starts(&placement.buffers.receive, 2),
        // The arena starts again when nothing is in flight.
        false => starts(&placement.buffers.transmit, 1),
    };
    let mem = Arc::new(memory(1 << 20, Kind::Cached, Kind::Cached));
    let sources = Sources::new(&[MAC], &[(IP.into(), 32)]).unwrap();
    (Field { mem, frames, sources }, features, placement)
}

#[test]
fn a_source_that_changes_while_it_is_received_never_comes_out_at_the_master() {
    let (field, features, placement) = field(true);
    let driver = driver_path(&field.mem, features, &placement);
    let device = device_path(&field.mem, features, &placement);
    race("driver's path", &field, device, driver);
}

#[test]
fn a_source_that_changes_while_it_is_received_never_comes_out_at_the_board() {
    let (field, features, placement) = field(false);
    let driver = driver_path(&field.mem, features, &placement);
    let device = device_path(&field.mem, features, &placement);
    race("device's path", &field, driver, device);
}

#[test]
fn a_source_that_changes_while_an_engine_copies_never_comes_out_at_the_board() {
    let (field, features, placement) = field(false);
    let driver = driver_path(&field.mem, features, &placement);
    let use_ = EngineUse { cpu_below: 0 };
    let Placement { receiveq, transmitq, .. } = &placement;
    let engine = EnginePath::new(&field.mem, features, receiveq, transmitq, use_).unwrap();
    race("engine's path", &field, driver, engine);
}

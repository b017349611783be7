//! virtio-drivers' network driver against our device: it negotiates with the device model as with any
//! other transport, and its rings are emptied and filled by the device's path.
//!
//! Of `EVENT_IDX` it knows less than the standard: `should_notify` compares indices without their
//! wrapping (§2.7.10.1), and there is no full barrier between its index and that comparison (§2.7.13.4.1).
//! In one thread neither loses a notification, as each chain is published, and compared, alone. With a
//! thread of its own, our end looks at the ring once in a while, as the worker does with a heartbeat.

#![allow(unsafe_code, reason = "virtio-drivers lends buffers to the device by unsafe calls")]

mod board;
mod front_end;
mod hal;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boardlane::net::features::Features;
use boardlane::net::frame::Drop as Reason;
use boardlane::spec::net::HEADER_LEN;
use boardlane::spec::{net, virtio};
use proptest::prelude::*;
use virtio_drivers::device::net::{TxBuffer, VirtIONet, VirtIONetRaw};

use super::Random;
use super::netdev::{LONGEST, frame, frame_len};
use board::{Bus, MAC};
use hal::Arena;

const SIZE: usize = 16;
/// Receive buffers that hold any frame, in whole words.
const BUFFER: usize = (HEADER_LEN + LONGEST).next_multiple_of(8);

type Net = VirtIONet<Arena, Bus, SIZE>;

/// With and without what of the ring's features it knows.
fn offers() -> impl Iterator<Item = Features> {
    let ring = [virtio::F_EVENT_IDX, virtio::F_INDIRECT_DESC];
    (0..4).map(move |off| {
        let bits = (0..2).filter(|i| off >> i & 1 == 1).map(|i| Features::of(&[ring[i]]));
        Features::OFFER.without(bits.fold(Features::NONE, Features::union))
    })
}

fn accepted(offer: Features) -> Features {
    offer.intersection(Features::of(&[
        virtio::F_VERSION_1,
        virtio::F_EVENT_IDX,
        virtio::F_INDIRECT_DESC,
        net::F_MAC,
        net::F_STATUS,
    ]))
}

fn is_frame(got: &[u8], number: usize, len: usize) {
    assert!(got == frame(number, len), "frame {number} of {len} bytes came as {}", got.len());
}

#[test]
fn virtio_drivers_sends_and_receives_frames_of_all_sizes_until_the_indices_wrap() {
    for offer in offers() {
        let bus = Bus::new(Arena::install(1), offer);
        let mut net = Net::new(bus.clone(), BUFFER).unwrap();
        assert_eq!(net.mac_address(), MAC);
        assert_eq!(bus.negotiated(), Some(accepted(offer)));
        let mut random = Random(7);
        bus.not_for_ever(|| {
            for number in 0..66_000 {
                let [there, back] = [(); 2].map(|()| match number {
                    ..3000 => frame_len(&mut random),
                    _ => 14 + number % 50,
                });
                net.send(TxBuffer::from(frame(number, there))).unwrap();
                is_frame(&bus.received().unwrap(), number, there);
                assert!(bus.send(frame(number + 1, back)), "the driver is told");
                let got = net.receive().unwrap();
                assert_eq!(got.as_bytes()[..HEADER_LEN], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
                is_frame(got.packet(), number + 1, back);
                net.recycle_rx_buffer(got).unwrap();
            }
        });
        assert!(bus.drops().is_empty());
        drop(net);
        assert!(!bus.is_running(), "a queue that is reset is not used any more");
        Arena::holds_buffers(SIZE, BUFFER);
    }
}

#[test]
fn frames_that_the_driver_s_buffers_cannot_hold_are_dropped_and_counted() {
    let bus = Bus::new(Arena::install(2), Features::OFFER);
    let mut net = Net::new(bus.clone(), 2048).unwrap();
    for number in 0..500 {
        bus.send(frame(number, 2037 + number));
        assert_eq!(bus.drops().len(), number + 1);
        bus.send(frame(number, 2036 - number));
        let got = net.receive().unwrap();
        is_frame(got.packet(), number, 2036 - number);
        net.recycle_rx_buffer(got).unwrap();
    }
    assert!(bus.drops().iter().all(|reason| *reason == Reason::TooLong));
}

#[test]
fn virtio_drivers_comes_back_after_a_reset_and_finds_a_device_that_works() {
    let bus = Bus::new(Arena::install(3), Features::OFFER);
    for number in 0..20 {
        let mut net = Net::new(bus.clone(), BUFFER).unwrap();
        bus.not_for_ever(|| net.send(TxBuffer::from(frame(number, 1000))).unwrap());
        is_frame(&bus.received().unwrap(), number, 1000);
        bus.send(frame(number, 60));
        is_frame(net.receive().unwrap().packet(), number, 60);
        if number % 2 == 0 {
            drop(net);
            assert!(!bus.is_running());
        } else {
            // Nobody resets the queues: the next driver resets the device.
            std::mem::forget(net);
            assert!(bus.is_running());
        }
    }
}

#[test]
fn virtio_drivers_does_not_notice_that_its_device_is_another_one_each_time() {
    for (seed, offer) in (20..).zip(offers()) {
        let bus = Bus::new(Arena::install(seed), offer);
        let mut net = Net::new(bus.clone(), BUFFER).unwrap();
        bus.replace_path();
        let mut random = Random(11);
        bus.not_for_ever(|| {
            for number in 0..66_000 {
                let [there, back] = [(); 2].map(|()| match number {
                    ..1000 => frame_len(&mut random),
                    _ => 14 + number % 50,
                });
                net.send(TxBuffer::from(frame(number, there))).unwrap();
                is_frame(&bus.received().unwrap(), number, there);
                assert!(bus.send(frame(number + 1, back)), "the driver is told");
                let got = net.receive().unwrap();
                is_frame(got.packet(), number + 1, back);
                net.recycle_rx_buffer(got).unwrap();
            }
        });
        assert!(bus.replaced() >= 132_000 && bus.drops().is_empty());
        drop(net);
        Arena::holds_buffers(SIZE, BUFFER);
    }
}

#[test]
fn the_two_run_in_threads_of_their_own() {
    for offer in offers() {
        let bus = Bus::new(Arena::install(4), offer);
        bus.run_when_kicked_only();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let device = bus.clone();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    device.turn(8);
                    device.wait_for_kick(Duration::from_millis(1));
                }
            });
            let mut net = Net::new(bus.clone(), BUFFER).unwrap();
            let mut random = Random(9);
            let (mut expected, mut number) = (VecDeque::new(), 0);
            while number < 3000 {
                let len = frame_len(&mut random);
                net.send(TxBuffer::from(frame(number, len))).unwrap();
                is_frame(&bus.received().unwrap(), number, len);
                let len = frame_len(&mut random);
                bus.queue(frame(number, len));
                expected.push_back((number, len));
                number += 1;
                let end = Instant::now() + Duration::from_secs(10);
                while expected.len() > random.below(2 * SIZE) || number == 3000 {
                    let Some((number, len)) = expected.pop_front() else { break };
                    while !net.can_recv() {
                        assert!(Instant::now() < end, "frame {number} does not come");
                        thread::yield_now();
                    }
                    let got = net.receive().unwrap();
                    is_frame(got.packet(), number, len);
                    net.recycle_rx_buffer(got).unwrap();
                }
            }
            drop(net);
            done.store(true, Ordering::Relaxed);
        });
        assert!(bus.drops().is_empty());
        Arena::holds_buffers(SIZE, BUFFER);
    }
}

/// The raw driver with buffers of ours, many under way at once, woken by notifications only.
struct Raw {
    net: VirtIONetRaw<Arena, Bus, SIZE>,
    sending: BTreeMap<u16, Vec<u8>>,
    receiving: BTreeMap<u16, Vec<u8>>,
    sent: usize,
    got: usize,
}

impl Raw {
    fn new(bus: &Bus) -> Self {
        let net = VirtIONetRaw::new(bus.clone()).unwrap();
        let mut raw =
            Self { net, sending: BTreeMap::new(), receiving: BTreeMap::new(), sent: 0, got: 0 };
        for i in 0..SIZE {
            raw.post(vec![0; BUFFER + i]);
        }
        raw
    }

    fn post(&mut self, mut buffer: Vec<u8>) {
        // SAFETY: the buffer is kept, and not looked at, until it comes back.
        let token = unsafe { self.net.receive_begin(&mut buffer) }.unwrap();
        assert!(self.receiving.insert(token, buffer).is_none());
    }

    /// Sends frames as long as there are descriptors.
    fn send(&mut self, most: usize, total: usize) {
        for _ in 0..most {
            if self.sent == total || self.sending.len() == SIZE {
                return;
            }
            let mut buffer = vec![0; HEADER_LEN];
            self.net.fill_buffer_header(&mut buffer).unwrap();
            buffer.extend_from_slice(frame(self.sent, len_of(self.sent)));
            // SAFETY: as above.
            let token = unsafe { self.net.transmit_begin(&buffer) }.unwrap();
            assert!(self.sending.insert(token, buffer).is_none());
            self.sent += 1;
        }
    }

    /// What an interrupt's handler does.
    fn take_used(&mut self) {
        while let Some(token) = self.net.poll_transmit() {
            let buffer = self.sending.remove(&token).unwrap();
            // SAFETY: the same buffer.
            let len = unsafe { self.net.transmit_complete(token, &buffer) }.unwrap();
            assert_eq!(len, 0, "the device writes nothing to what it reads");
        }
        while let Some(token) = self.net.poll_receive() {
            let mut buffer = self.receiving.remove(&token).unwrap();
            // SAFETY: the same buffer.
            let (header, len) = unsafe { self.net.receive_complete(token, &mut buffer) }.unwrap();
            assert_eq!(len, len_of(self.got));
            is_frame(&buffer[header..][..len], self.got, len);
            self.got += 1;
            self.post(buffer);
        }
    }
}

/// The length of a frame in either direction.
fn len_of(number: usize) -> usize {
    frame_len(&mut Random(u64::try_from(number * number + 1).unwrap() << 7 | 1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each end runs only after the other one rang, in any order and for as long as chance will have it;
    /// a notification that is not sent, and was asked for, stops the traffic for good.
    #[test]
    fn virtio_drivers_and_our_device_wake_each_other_under_any_schedule(
        seed in any::<u64>(),
        offer in 0..4usize,
    ) {
        const TOTAL: usize = 1500;
        let mut random = Random(seed | 1);
        let bus = Bus::new(Arena::install(seed), offers().nth(offer).unwrap());
        bus.run_when_kicked_only();
        let mut raw = Raw::new(&bus);
        let (mut given, mut taken) = (0, 0);
        // A driver starts to send by itself, and the netdev wakes our end.
        let mut interrupt = true;
        loop {
            if random.one_in(2) && given < TOTAL {
                for _ in 0..random.below(2 * SIZE).min(TOTAL - given) {
                    bus.queue(frame(given, len_of(given)));
                    given += 1;
                }
                bus.kick();
            }
            let device_may = bus.is_kicked();
            if device_may && (!interrupt || random.one_in(2)) {
                interrupt |= bus.turn(1 + random.below(2 * SIZE));
            } else if interrupt {
                interrupt = false;
                raw.take_used();
                raw.send(1 + random.below(2 * SIZE), TOTAL);
                // With descriptors left, it goes on by itself.
                interrupt |= raw.sent < TOTAL && raw.sending.len() < SIZE;
            } else if given == TOTAL {
                break;
            }
            while let Some(got) = bus.received() {
                is_frame(&got, taken, len_of(taken));
                taken += 1;
            }
        }
        prop_assert_eq!((raw.sent, taken, raw.got), (TOTAL, TOTAL, TOTAL), "both ends sleep");
        prop_assert!(bus.drops().is_empty());
    }
}

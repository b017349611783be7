//! Our driver half and driver path against a device made with virtio-queue.

use std::collections::VecDeque;
use std::io::{Read, Write};

use boardlane::net::driver_path::DriverPath;
use boardlane::net::features::Features;
use boardlane::net::placement::place;
use boardlane::spec::net::{self, HEADER_LEN};
use boardlane::spec::virtio;
use boardlane::virtqueue::{Buffer, DriverQueue, QueueConfig};
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::Random;
use super::image::{Guest, Image};
use super::netdev::{LONGEST, Worker, frame, frame_len};

const MIB: u64 = 1 << 20;
const BASE: u64 = 0x10_0000;
/// Window and driver memory, side by side.
const REGIONS: [(u64, u32); 2] = [(BASE, 4 << 20), (BASE + 4 * MIB, 12 << 20)];

/// What virtio-queue makes of a queue that our driver has set up.
fn theirs(image: &Image, config: &QueueConfig) -> Queue {
    let mut queue = Queue::new(config.size).unwrap();
    queue.try_set_desc_table_address(GuestAddress(config.desc)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(config.driver)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(config.device)).unwrap();
    queue.set_event_idx(config.event_idx);
    queue.set_ready(true);
    assert!(queue.is_valid(&image.guest));
    queue
}

/// A network device of virtio-queue's: it runs until both rings give nothing more, then asks for
/// notifications and sleeps.
struct Device<'i> {
    guest: &'i Guest,
    rx: Queue,
    tx: Queue,
    outbox: VecDeque<&'static [u8]>,
    inbox: VecDeque<Vec<u8>>,
}

impl Device<'_> {
    /// Up to `batch` frames in and out. `true`: notify the driver.
    fn batch(&mut self, batch: usize) -> (usize, bool) {
        let (mut taken, mut sent) = (0, 0);
        while taken < batch {
            let Some(chain) = self.tx.pop_descriptor_chain(self.guest) else { break };
            let head = chain.head_index();
            let mut reader = chain.reader(self.guest).unwrap();
            let mut header = [0; HEADER_LEN];
            reader.read_exact(&mut header).unwrap();
            assert_eq!(header, [0; HEADER_LEN]);
            let mut frame = Vec::new();
            reader.read_to_end(&mut frame).unwrap();
            self.inbox.push_back(frame);
            self.tx.add_used(self.guest, head, 0).unwrap();
            taken += 1;
        }
        while sent < batch && !self.outbox.is_empty() {
            let Some(chain) = self.rx.pop_descriptor_chain(self.guest) else { break };
            let head = chain.head_index();
            let mut writer = chain.writer(self.guest).unwrap();
            let frame = self.outbox.pop_front().unwrap();
            // `num_buffers` is 1.
            writer.write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap();
            writer.write_all(frame).unwrap();
            let len = u32::try_from(writer.bytes_written()).unwrap();
            self.rx.add_used(self.guest, head, len).unwrap();
            sent += 1;
        }
        let mut ring = false;
        for (queue, count) in [(&mut self.tx, taken), (&mut self.rx, sent)] {
            ring |= count > 0 && queue.needs_notification(self.guest).unwrap();
        }
        (taken + sent, ring)
    }

    /// One batch; `true`: notify the driver. The second: asleep.
    fn turn(&mut self, batch: usize) -> (bool, bool) {
        for queue in [&mut self.tx, &mut self.rx] {
            queue.disable_notification(self.guest).unwrap();
        }
        let (moved, ring) = self.batch(batch);
        if moved > 0 {
            return (ring, false);
        }
        let more = self.tx.enable_notification(self.guest).unwrap();
        let room = !self.outbox.is_empty() && self.rx.enable_notification(self.guest).unwrap();
        (ring, !more && !room)
    }

    /// Until it sleeps.
    fn run(&mut self) -> bool {
        let mut ring = false;
        loop {
            let (rings, asleep) = self.turn(64);
            ring |= rings;
            if asleep {
                return ring;
            }
        }
    }
}

/// Split rings, with and without what else a ring may have.
fn features() -> impl Iterator<Item = Features> {
    let split = Features::OFFER.without(Features::of(&[virtio::F_RING_PACKED]));
    let ring = [virtio::F_EVENT_IDX, virtio::F_INDIRECT_DESC, virtio::F_IN_ORDER, net::F_MRG_RXBUF];
    (0..16).map(move |off| {
        let bits = (0..4).filter(|i| off >> i & 1 == 1).map(|i| Features::of(&[ring[i]]));
        split.without(bits.fold(Features::NONE, Features::union))
    })
}

/// Our path in our own placement, and their device on its queues.
fn ends(image: &Image, features: Features, sizes: [u16; 2]) -> (Worker, Device<'_>) {
    let (window, driver) = (BASE..BASE + 4 * MIB, BASE + 4 * MIB..BASE + 16 * MIB);
    let p = place(window, driver, sizes, features).unwrap();
    let path =
        DriverPath::new(&image.mem, features, &p.receiveq, &p.transmitq, &p.buffers).unwrap();
    let device = Device {
        guest: &image.guest,
        rx: theirs(image, &p.receiveq),
        tx: theirs(image, &p.transmitq),
        outbox: VecDeque::new(),
        inbox: VecDeque::new(),
    };
    (Worker::new(path), device)
}

fn is_frame(got: Option<Vec<u8>>, number: usize, len: usize) {
    let got = got.unwrap_or_else(|| panic!("frame {number} of {len} bytes has not come"));
    assert!(got == frame(number, len), "frame {number} of {len} bytes came as {}", got.len());
}

#[test]
fn our_driver_path_works_with_a_device_of_virtio_queue_until_the_indices_wrap() {
    // The path's chains are of one buffer, which never takes an indirect table.
    for features in features().filter(|set| set.has(virtio::F_INDIRECT_DESC)) {
        let image = Image::new(&REGIONS);
        let (mut driver, mut device) = ends(&image, features, [256, 256]);
        let mut random = Random(5);
        let lens: Vec<_> = (0..1000).map(|_| frame_len(&mut random)).chain([14, LONGEST]).collect();
        // Large frames first, then small ones until both rings have gone round.
        let len = |number: usize| lens.get(number).copied().unwrap_or(14 + number % 50);
        let (mut sent, mut got) = (0, [0; 2]);
        while sent < 66_000 {
            for _ in 0..1 + random.below(40) {
                driver.outbox.push_back(frame(sent, len(sent)));
                device.outbox.push_back(frame(sent, len(sent)));
                sent += 1;
            }
            // Each wakes the other until both sleep.
            let (mut driver_runs, mut device_runs) = (true, true);
            while driver_runs || device_runs {
                device_runs |= driver_runs && driver.run(&image.mem);
                driver_runs = device_runs && device.run();
                device_runs = false;
            }
            while got[0] < sent {
                is_frame(device.inbox.pop_front(), got[0], len(got[0]));
                is_frame(driver.inbox.pop_front(), got[1], len(got[1]));
                got = got.map(|n| n + 1);
            }
        }
        assert!(driver.drops.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each end runs only after the other one rang, or its netdev; a notification that is not sent, and
    /// was asked for, stops the traffic for good.
    #[test]
    fn our_driver_path_and_a_device_of_virtio_queue_wake_each_other_under_any_schedule(
        seed in any::<u64>(),
        set in 0..16usize,
        sizes in prop::array::uniform2(prop::sample::select(vec![1u16, 2, 8, 64, 256])),
    ) {
        const TOTAL: usize = 1500;
        let image = Image::new(&REGIONS);
        let mut random = Random(seed | 1);
        let (mut driver, mut device) = ends(&image, features().nth(set).unwrap(), sizes);
        let lens: Vec<_> = (0..TOTAL).map(|_| frame_len(&mut random)).collect();
        let mut given = [0; 2];
        let mut got = [0; 2];
        let mut awake = [true; 2];
        loop {
            let end = random.below(2);
            if random.one_in(2) && given[end] < TOTAL {
                let outbox = if end == 0 { &mut driver.outbox } else { &mut device.outbox };
                for _ in 0..random.below(50).min(TOTAL - given[end]) {
                    outbox.push_back(frame(given[end], lens[given[end]]));
                    given[end] += 1;
                }
                awake[end] = true;
            }
            let batch = 1 + random.below(40);
            if end == 0 && awake[0] {
                awake[1] |= driver.turn(&image.mem, batch);
                awake[0] = !driver.is_asleep();
            } else if end == 1 && awake[1] {
                let (ring, asleep) = device.turn(batch);
                awake[0] |= ring;
                awake[1] = !asleep;
            } else if awake == [false; 2] && given == [TOTAL; 2] {
                break;
            }
            while let Some(got_frame) = device.inbox.pop_front() {
                is_frame(Some(got_frame), got[0], lens[got[0]]);
                got[0] += 1;
            }
            while let Some(got_frame) = driver.inbox.pop_front() {
                is_frame(Some(got_frame), got[1], lens[got[1]]);
                got[1] += 1;
            }
        }
        prop_assert_eq!(got, [TOTAL; 2], "both ends sleep");
        prop_assert!(driver.drops.is_empty());
    }
}

/// A queue by hand: chains of any buffers, and a device that writes what it read, inverted.
struct Echo<'i> {
    image: &'i Image,
    ours: DriverQueue,
    theirs: Queue,
    /// What the device is to read and write, by token.
    out: Vec<Option<Asked>>,
}

/// A chain that is out.
struct Asked {
    question: &'static [u8],
    answers: Vec<Buffer>,
}

const QUEUE: u64 = BASE;
const TABLES: u64 = BASE + 0x8000;
/// Of each token.
const PLACE: u64 = 0x1_0000;

impl<'i> Echo<'i> {
    fn new(image: &'i Image, config: &QueueConfig, entries: u16) -> Self {
        let mut ours = config.activate_driver(&image.mem).unwrap();
        ours.set_indirect_tables(&image.mem, TABLES, entries).unwrap();
        let out = (0..config.size).map(|_| None).collect();
        Self { image, ours, theirs: theirs(image, config), out }
    }

    /// Asks a question in some pieces, with room for the answer in some others.
    fn ask(&mut self, random: &mut Random, number: usize) -> bool {
        let Some(token) = self.out.iter().position(Option::is_none) else { return false };
        let place = BASE + 4 * MIB + PLACE * u64::try_from(token).unwrap();
        let len = random.below(if number < 1000 { 3000 } else { 20 });
        let question = frame(number, len);
        self.image.write(place, question);
        let mut pieces = |mut at: u64, mut left: usize| {
            let mut buffers = Vec::new();
            while left > 0 {
                let len = if buffers.len() == 5 { left } else { 1 + random.below(left) };
                buffers.push(Buffer { addr: at, len: u32::try_from(len).unwrap() });
                at += u64::try_from(len).unwrap();
                left -= len;
            }
            buffers
        };
        let readable = pieces(place, len);
        let answers = pieces(place + PLACE / 2 + 3, len + 1);
        let token = u16::try_from(token).unwrap();
        let fits = self.ours.add(&self.image.mem, &readable, &answers, token).is_ok();
        if fits {
            self.out[usize::from(token)] = Some(Asked { question, answers });
        }
        fits
    }

    /// The device answers up to `most` questions, and says so after each, as virtio-queue does.
    fn answer(&mut self, most: usize) -> bool {
        let guest = &self.image.guest;
        let mut answered = 0;
        while answered < most {
            let Some(chain) = self.theirs.pop_descriptor_chain(guest) else { break };
            let head = chain.head_index();
            let mut question = Vec::new();
            chain.clone().reader(guest).unwrap().read_to_end(&mut question).unwrap();
            question.iter_mut().for_each(|byte| *byte = !*byte);
            question.push(7);
            let mut writer = chain.writer(guest).unwrap();
            assert_eq!(writer.available_bytes(), question.len());
            writer.write_all(&question).unwrap();
            let len = u32::try_from(question.len()).unwrap();
            self.theirs.add_used(guest, head, len).unwrap();
            answered += 1;
        }
        answered > 0 && self.theirs.needs_notification(guest).unwrap()
    }

    /// Checks the answers that are there; how many.
    fn check(&mut self) -> usize {
        let mut count = 0;
        while let Some(used) = self.ours.pop_used(&self.image.mem).unwrap() {
            let Asked { question, answers } = self.out[usize::from(used.token)].take().unwrap();
            assert_eq!(used.len as usize, question.len() + 1);
            let mut got = vec![0; question.len() + 1];
            let at = GuestAddress(answers[0].addr);
            vm_memory::Bytes::read_slice(&self.image.guest, &mut got, at).unwrap();
            assert_eq!(got.pop(), Some(7));
            assert!(
                got.iter().zip(question).all(|(a, b)| *a == !*b) && got.len() == question.len()
            );
            count += 1;
        }
        count
    }
}

#[test]
fn our_driver_half_s_chains_of_many_buffers_are_read_and_filled_by_virtio_queue() {
    for (choice, size) in (0..8).flat_map(|choice| [16, 64].map(|size| (choice, size))) {
        let on = |bit: i32| choice >> bit & 1 == 1;
        let config = QueueConfig {
            size,
            desc: QUEUE,
            driver: QUEUE + 0x1000,
            device: QUEUE + 0x2000,
            packed: false,
            in_order: on(0),
            event_idx: on(1),
            indirect: on(2),
        };
        let image = Image::new(&REGIONS);
        let mut random = Random(u64::from(size) + 1);
        let mut echo = Echo::new(&image, &config, 8);
        let (mut asked, mut answered) = (0, 0);
        while answered < 66_000 {
            for _ in 0..random.below(20) {
                asked += usize::from(echo.ask(&mut random, asked));
            }
            // It was never told to sleep, so it need not be woken.
            let _ = echo.ours.publish(&image.mem);
            echo.answer(random.below(20));
            answered += echo.check();
        }
        echo.answer(usize::from(size));
        answered += echo.check();
        assert_eq!(answered, asked);
        assert_eq!(echo.ours.free(), size);
    }
}

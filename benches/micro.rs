//! What single steps cost, in one thread with all that they touch in its cache.
//!
//!     cargo bench --bench micro [-- FILTER]

#![allow(clippy::unwrap_used, reason = "our own rings are sound")]

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::frame::{self, Offloads, PREFIX_LEN};
use boardlane::net::sources::Sources;
use boardlane::spec::msg;
use boardlane::spec::net::{GSO_TCPV4, HDR_F_NEEDS_CSUM, HEADER_LEN};
use boardlane::tunnel::message::{Body, Dialect, Message, decode, encode};
use boardlane::virtqueue::{Buffer, Chain, DeviceQueue, DriverQueue, QueueConfig};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Chains of a step of the rings.
const BATCH: u16 = 64;

/// Both halves of a queue, between steps.
struct Rings {
    mem: BusMemory,
    driver: DriverQueue,
    device: DeviceQueue,
    chain: Chain,
    heads: Vec<u16>,
}

impl Rings {
    fn new(packed: bool) -> Self {
        let bytes = Arc::new(Mapping::anonymous(0x8_0000, Kind::Cached));
        let region = Region::mapped(0, 0x8_0000, Side::Near, bytes, 0);
        let mem = BusMemory::new(vec![region]).unwrap();
        let config = QueueConfig {
            size: 256,
            desc: 0,
            driver: 0x1000,
            device: 0x2000,
            packed,
            in_order: true,
            event_idx: true,
            indirect: false,
        };
        let driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        device.disarm(&mem);
        let (chain, heads) = (Chain::with_capacity(256), Vec::with_capacity(BATCH.into()));
        Self { mem, driver, device, chain, heads }
    }

    fn add(&mut self) {
        for token in 0..BATCH {
            let buffer = Buffer { addr: 0x1_0000 + u64::from(token) * 128, len: 76 };
            self.driver.add(&self.mem, &[buffer], &[], token).unwrap();
        }
        let _ = self.driver.publish(&self.mem);
    }

    fn pop(&mut self) {
        while self.device.pop(&self.mem, &mut self.chain).unwrap() {
            self.heads.push(self.chain.head);
        }
    }

    fn push(&mut self) {
        for head in self.heads.drain(..) {
            self.device.push(&self.mem, head, 0);
        }
        let _ = self.device.publish(&self.mem);
    }

    fn pop_used(&mut self) {
        while self.driver.pop_used(&self.mem).unwrap().is_some() {}
    }
}

type Step = fn(&mut Rings);

/// The steps of a batch, in order.
const STEPS: [(&str, Step); 4] = [
    ("add and publish", Rings::add),
    ("pop", Rings::pop),
    ("push and publish", Rings::push),
    ("pop used", Rings::pop_used),
];

/// A step of a queue of this layout.
#[derive(Clone, Copy)]
struct Part {
    packed: bool,
    step: usize,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layout = if self.packed { "packed" } else { "split" };
        write!(f, "{layout}, {}", STEPS[self.step].0)
    }
}

fn parts() -> impl Iterator<Item = Part> {
    [false, true]
        .into_iter()
        .flat_map(|packed| (0..STEPS.len()).map(move |step| Part { packed, step }))
}

#[divan::bench(args = parts(), sample_size = 1, sample_count = 5000)]
fn rings(bencher: Bencher<'_, '_>, Part { packed, step }: Part) {
    let (rings, run) = (RefCell::new(Rings::new(packed)), Cell::new(STEPS.len()));
    bencher
        .counter(ItemsCount::new(BATCH))
        // What comes before the step, from where the last sample ended on, is not measured.
        .with_inputs(|| {
            let missed = STEPS[run.get()..].iter().chain(&STEPS[..step]);
            missed.for_each(|(_, step)| step(&mut rings.borrow_mut()));
            run.set(step + 1);
        })
        .bench_local_values(|()| STEPS[step].1(&mut rings.borrow_mut()));
}

#[divan::bench(args = [Dialect::V1, Dialect::V2])]
fn encode_message(bencher: Bencher<'_, '_>, dialect: Dialect) {
    let mut out = [0; msg::MAX_LEN];
    bencher.bench_local(|| encode(dialect, black_box(&set_vqueue()), &mut out));
}

#[divan::bench(args = [Dialect::V1, Dialect::V2])]
fn decode_message(bencher: Bencher<'_, '_>, dialect: Dialect) {
    let mut out = [0; msg::MAX_LEN];
    let len = encode(dialect, &set_vqueue(), &mut out);
    bencher.bench_local(|| decode(dialect, black_box(&out[..len])));
}

fn set_vqueue() -> Message {
    let (desc, driver, device) = (0x3000, 0x4000, 0x5000);
    let body = Body::SetVqueue {
        index: 1,
        flags: msg::VQ_ENABLE,
        size: 256,
        reserved: 0,
        desc,
        driver,
        device,
    };
    Message { dev_num: 0, token: 7, body }
}

/// The start of a TCP segment over IPv4 that is to be cut.
fn start() -> [u8; PREFIX_LEN] {
    let mut start = [0; PREFIX_LEN];
    start[..2].copy_from_slice(&[HDR_F_NEEDS_CSUM, GSO_TCPV4]);
    // hdr_len, gso_size, csum_start, csum_offset.
    start[2..10].copy_from_slice(&[54, 0, 0xb4, 5, 34, 0, 16, 0]);
    let octets = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 5, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    start[HEADER_LEN..][..26].copy_from_slice(&octets);
    start[HEADER_LEN + 26..][..8].copy_from_slice(&[10, 77, 0, 2, 10, 77, 0, 1]);
    start
}

#[divan::bench]
fn frame_check(bencher: Bencher<'_, '_>) {
    let allowed = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: true };
    let start = start();
    assert_eq!(frame::check(&start, 9012, allowed), Ok(()));
    bencher.bench(|| frame::check(black_box(&start), black_box(9012), allowed));
}

#[divan::bench(args = [3, 1000])]
fn sources_check(bencher: Bencher<'_, '_>, listed: u16) {
    let octets = (0..listed).map(u16::to_be_bytes);
    let macs: Vec<_> = octets.clone().map(|[high, low]| [2, 0, 0, 0, high, low]).collect();
    let networks: Vec<_> = octets.map(|[high, low]| ([10, 77, high, low].into(), 32)).collect();
    let (sources, start) = (Sources::new(&macs, &networks).unwrap(), start());
    assert_eq!(sources.check(&start), Ok(()));
    bencher.bench(|| sources.check(black_box(&start)));
}

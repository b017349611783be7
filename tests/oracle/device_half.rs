//! Our device half and virtio-queue's on the same ring, and a checker that knows the standard.
//!
//! virtio-queue takes a chain as an iterator that ends where it can go no further, without a word, and it
//! does not ask whether buffers are memory. So the three agree like this:
//!
//! * a chain that breaks no rule comes out of both halves whole: the same buffers, the same order and
//!   direction, and what the checker read. (One exception: virtio-queue takes no indirect table of more
//!   than 65,535 entries, however few of them are used);
//! * where our half refuses, it names a rule that the checker finds broken;
//! * so where virtio-queue's chain ends early, our half refuses.
//!
//! Both halves use the chains in the same order, each into a used ring of its own, and these are equal,
//! as are the decisions to notify. Now and then our half is replaced by one that starts where both stand.
//!
//! `BOARDLANE_ORACLE_CHAINS` says how many chains, `BOARDLANE_ORACLE_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;
use std::time::SystemTime;

use boardlane::virtqueue::{At, Chain, DeviceQueue, Position, QueueConfig, Start};
use virtio_queue::{Queue as Theirs, QueueT};
use vm_memory::GuestAddress;

use super::Random;
use super::chains::Driver;
use super::image::{Guest, Image};
use super::rules::{Broken, Element, Queue, Rule, judge};

/// Rings; tables; a region that begins where another ends; one near the end of the address space.
const REGIONS: [(u64, u32); 4] = [
    (0x1000, 0x8000),
    (0x20_0000, 0x20_0000),
    (0x40_0000, 0x1000),
    (0xffff_ffff_ffff_e000, 0x1000),
];
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2002;
const OUR_USED: u64 = 0x3000;
const THEIR_USED: u64 = 0x4000;
const TABLES: u64 = 0x20_0000;
const TABLES_END: u64 = 0x40_0000;
/// Most entries of an indirect table that virtio-queue takes; the standard has no limit.
const THEIR_ENTRIES: u32 = 0xffff;

/// How often each thing happened.
#[derive(Debug, Default)]
struct Counts {
    /// Chains that were looked at, and indices with none behind them.
    chains: u64,
    /// Chains that were taken, by what they were made of.
    taken: BTreeMap<&'static str, u64>,
    /// Chains that our half refused, by the rule that it named: all, and those that virtio-queue took.
    refused: BTreeMap<Rule, [u64; 2]>,
    wraps: u64,
    notifications: [u64; 2],
    /// Halves of ours that another one has followed.
    replaced: u64,
}

/// What the two halves run on.
struct Pair<'i> {
    image: &'i Image,
    config: QueueConfig,
    driver: Driver,
    ours: DeviceQueue,
    theirs: Theirs,
    event_idx: bool,
    /// Chains that were used.
    used: u16,
    popped: u16,
    /// Heads and writable bytes of the chains that both hold.
    held: Vec<(u16, u32)>,
    chain: Chain,
    said: Vec<Element>,
    got: Vec<Element>,
}

impl<'i> Pair<'i> {
    fn new(image: &'i Image, random: &mut Random) -> Self {
        let size = 1 << random.below(9);
        let queue = Queue { size, desc: DESC, indirect: !random.one_in(8) };
        let event_idx = random.one_in(2);
        for ring in [AVAIL, OUR_USED, THEIR_USED] {
            image.write(ring, &[0; 4]);
        }
        for used in [OUR_USED, THEIR_USED] {
            image.write_half(used + 4 + 8 * u64::from(size), 0);
        }
        let config = QueueConfig {
            size,
            desc: DESC,
            driver: AVAIL,
            device: OUR_USED,
            packed: false,
            in_order: false,
            event_idx,
            indirect: queue.indirect,
        };
        let mut theirs = Theirs::new(size).unwrap();
        theirs.try_set_desc_table_address(GuestAddress(DESC)).unwrap();
        theirs.try_set_avail_ring_address(GuestAddress(AVAIL)).unwrap();
        theirs.try_set_used_ring_address(GuestAddress(THEIR_USED)).unwrap();
        theirs.set_event_idx(event_idx);
        theirs.set_ready(true);
        assert!(theirs.is_valid(&image.guest));
        // A table for more buffers than the queue's size, with spare entries.
        let table_len = 16 * (u32::from(size) + 8);
        Self {
            image,
            config,
            driver: Driver::new(queue, AVAIL, TABLES..TABLES_END, table_len),
            ours: config.activate_device(&image.mem).unwrap(),
            theirs,
            event_idx,
            used: 0,
            popped: 0,
            held: Vec::new(),
            chain: Chain::default(),
            said: Vec::new(),
            got: Vec::new(),
        }
    }

    /// Some chains, made available at once; how many.
    fn make_available(&mut self, random: &mut Random, fault_in: Option<usize>) -> usize {
        let mut made = 0;
        for _ in 0..1 + random.below(4) {
            if self.driver.is_full() {
                break;
            }
            let faulty = fault_in.is_some_and(|n| random.one_in(n));
            self.driver.add(self.image, random, faulty);
            made += 1;
        }
        let mut idx = self.driver.idx;
        if fault_in.is_some_and(|n| random.one_in(8 * n)) {
            let size = self.driver.queue.size;
            let by = [
                1,
                size,
                size + 1,
                2 * size,
                0x8000,
                u16::MAX,
                u16::MAX - 1,
                random.index(0x1_0000),
            ];
            idx = idx.wrapping_add(random.of(&by));
        }
        self.image.write_half(AVAIL + 2, idx);
        made
    }

    /// The rule of the available index, as the halves find it.
    fn judge_index(&self) -> Broken {
        let idx = u16::from_le_bytes(self.image.read(AVAIL + 2));
        let most = self.driver.queue.size;
        let mut broken = Broken::default();
        if idx.wrapping_sub(self.popped) > most || idx.wrapping_sub(self.used) > most {
            broken.add(Rule::AvailIndex);
        }
        broken
    }

    /// Takes the next chain with all three. `None`: there is none. `Some(false)`: our half refused it.
    fn pop(&mut self, counts: &mut Counts) -> Option<bool> {
        let ours = self.ours.pop(&self.image.mem, &mut self.chain);
        let theirs = self.theirs.pop_descriptor_chain(&self.image.guest);
        let slot = u64::from(self.popped % self.driver.queue.size);
        let entry = u16::from_le_bytes(self.image.read(AVAIL + 4 + 2 * slot));
        let mut broken = self.judge_index();
        let idx = u16::from_le_bytes(self.image.read(AVAIL + 2));
        if broken.none() && idx == self.popped {
            assert_eq!(ours, Ok(false), "no chain is there");
            assert!(theirs.is_none(), "no chain is there");
            return None;
        }
        counts.chains += 1;
        if broken.none() {
            broken = judge(self.image, self.driver.queue, entry, &mut self.said);
            if self.held.iter().any(|(head, _)| *head == entry) {
                broken.add(Rule::HeadFree);
            }
        }
        // Whole: the last descriptor has no NEXT.
        let mut whole = false;
        self.got.clear();
        if let Some(chain) = theirs {
            assert_eq!(chain.head_index(), entry);
            for desc in chain {
                whole = !desc.has_next();
                let (addr, len, writable) = (desc.addr().0, desc.len(), desc.is_write_only());
                self.got.push(Element { addr, len, writable });
            }
        }
        match ours {
            Ok(true) => {
                let table = self.table_entries(entry);
                let ours_only = table.is_some_and(|entries| entries > THEIR_ENTRIES);
                if ours_only {
                    assert!(!whole, "virtio-queue takes tables of any length by now: no exception");
                } else {
                    assert!(whole, "virtio-queue ends early, our half does not: {:?}", self.said);
                    assert_eq!(self.got, self.said, "virtio-queue and the checker");
                }
                self.agree(broken, entry);
                let kind = match table {
                    None if self.said.len() == 1 => "one descriptor",
                    None => "a list of descriptors",
                    Some(_) if ours_only => "an indirect table that is too long for virtio-queue",
                    Some(_) if self.flags(entry) & 4 != 0 => "an indirect table",
                    Some(_) => "a list that ends in an indirect table",
                };
                *counts.taken.entry(kind).or_default() += 1;
                self.held.push((entry, self.chain.writable_len()));
                self.popped = self.popped.wrapping_add(1);
                counts.wraps += u64::from(self.popped == 0);
                Some(true)
            }
            Ok(false) => panic!("a chain is there: {broken:?}"),
            Err(error) => {
                let rule = Rule::of(&error);
                assert!(broken.has(rule), "{error}: the checker finds {broken:?}");
                assert_eq!(self.ours.pop(&self.image.mem, &mut self.chain), Err(error));
                let counts = counts.refused.entry(rule).or_default();
                counts[0] += 1;
                counts[1] += u64::from(whole);
                Some(false)
            }
        }
    }

    /// Our half took what the checker read, and rightly.
    fn agree(&self, broken: Broken, entry: u16) {
        assert!(broken.none(), "our half takes what breaks {broken:?}");
        assert_eq!(self.chain.head, entry);
        let span = |element: &Element| self.image.mem.resolve(element.addr, element.len).unwrap();
        let (writable, readable): (Vec<&Element>, _) = self.said.iter().partition(|e| e.writable);
        assert!(readable.iter().map(|e| span(e)).eq(self.chain.readable.iter().copied()));
        assert!(writable.iter().map(|e| span(e)).eq(self.chain.writable.iter().copied()));
        let sum = |elements: &[&Element]| elements.iter().map(|e| e.len).sum::<u32>();
        assert_eq!(sum(&readable), self.chain.readable_len());
        assert_eq!(sum(&writable), self.chain.writable_len());
    }

    fn flags(&self, at: u16) -> u16 {
        u16::from_le_bytes(self.image.read(DESC + 16 * u64::from(at) + 12))
    }

    /// Entries of the indirect table that the well-formed chain `head` ends in.
    fn table_entries(&self, head: u16) -> Option<u32> {
        let mut at = head;
        while self.flags(at) & 5 == 1 {
            at = u16::from_le_bytes(self.image.read(DESC + 16 * u64::from(at) + 14));
        }
        let len = u32::from_le_bytes(self.image.read(DESC + 16 * u64::from(at) + 8));
        (self.flags(at) & 4 != 0).then_some(len / 16)
    }

    /// Uses some of the held chains, in any order, with both halves.
    fn use_some(&mut self, random: &mut Random, counts: &mut Counts) {
        let guest: &Guest = &self.image.guest;
        let some = random.below(self.held.len() + 1);
        if some == 0 {
            return;
        }
        let wanted = random.index(4);
        let event = self.used.wrapping_add(wanted).wrapping_sub(1);
        let size = u64::from(self.driver.queue.size);
        self.image.write_half(AVAIL + 4 + 2 * size, event);
        for _ in 0..some {
            let (head, most) = self.held.swap_remove(random.below(self.held.len()));
            let len = random.of(&[0, most, most / 2]);
            self.ours.push(&self.image.mem, head, len);
            self.theirs.add_used(guest, head, len).unwrap();
            self.driver.done(head);
            self.used = self.used.wrapping_add(1);
        }
        let ours = self.ours.publish(&self.image.mem);
        let theirs = self.theirs.needs_notification(guest).unwrap();
        // Without EVENT_IDX, virtio-queue always notifies, and the ring's flags ask for it here.
        assert_eq!(ours, theirs, "event {event}, used index {}", self.used);
        counts.notifications[usize::from(ours)] += 1;
        self.used_rings_are_equal();
    }

    fn used_rings_are_equal(&self) {
        let ring = |at| {
            let mut bytes = vec![0; 2 + 8 * usize::from(self.driver.queue.size)];
            vm_memory::Bytes::read_slice(&self.image.guest, &mut bytes, GuestAddress(at + 2))
                .unwrap();
            bytes
        };
        let slots = usize::from(self.used.min(self.driver.queue.size));
        assert_eq!(ring(OUR_USED)[..2 + 8 * slots], ring(THEIR_USED)[..2 + 8 * slots]);
    }

    /// Both ask for notifications; they say the same of what is there, and write the same.
    fn arm(&mut self) {
        let more = self.ours.arm(&self.image.mem).unwrap();
        assert_eq!(more, self.theirs.enable_notification(&self.image.guest).unwrap());
        let at = if self.event_idx { 4 + 8 * u64::from(self.driver.queue.size) } else { 0 };
        let [ours, theirs] = [OUR_USED, THEIR_USED].map(|used| self.image.read::<2>(used + at));
        assert_eq!(ours, theirs, "avail_event, or flags");
    }

    fn disarm(&mut self) {
        self.ours.disarm(&self.image.mem);
        self.theirs.disable_notification(&self.image.guest).unwrap();
        let [ours, theirs] = [OUR_USED, THEIR_USED].map(|used| self.image.read::<2>(used));
        assert!(self.event_idx || ours == theirs, "flags");
    }
}

impl Pair<'_> {
    /// Another half of ours goes on where this one stands, which is where virtio-queue's does.
    fn replace_ours(&mut self) {
        assert!(self.held.is_empty());
        let position = self.ours.position();
        let (avail, used) = (self.theirs.next_avail(), self.theirs.next_used());
        assert_eq!(position, Position::Split { avail, used });
        let start = Start::at(At::Base(position.base()));
        self.ours = self.config.activate_device_at(&self.image.mem, start).unwrap();
        assert_eq!(self.ours.position(), position);
        assert!(self.ours.publish(&self.image.mem), "the driver may not know");
    }
}

/// One life of a queue: until our half refuses a chain, or `most` were made.
fn life(
    image: &Image,
    random: &mut Random,
    most: usize,
    fault_in: Option<usize>,
    counts: &mut Counts,
) {
    let mut pair = Pair::new(image, random);
    let mut made = 0;
    while made < most {
        made += pair.make_available(random, fault_in);
        loop {
            match pair.pop(counts) {
                Some(true) => {}
                Some(false) => return,
                None => break,
            }
        }
        if random.one_in(4) {
            pair.arm();
            pair.disarm();
        }
        pair.use_some(random, counts);
        if pair.held.is_empty() && random.one_in(2) {
            pair.replace_ours();
            counts.replaced += 1;
        }
    }
}

fn number<T: FromStr<Err: Debug>>(name: &str, or: T) -> T {
    std::env::var(name).map_or(or, |text| text.parse().expect(name))
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are what the run is for")]
fn our_device_half_takes_and_refuses_what_the_standard_and_virtio_queue_do() {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = number("BOARDLANE_ORACLE_SEED", u64::from(now));
    let chains: u64 = number("BOARDLANE_ORACLE_CHAINS", 200_000);
    println!("{chains} chains, BOARDLANE_ORACLE_SEED={seed}");
    let image = Image::new(&REGIONS);
    let mut random = Random(seed | 1);
    let mut counts = Counts::default();
    // Once the indices wrap around; then many short lives, of drivers more and less at fault.
    life(&image, &mut random, 70_000, None, &mut counts);
    while counts.chains < chains {
        let fault_in = random.of(&[None, Some(1), Some(1), Some(1), Some(3), Some(3), Some(30)]);
        let most = 1 + random.below(50);
        life(&image, &mut random, most, fault_in, &mut counts);
    }
    let Counts { chains, taken, refused, wraps, notifications, replaced } = &counts;
    let [no, yes] = notifications;
    println!(
        "{chains} chains, {wraps} wraps of the index, {yes} notifications and {no} suppressed"
    );
    println!("taken:");
    for (kind, n) in taken {
        println!("{n:9}  {kind}");
    }
    println!("refused by our half, and of these taken by virtio-queue:");
    for (rule, [all, theirs]) in refused {
        println!("{all:9} {theirs:9}  {rule:?}");
    }
    assert_eq!(taken.len(), 5, "chains of each kind were taken");
    let missing: Vec<_> = Rule::ALL.iter().filter(|rule| !refused.contains_key(rule)).collect();
    assert!(missing.is_empty(), "never refused: {missing:?}");
    assert!(*wraps > 0 && *replaced > 0 && notifications.iter().all(|n| *n > 0));
}

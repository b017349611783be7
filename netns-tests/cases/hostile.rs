//! Peers and leftovers that break the rules: what they harm is their own link, until they are gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use boardlane::link::{Event, Link, LinkParams, Start, State};
use boardlane::memory::{BusMemory, Region, Side, View};
use boardlane::net::features::Features;
use boardlane::net::placement::{Placement, Reach, place_all};
use boardlane::os::doorbell::ring_full_or_not;
use boardlane::os::fabric::regions;
use boardlane::os::fabric::shm::ShmLink;
use boardlane::spec::{virtio, window};
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};
use tokio::runtime::Runtime;

use crate::traffic::Random;
use crate::world::{World, check, wait};

fn plain(_: &str, _: u8) -> String {
    String::new()
}

/// A client of a slot who writes what it likes.
pub(crate) struct Intruder {
    pub(crate) shm: ShmLink,
    pub(crate) runtime: Runtime,
}

impl Intruder {
    pub(crate) fn in_slot(path: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shm = wait("an intruder is in the slot", || {
            runtime.block_on(ShmLink::connect(path)).map_err(|e| e.to_string())
        });
        Self { shm, runtime }
    }

    fn bytes(&self, at: u64, len: usize) -> View<'_> {
        self.shm.slot().memory.view(usize::try_from(at).unwrap(), len)
    }

    /// The window's header.
    fn header(&self) -> View<'_> {
        self.bytes(0, usize::try_from(window::HEADER_LEN).unwrap())
    }

    /// The whole window reads as that of a board in reset.
    pub(crate) fn reset_board(&self) {
        let (window, _) = regions(self.shm.slot().len);
        let ones = vec![0xff; usize::try_from(window.end).unwrap()];
        self.bytes(0, ones.len()).copy_from(0, &ones);
    }

    /// Everything that ends know before they have met: the header and both mailboxes.
    fn fill(&self, mut octet: impl FnMut() -> u8) {
        let (_, driver) = regions(self.shm.slot().len);
        for start in [0, driver.start] {
            let garbage: Vec<u8> = (0..0x4000).map(|_| octet()).collect();
            self.bytes(start, garbage.len()).copy_from(0, &garbage);
        }
    }
}

pub(crate) fn a_window_of_garbage_is_named_and_heals_when_an_agent_comes() {
    let mut world = World::new(1, plain);
    world.start("backplane");
    let slot_len = {
        let intruder = Intruder::in_slot(&world.slot(0));
        intruder.shm.slot().len
    };
    let mut random = Random(11);
    type Deed<'a> = &'a dyn Fn(&Intruder, &mut Random);
    let window_len = slot_len / 4;
    let deeds: [(&str, Deed<'_>, &str); 6] = [
        ("nothing", &|_, _| (), "waiting for board: window has no magic"),
        ("random octets", &|i, random| i.fill(|| random.octet()), "has no magic"),
        (
            "a version of the future",
            &|i, _| {
                i.header().store_le32(window::AT_VERSION, 7);
                i.header().store_le64(window::AT_WINDOW_LEN, window_len);
                i.header().store_le64(window::AT_MAGIC, window::MAGIC);
            },
            "window has layout version 7, this program has 1",
        ),
        (
            "another length",
            &|i, _| {
                i.header().store_le32(window::AT_VERSION, window::LAYOUT_VERSION);
                i.header().store_le64(window::AT_WINDOW_LEN, 12345);
                i.header().store_le64(window::AT_MAGIC, window::MAGIC);
            },
            "window says it has 12345 bytes",
        ),
        ("zeros", &|i, _| i.fill(|| 0), "has no magic"),
        ("all ones", &|i, _| i.fill(|| 0xff), "window reads as all ones"),
    ];
    for (what, deed, told) in deeds {
        let intruder = Intruder::in_slot(&world.slot(0));
        deed(&intruder, &mut random);
        eprintln!("window with {what}:");
        world.start("master");
        world.wait_state("master", "bl0", LinkState::Waiting, told);
        drop(intruder);
        world.start("board0");
        world.wait_up(0);
        world.ping_well("master", "10.77.0.2");
        for daemon in ["master", "board0"] {
            assert!(world.stop(daemon).success());
        }
    }
}

pub(crate) fn a_slot_claimed_by_a_stranger_is_waited_for_until_it_goes() {
    let mut world = World::new(1, plain);
    world.start("backplane");
    // Each end's part by a stranger of its own: nobody who holds both is believed.
    let parts = [window::DEVICE_PART, window::DRIVER_PART];
    let intruders = parts.map(|part| {
        let intruder = Intruder::in_slot(&world.slot(0));
        let id = intruder.shm.slot().id;
        intruder.header().store_le32(part + window::PART_OWNER, id.into());
        intruder.header().store_le64(part + window::PART_NONCE, 4711);
        intruder
    });
    world.start("master");
    world.start("board0");
    for (machine, intruder) in ["board0", "master"].into_iter().zip(&intruders) {
        let held = format!("(peer {})", intruder.shm.slot().id);
        world.wait_state(machine, "bl0", LinkState::Waiting, &held);
    }
    drop(intruders);
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

/// An agent or a master without a netdev, which behaves until the link is up.
struct Impostor {
    intruder: Intruder,
    link: Link,
    start: Option<Start>,
}

impl Impostor {
    fn in_slot(path: &Path, role: Role) -> Self {
        let intruder = Intruder::in_slot(path);
        let slot = intruder.shm.slot();
        let (window, driver_memory) = regions(slot.len);
        let region = |range: &std::ops::Range<u64>, side| {
            let offset = usize::try_from(range.start).unwrap();
            Region::mapped(range.start, range.end - range.start, side, slot.memory.clone(), offset)
        };
        let table = vec![region(&window, Side::Near), region(&driver_memory, Side::Far)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let params = LinkParams {
            role,
            layout: Layout::Boardlane,
            window,
            driver_memory,
            slot: 0,
            owner: slot.id.into(),
            // It polls.
            vectors: 0,
            heartbeat: Duration::from_millis(100),
            // The deeds are done to split rings.
            features_off: Features::of(&[virtio::F_RING_PACKED, virtio::F_IN_ORDER]),
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            version: "impostor".to_owned(),
            engine: None,
            seed: u64::from(slot.id) + 1,
            dialect: Dialect::V2,
        };
        let link = Link::new(Instant::now(), mem, params).unwrap();
        let mut impostor = Self { intruder, link, start: None };
        wait("an impostor's link is up", || {
            let up = impostor.turn().contains(&State::Up) || impostor.start.is_some();
            check(up, "it is not")
        });
        impostor
    }

    /// Does what the link asks for; gives the states that it went through.
    fn turn(&mut self) -> Vec<State> {
        let Self { intruder: Intruder { shm, runtime }, link, start, .. } = self;
        // News of peers come within this time, and messages are polled for after it.
        let news = async { tokio::time::timeout(Duration::from_millis(2), shm.next()).await };
        let _ = runtime.block_on(news);
        let alive: BTreeSet<u32> = shm.peers().keys().map(|id| u32::from(*id)).collect();
        link.handle_peers(Instant::now(), alive);
        link.handle_doorbell(Instant::now());
        link.handle_timeout(Instant::now());
        let mut states = Vec::new();
        while let Some(event) = link.poll_event() {
            match event {
                Event::Ring { vector, .. } => ring(shm, vector),
                Event::Start(path) => *start = Some(path),
                Event::State(state, _) => states.push(state),
                Event::Stop => {
                    *start = None;
                    link.handle_stopped(Instant::now());
                }
                _ => {}
            }
        }
        states
    }

    /// Where the master has its queues.
    fn placement(&self) -> Placement {
        let (window, driver) = regions(self.intruder.shm.slot().len);
        let own = u64::from(window::mailbox_len(window::SLOTS));
        let features = self.start.as_ref().unwrap().features;
        let placed = place_all(
            u64::from(window::HEADER_LEN) + own..window.end,
            driver.start + own..driver.end,
            &[[256, 256]],
            Some(64),
            features,
            Reach::Both,
        );
        placed.unwrap().pairs.remove(0)
    }

    /// The master's mailbox, into which an agent writes.
    fn mailbox(&self) -> View<'_> {
        let (_, driver) = regions(self.intruder.shm.slot().len);
        let len = usize::try_from(window::mailbox_len(window::SLOTS)).unwrap();
        self.intruder.bytes(driver.start, len)
    }

    /// Sends slots that were never asked for, as fast as the master takes them; says how many it took
    /// before it had enough. `next` makes one of the slot before it.
    fn babble(&self, messages: u32, mut next: impl FnMut(&mut [u8; window::SLOT_LEN])) -> u32 {
        let own = self.intruder.bytes(u64::from(window::HEADER_LEN), 2 * window::LINE);
        let at = |count: u32| {
            let slot = usize::try_from(count % window::SLOTS).unwrap();
            window::MAILBOX_SLOTS + slot * window::SLOT_LEN
        };
        for sent in 0..messages {
            let head = self.mailbox().load_acquire_le32(window::MAILBOX_HEAD);
            let start = Instant::now();
            while head.wrapping_sub(own.load_acquire_le32(window::MAILBOX_TAIL)) >= window::SLOTS {
                if start.elapsed() > Duration::from_millis(200) {
                    return sent;
                }
                ring(&self.intruder.shm, 0);
                std::thread::yield_now();
            }
            let mut slot = [0; window::SLOT_LEN];
            self.mailbox().copy_to(at(head.wrapping_sub(1)), &mut slot);
            next(&mut slot);
            self.mailbox().copy_from(at(head), &slot);
            self.mailbox().store_release_le32(window::MAILBOX_HEAD, head.wrapping_add(1));
            ring(&self.intruder.shm, 0);
        }
        messages
    }
}

fn ring(shm: &ShmLink, vector: u16) {
    for peer in shm.peers().values() {
        if let Some(doorbell) = peer.vectors.get(usize::from(vector)) {
            ring_full_or_not(doorbell);
        }
    }
}

/// Lets an impostor misbehave in slot 0 of two; only its own link may notice, and a good agent must
/// have the slot afterwards.
fn survives(told: &str, mut deed: impl FnMut(&mut Impostor)) {
    let mut world = World::new(2, plain);
    for daemon in ["backplane", "master", "board1"] {
        world.start(daemon);
    }
    world.wait_up(1);
    let pid = world.pid("master");
    let other = world.steady_ping("master", "10.77.1.2");
    let mut impostor = Impostor::in_slot(&world.slot(0), Role::Device);
    deed(&mut impostor);
    if !told.is_empty() {
        let link = world.wait_state("master", "bl0", LinkState::Quarantined, told);
        assert!(!link.carrier);
        wait("carrier gone", || check(!world.has_carrier("master", "bl0"), "it is there"));
    }
    world.link_status("master", "bl1").unwrap();
    drop(impostor);
    world.start("board0");
    world.wait_up(0);
    world.wait_ping("traffic of a good agent", "master", "10.77.0.2");
    assert_eq!(world.status("master").unwrap().pid, pid, "the daemon lives");
    assert!(!world.log("master").contains("panicked"), "{}", world.log("master"));
    other.finish_without_loss();
}

pub(crate) fn random_messages_harm_no_other_link() {
    let mut random = Random(5);
    survives("not a message", |impostor| {
        let taken = impostor.babble(5000, |slot| slot.fill_with(|| random.octet()));
        eprintln!("{taken} random messages were taken");
        assert!(taken < 5000, "what is no message ends the session");
    });
}

pub(crate) fn garbled_messages_harm_no_other_link() {
    let mut random = Random(6);
    survives("", |impostor| {
        let mut good = None;
        let taken = impostor.babble(5000, |slot| {
            *slot = *good.get_or_insert(*slot);
            for _ in 0..2 {
                slot[usize::from(random.octet() % 40)] = random.octet();
            }
        });
        eprintln!("{taken} garbled messages were taken");
        assert!(taken > 0);
    });
}

pub(crate) fn a_message_count_that_jumps_quarantines_the_link() {
    survives("message FIFO: head is", |impostor| {
        let mailbox = impostor.mailbox();
        let head = mailbox.load_acquire_le32(window::MAILBOX_HEAD);
        mailbox.store_release_le32(window::MAILBOX_HEAD, head.wrapping_add(1000));
        ring(&impostor.intruder.shm, 0);
    });
}

/// A used ring as the device may write it: `flags`, `idx`, then entries of 8 bytes.
fn used_ring(impostor: &Impostor, at: u64) -> View<'_> {
    impostor.intruder.bytes(at, 4 + 8 * 256)
}

pub(crate) fn a_used_index_that_jumps_quarantines_the_link() {
    survives("receiveq", |impostor| {
        let used = used_ring(impostor, impostor.placement().receiveq.device);
        used.store_le16(2, used.load_le16(2).wrapping_add(10_000));
        ring(&impostor.intruder.shm, 1);
    });
}

pub(crate) fn a_used_entry_that_was_never_available_quarantines_the_link() {
    survives("transmitq", |impostor| {
        let used = used_ring(impostor, impostor.placement().transmitq.device);
        let index = used.load_le16(2);
        let entry = 4 + 8 * usize::from(index % 256);
        used.store_le32(entry, 250);
        used.store_le32(entry + 4, 0);
        used.store_le16(2, index.wrapping_add(1));
        ring(&impostor.intruder.shm, 1);
    });
}

pub(crate) fn garbage_all_over_the_rings_quarantines_the_link() {
    let mut random = Random(77);
    survives("q: ", |impostor| {
        let Placement { receiveq, transmitq, .. } = impostor.placement();
        for at in [receiveq.device, transmitq.device] {
            let garbage: Vec<u8> = (0..4 + 8 * 256).map(|_| random.octet()).collect();
            used_ring(impostor, at).copy_from(0, &garbage);
        }
        ring(&impostor.intruder.shm, 1);
    });
}

pub(crate) fn a_garbled_available_ring_stops_the_boards_link_until_its_master_goes() {
    let mut world = World::new(1, plain);
    world.start("backplane");
    world.start("board0");
    for deed in ["index", "entry"] {
        let impostor = Impostor::in_slot(&world.slot(0), Role::Driver);
        let available = impostor.intruder.bytes(impostor.placement().transmitq.driver, 4 + 2 * 256);
        let index = available.load_le16(2);
        match deed {
            "index" => available.store_le16(2, index.wrapping_add(10_000)),
            _ => {
                available.store_le16(4 + 2 * usize::from(index % 256), 0xffff);
                available.store_le16(2, index.wrapping_add(1));
            }
        }
        ring(&impostor.intruder.shm, 1);
        world.wait_state("board0", "bl0", LinkState::Down, "transmitq");
    }
    world.start("master");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

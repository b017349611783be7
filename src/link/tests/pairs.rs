//! Several queue pairs: how they come into use, and how one changes while the others carry frames.
//!
//! Both ends here are links of our own but for the driver's wishes, which a test makes by hand: it
//! takes the driver's part of the control queue, or sends the tunnel's messages for it.

use super::*;
use crate::net::control_driver::Command;
use crate::net::frame::Offloads;
use crate::net::path::Inward;
use crate::spec::net::HEADER_LEN;
use crate::tunnel::message::NetdevState;
use crate::tunnel::model::Device;
use crate::tunnel::session::LOOK_TIME;

mod resets;

/// An end with a worker per pair that is never slow, unless `slow`.
struct End {
    link: Link,
    slow: bool,
    /// Pairs whose workers have been told to stop, and have not yet.
    stopping: BTreeSet<u16>,
    workers: BTreeMap<u16, Box<dyn Path>>,
    /// Vectors that pairs were told to ring.
    vectors: BTreeMap<u16, Option<(u32, u16)>>,
    /// Some pair was told to poll.
    polls: bool,
    features: Features,
    offloads: Option<Offloads>,
    announced: u32,
    reason: String,
    came: BTreeMap<u16, Vec<u8>>,
}

impl End {
    fn stopped(&mut self, now: Instant, pair: u16) {
        assert!(self.stopping.remove(&pair));
        let path = self.workers.remove(&pair);
        self.link.handle_pair_stopped(now, pair, path);
    }
}

struct Two {
    mem: Arc<BusMemory>,
    now: Instant,
    ends: [End; 2],
}

const DRIVER: usize = 0;
const DEVICE: usize = 1;

impl Two {
    /// Two ends of a slot of `mib`, with at most so many pairs each, run until they are up and settled.
    fn new(mib: u64, pairs: [u16; 2], off: Features) -> Self {
        let mut two = Self::unmet(mib, pairs, off);
        two.run(SECOND);
        for end in &two.ends {
            assert!(end.workers.contains_key(&0), "{}", end.reason);
        }
        two
    }

    fn unmet(mib: u64, pairs: [u16; 2], off: Features) -> Self {
        let (now, len) = (Instant::now(), mib << 20);
        let mem = slot(len);
        let end = |role, owner, pairs| {
            let params = LinkParams { pairs, vectors: 4, ..params(role, owner, len, off) };
            let mut link = Link::new(now, mem.clone(), params).unwrap();
            link.handle_peers(now, BTreeSet::from([1, 2]));
            End {
                link,
                slow: false,
                stopping: BTreeSet::new(),
                workers: BTreeMap::new(),
                vectors: BTreeMap::new(),
                polls: false,
                features: Features::NONE,
                offloads: None,
                announced: 0,
                reason: String::new(),
                came: BTreeMap::new(),
            }
        };
        let ends = [end(Role::Driver, 1, pairs[0]), end(Role::Device, 2, pairs[1])];
        Self { mem: mem.clone(), now, ends }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += MS;
            for end in 0..2 {
                self.input(end, |link, now| link.handle_doorbell(now));
                self.input(end, |link, now| link.handle_timeout(now));
            }
        }
    }

    fn input(&mut self, end: usize, input: impl FnOnce(&mut Link, Instant)) {
        let now = self.now;
        let end = &mut self.ends[end];
        input(&mut end.link, now);
        while let Some(event) = end.link.poll_event() {
            match event {
                Event::Start(start) => end.features = start.features,
                Event::StartPair(start) => {
                    end.vectors.insert(start.pair, start.doorbell);
                    end.polls |= start.polls;
                    assert!(end.workers.insert(start.pair, start.path).is_none(), "two workers");
                }
                Event::StopPair(pair) => {
                    assert!(end.workers.contains_key(&pair), "pair {pair} has no worker");
                    assert!(end.stopping.insert(pair), "pair {pair} was told already");
                    if !end.slow {
                        end.stopped(now, pair);
                    }
                }
                Event::Stop => {
                    end.workers.clear();
                    end.stopping.clear();
                    end.link.handle_stopped(now);
                }
                Event::Offloads(offloads) => end.offloads = Some(offloads),
                Event::Announce => end.announced += 1,
                Event::State(_, reason) => end.reason = reason,
                _ => {}
            }
        }
    }

    fn used(&self) -> [Vec<u16>; 2] {
        [0, 1].map(|end: usize| self.ends[end].workers.keys().copied().collect())
    }

    /// Sends a frame by a pair; whether there was room.
    fn send(&mut self, from: usize, pair: u16, number: u8) -> bool {
        let mut frame = vec![0; HEADER_LEN + 100];
        frame[HEADER_LEN..].fill(number);
        let path = self.ends[from].workers.get_mut(&pair).expect("a worker");
        if !path.room(&self.mem).unwrap().fill(&self.mem, &frame) {
            return false;
        }
        assert_eq!(path.sent(&self.mem, frame.len()).unwrap(), None);
        let _ = path.flush(&self.mem);
        true
    }

    /// Takes in what has come, at either end: the numbers, by end and pair.
    fn receive(&mut self) -> [BTreeMap<u16, Vec<u8>>; 2] {
        for end in &mut self.ends {
            for (pair, path) in &mut end.workers {
                loop {
                    match path.receive(&self.mem).unwrap() {
                        Inward::Empty => break,
                        Inward::Dropped(reason) => panic!("{reason:?}"),
                        Inward::Frame { prefix, .. } => {
                            end.came.entry(*pair).or_default().push(prefix[HEADER_LEN]);
                        }
                    }
                    path.received(&self.mem).unwrap();
                }
                let _ = path.release(&self.mem);
            }
        }
        [DRIVER, DEVICE].map(|end| std::mem::take(&mut self.ends[end].came))
    }

    /// A frame each way by each pair that both ends use.
    fn all_pairs_carry(&mut self) {
        let pairs = self.used();
        assert_eq!(pairs[0], pairs[1]);
        for &pair in &pairs[0] {
            for end in [DRIVER, DEVICE] {
                assert!(self.send(end, pair, 10 + pair as u8), "{end}: no room in pair {pair}");
            }
        }
        let came = self.receive();
        for (end, came) in came.iter().enumerate() {
            let expected: BTreeMap<_, _> =
                pairs[0].iter().map(|pair| (*pair, vec![10 + *pair as u8])).collect();
            assert_eq!(*came, expected, "end {end}");
        }
    }

    /// The driver changes its mind.
    fn ask(&mut self, command: Command, feature: u8) {
        self.ends[DRIVER].link.command(feature, command);
        self.run(10 * MS);
    }
}

#[test]
fn whose_peer_can_ring_nobody_looks_by_itself() {
    for mute in [None, Some(DRIVER), Some(DEVICE)] {
        let mut two = Two::unmet(4, [2, 2], Features::NONE);
        if let Some(end) = mute {
            two.ends[end].link.ring_nobody();
        }
        two.run(SECOND);
        for (end, other) in [(DRIVER, DEVICE), (DEVICE, DRIVER)] {
            assert!(two.ends[end].workers.contains_key(&0), "{}", two.ends[end].reason);
            assert_eq!(two.ends[end].polls, mute == Some(other), "{mute:?}, {end}");
        }
        let due = two.ends.each_ref().map(|end| end.link.poll_timeout().unwrap() - two.now);
        for (end, other) in [(DRIVER, DEVICE), (DEVICE, DRIVER)] {
            assert_eq!(due[end] <= LOOK_TIME, mute == Some(other), "{mute:?}, {end}: {due:?}");
        }
        two.all_pairs_carry();
    }
}

#[test]
fn as_many_pairs_are_used_as_both_ends_have() {
    for (pairs, used) in [([4, 4], 4), ([1, 4], 1), ([4, 1], 1), ([3, 2], 2), ([2, 3], 2)] {
        let mut two = Two::new(16, pairs, Features::NONE);
        assert_eq!(two.used()[0].len(), used, "{pairs:?}");
        assert_eq!(two.ends[DEVICE].features.has(net::F_MQ), pairs[0].min(pairs[1]) > 1);
        two.all_pairs_carry();
    }
}

#[test]
fn a_small_slot_has_fewer_pairs() {
    let mut two = Two::new(1, [4, 4], Features::NONE);
    assert_eq!(two.used(), [vec![0], vec![0]]);
    two.all_pairs_carry();
}

#[test]
fn each_pair_rings_a_vector_of_its_own_as_long_as_there_are_some() {
    let two = Two::new(16, [4, 4], Features::NONE);
    for end in &two.ends {
        let rung: Vec<_> = end.vectors.values().map(|doorbell| doorbell.unwrap().1).collect();
        assert_eq!(rung, [1, 2, 3, 1], "vector 0 is for messages");
    }
    assert_eq!([0, 1, 2].map(|vectors| pair_vector(1, vectors)), [None, Some(0), Some(1)]);
}

#[test]
fn pairs_come_and_go_at_run_time() {
    let mut two = Two::new(16, [4, 4], Features::NONE);
    for pairs in [1, 3, 2, 4, 1, 4] {
        // What is under way in a pair that goes is taken up when it comes back.
        two.ask(Command::UsePairs(pairs), net::F_MQ);
        assert_eq!(two.used()[0].len(), usize::from(pairs));
        two.all_pairs_carry();
    }
}

#[test]
fn a_device_that_has_not_so_many_pairs_leaves_the_driver_with_those_that_it_uses() {
    let mut two = Two::new(16, [2, 4], Features::NONE);
    two.ask(Command::UsePairs(3), net::F_MQ);
    assert_eq!(two.used(), [vec![0, 1], vec![0, 1]]);
    two.all_pairs_carry();
}

#[test]
fn the_device_is_asked_for_nothing_before_it_runs() {
    let mut two = Two::unmet(16, [1, 1], Features::NONE);
    let mut early = 0;
    for last in 0..200 {
        two.now += MS;
        for end in [DRIVER, DEVICE] {
            two.input(end, |link, now| link.handle_timeout(now));
            let own = NetdevState { mtu: 1500, up: true, mac: [2, 0, 0, 0, 0, last] };
            two.input(DRIVER, |link, now| link.handle_netdev(now, own));
            let link = &two.ends[DRIVER].link;
            if let Some(Core::Driver { control: Some(control), .. }) = &link.core {
                let asked = control.poll_timeout().is_some();
                assert!(!asked || link.work == Work::Running);
                early += u32::from(link.work != Work::Running);
            }
        }
    }
    assert!(early > 0, "the address changed while the queue was there and the device did not run");
    two.all_pairs_carry();
}

#[test]
fn our_driver_takes_every_frame_and_tells_its_address() {
    let mut two = Two::new(16, [1, 1], Features::NONE);
    for last in [6, 7, 7] {
        let own = NetdevState { mtu: 1500, up: true, mac: [2, 0, 0, 0, 0, last] };
        two.input(DRIVER, |link, now| link.handle_netdev(now, own));
        two.run(10 * MS);
        let Some(Core::Device { model, .. }) = &two.ends[DEVICE].link.core else { panic!() };
        let current = model.settings().watch().current;
        assert!(current.filter.promiscuous && !current.judges());
        assert_eq!(current.filter.mac, own.mac);
    }
}

#[test]
fn a_device_that_starts_has_its_driver_announce_itself_once() {
    let mut two = Two::new(16, [1, 1], Features::NONE);
    assert_eq!(two.ends.each_ref().map(|end| end.announced), [1, 0]);
    two.run(3 * SECOND);
    assert_eq!(two.ends[DRIVER].announced, 1);
    let Some(Core::Device { model, .. }) = &two.ends[DEVICE].link.core else { panic!() };
    let mut status = [0; 2];
    model.read_config(6, &mut status);
    assert_eq!(status, [1, 0], "the announcement was acknowledged");
    let off = Features::of(&[net::F_GUEST_ANNOUNCE]);
    assert_eq!(Two::new(16, [1, 1], off).ends[DRIVER].announced, 0);
}

#[test]
fn a_command_that_is_never_answered_ends_the_session() {
    let mut two = Two::new(16, [1, 1], Features::NONE);
    two.ends[DRIVER].link.command(net::F_CTRL_RX, Command::Promiscuous(true));
    for _ in 0..3100 {
        two.now += MS;
        two.input(DRIVER, |link, now| link.handle_timeout(now));
        // The device's tunnel lives, but its control queue is not looked at.
        if let Some(Core::Device { control, .. }) = &mut two.ends[DEVICE].link.core {
            *control = None;
        }
        two.input(DEVICE, |link, now| link.handle_doorbell(now));
    }
    let reason = &two.ends[DRIVER].reason;
    assert_eq!(reason, "controlq: Promiscuous(true) was not answered");
}

/// The device's worker of this pair gives its path back at last.
fn give_back(two: &mut Two, pair: u16) {
    let now = two.now;
    two.ends[DEVICE].stopped(now, pair);
    two.run(10 * MS);
}

#[test]
fn a_driver_hears_that_a_pair_is_not_used_once_no_worker_has_it() {
    let mut two = Two::new(16, [2, 2], Features::NONE);
    two.ends[DEVICE].slow = true;
    two.ask(Command::UsePairs(1), net::F_MQ);
    assert_eq!(two.ends[DEVICE].stopping, BTreeSet::from([1]));
    assert_eq!(two.used()[DRIVER], [0, 1], "not answered yet");
    give_back(&mut two, 1);
    assert_eq!(two.used(), [vec![0], vec![0]]);
}

#[test]
fn other_offloads_are_in_force_once_each_worker_has_published_what_it_had() {
    let mut two = Two::new(16, [2, 2], Features::NONE);
    two.ends[DEVICE].slow = true;
    if let Some(Core::Device { model, .. }) = &mut two.ends[DEVICE].link.core {
        model.control(net::ctrl::GUEST_OFFLOADS_SET, &[0; 8]).unwrap();
    }
    // A later command waits for its turn.
    two.ask(Command::UsePairs(1), net::F_MQ);
    assert_eq!(two.ends[DEVICE].stopping, BTreeSet::from([0, 1]));
    assert_eq!(two.ends[DEVICE].offloads, Some(Offloads::default()));
    give_back(&mut two, 0);
    assert!(!two.ends[DEVICE].link.pairs_are_settled());
    give_back(&mut two, 1);
    assert!(two.ends[DEVICE].link.pairs_are_settled());
    assert_eq!(two.used(), [vec![0], vec![0]]);
}

//! The front-end's link against the back-end's, each with its own end of the same memory.

use super::*;
use crate::link::back_end::{BackEndLink, Event as Asked, Params, StartPair as Paired};
use crate::tunnel::vhost_user::back_end::Descriptor as Given;

/// A descriptor: what it is for, and the memory behind it if it is memory's.
#[derive(Clone, Debug)]
struct Fd(Option<Descriptor>, Option<Arc<Mapping>>);

impl Given for Fd {
    fn map(&self, _: u64, _: u64) -> Result<Arc<Mapping>, String> {
        self.1.clone().ok_or_else(|| "it is no memory".to_owned())
    }

    fn is_channel(&self) -> bool {
        true
    }

    fn is_doorbell(&self) -> bool {
        matches!(self.0, Some(Descriptor::Kick(_) | Descriptor::Call(_)))
    }

    fn create(_: u64) -> Result<(Self, Arc<Mapping>), String> {
        Err("not asked for".to_owned())
    }
}

/// Both links, with what their owners do.
struct Both {
    now: Instant,
    front: FrontEndLink,
    back: BackEndLink<Fd>,
    memory: Arc<Mapping>,
    driver: Vec<StartPair>,
    device: BTreeMap<u16, Paired<Fd>>,
    features: [Option<Features>; 2],
    carrier: [bool; 2],
    state: Option<(State, String)>,
    closed: Option<String>,
}

impl Both {
    fn new(pairs: [u16; 2], features_off: Features) -> Self {
        let now = Instant::now();
        let params = FrontEndParams { features_off, pairs: pairs[0] };
        let len = usize::try_from(params.memory_len()).unwrap();
        let back = Params {
            features_off: Features::NONE,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            pairs: pairs[1],
            engine: None,
        };
        let mut both = Self {
            now,
            front: FrontEndLink::new(now, params),
            back: BackEndLink::new(back),
            memory: Arc::new(Mapping::anonymous(len, Kind::Cached)),
            driver: Vec::new(),
            device: BTreeMap::new(),
            features: [None; 2],
            carrier: [false; 2],
            state: None,
            closed: None,
        };
        both.drain();
        both
    }

    fn drain(&mut self) {
        loop {
            if let Some(event) = self.front.poll_event() {
                self.front_event(event);
            } else if let Some(event) = self.back.poll_event() {
                self.back_event(event);
            } else {
                return;
            }
        }
    }

    fn front_event(&mut self, event: Event) {
        match event {
            Event::Connect => self.front.handle_connected(self.now, self.memory.clone()),
            Event::Send(Message { octets, fd }) => {
                let (header, payload) = octets.split_first_chunk().unwrap();
                let memory = (fd == Some(Descriptor::Memory)).then(|| self.memory.clone());
                let fds = fd.map(|fd| Fd(Some(fd), memory)).into_iter().collect();
                self.back.handle_message(*header, payload, fds);
            }
            Event::Start(start) => self.features[0] = Some(start.features),
            Event::StartPair(pair) => self.driver.push(pair),
            Event::State(state, reason) => self.state = Some((state, reason)),
            Event::Carrier(up) => self.carrier[0] = up,
            Event::Stop => {
                self.driver.clear();
                self.front.handle_stopped(self.now);
            }
            Event::Answer(_) | Event::Disconnect => {}
        }
    }

    fn back_event(&mut self, event: Asked<Fd>) {
        match event {
            Asked::Send(octets, fd) => {
                let (header, payload) = octets.split_first_chunk().unwrap();
                self.front.handle_message(self.now, *header, payload, fd.iter().count());
            }
            Asked::Tell(channel, octets) => {
                assert_eq!(channel.0, Some(Descriptor::BackendRequests));
                let (header, payload) = octets.split_first_chunk().unwrap();
                self.front.handle_backend_request(self.now, *header, payload, 0);
            }
            Asked::Start(start) => self.features[1] = Some(start.features),
            Asked::StartPair(pair) => drop(self.device.insert(pair.pair, pair)),
            Asked::Carrier(up) => self.carrier[1] = up,
            Asked::Stop => {
                self.device.clear();
                self.back.handle_stopped();
            }
            Asked::Close(why) => self.closed = Some(why),
            _ => {}
        }
    }
}

#[test]
fn our_own_back_end_runs_all_pairs_that_both_have_and_rings_what_it_was_given() {
    for (pairs, off, used) in [
        ([1, 1], vec![], 1),
        ([4, 2], vec![], 2),
        ([3, 8], vec![F_RING_PACKED], 3),
        ([2, 2], vec![F_RING_PACKED, virtio::F_EVENT_IDX, virtio::F_IN_ORDER], 2),
    ] {
        let mut both = Both::new(pairs, Features::of(&off));
        assert_eq!(both.closed, None);
        assert_eq!(both.state, Some((State::Up, String::new())));
        assert_eq!((both.driver.len(), both.device.len()), (used, used));
        assert_eq!(both.features[0], both.features[1]);
        assert_eq!(both.carrier, [true; 2]);
        for (driver, device) in both.driver.iter_mut().zip(both.device.values_mut()) {
            let rings = [2 * driver.pair, 2 * driver.pair + 1];
            let kicks = rings.map(|ring| Some(Descriptor::Kick(ring)));
            assert_eq!(device.kicks.clone().map(|fd| fd.0), kicks);
            let calls = rings.map(|ring| Some(Descriptor::Call(ring)));
            assert_eq!(device.calls.clone().map(|fd| fd.unwrap().0), calls);
            for (len, fill) in [(60, 1), (1514, 2), (9014, 3)] {
                send(driver.path.as_mut(), &driver.mem, &frame(len, fill));
                let came = receive(device.path.as_mut(), &device.mem);
                assert_eq!(came[12..], frame(len, fill)[12..]);
                send(device.path.as_mut(), &device.mem, &frame(len, fill));
                let came = receive(driver.path.as_mut(), &driver.mem);
                assert_eq!(came[12..], frame(len, fill)[12..]);
            }
        }
    }
}

#[test]
fn the_carrier_follows_the_netdev_of_our_own_back_end() {
    let mut both = Both::new([1, 1], Features::NONE);
    for up in [false, true, false] {
        both.now += SECOND;
        both.back.handle_netdev(up);
        both.drain();
        assert_eq!(both.carrier[0], up);
    }
    let why = "the back-end says that its link is down";
    assert_eq!(both.state, Some((State::Up, why.to_owned())));
}

#[test]
fn that_our_own_back_end_has_found_a_ring_broken_is_noticed_and_mended() {
    let mut both = Both::new([1, 1], Features::NONE);
    both.back.handle_broken("transmitq: a loop");
    both.drain();
    both.now = both.front.poll_timeout().unwrap();
    both.front.handle_timeout(both.now);
    both.drain();
    let (state, why) = both.state.clone().unwrap();
    assert_eq!(state, State::Quarantined);
    assert!(why.starts_with("the back-end's device does not run: its status is 0x"), "{why}");
    // The next connection is one to a device that is new.
    let params = Params {
        features_off: Features::NONE,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        pairs: 1,
        engine: None,
    };
    both.back = BackEndLink::new(params);
    both.now += SECOND;
    both.front.handle_timeout(both.now);
    both.drain();
    assert_eq!(both.state, Some((State::Up, String::new())));
}

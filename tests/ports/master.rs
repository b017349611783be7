//! A master in this process, over the library alone. Also the benches' ([`Master`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::link::{Event, Link, LinkParams, StartPair, State};
use boardlane::memory::{BusMemory, Region, Side};
use boardlane::net::features::Features;
use boardlane::os::doorbell::ring_full_or_not;
use boardlane::os::fabric::regions;
use boardlane::os::fabric::shm::ShmLink;
use boardlane::tunnel::message::Dialect;
use boardlane::tunnel::part::{Layout, Role};
use tokio::runtime::{Builder, Runtime};

use crate::site::{Site, wait};

/// A master's end of the one link of a site. It polls.
pub(crate) struct Master {
    shm: ShmLink,
    runtime: Runtime,
    link: Link,
    pub(crate) mem: Arc<BusMemory>,
    pub(crate) pair: Option<StartPair>,
}

impl Master {
    /// Waits until there is a queue pair.
    pub(crate) fn new(site: &Site, features_off: Features) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let socket = site.directory.join("slots/slot0.sock");
        let shm = wait("a slot", || {
            runtime.block_on(ShmLink::connect(&socket)).map_err(|e| e.to_string())
        });
        let slot = shm.slot();
        let (window, driver_memory) = regions(slot.len);
        let region = |range: &std::ops::Range<u64>, side| {
            let offset = usize::try_from(range.start).unwrap();
            Region::mapped(range.start, range.end - range.start, side, slot.memory.clone(), offset)
        };
        let table = vec![region(&window, Side::Far), region(&driver_memory, Side::Near)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let params = LinkParams {
            role: Role::Driver,
            dialect: Dialect::V2,
            layout: Layout::Boardlane,
            window,
            driver_memory,
            slot: 0,
            owner: slot.id.into(),
            vectors: u32::try_from(slot.doorbells.len()).unwrap(),
            heartbeat: Duration::from_millis(100),
            features_off,
            mac: [2, 0, 0, 0, 0, 9],
            mtu: 1500,
            pairs: 1,
            engine: None,
            version: "test".to_owned(),
            seed: 1,
        };
        let link = Link::new(Instant::now(), mem.clone(), params).unwrap();
        let mut master = Self { shm, runtime, link, mem, pair: None };
        wait("a queue pair", || {
            master.turn();
            master.pair.as_ref().map(|_| ()).ok_or_else(|| "none".to_owned())
        });
        master
    }

    pub(crate) fn turn(&mut self) {
        let news = async { tokio::time::timeout(Duration::ZERO, self.shm.next()).await };
        let _ = self.runtime.block_on(news);
        let alive: BTreeSet<u32> = self.shm.peers().keys().map(|id| u32::from(*id)).collect();
        self.link.handle_peers(Instant::now(), alive);
        self.link.handle_doorbell(Instant::now());
        self.link.handle_timeout(Instant::now());
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::Ring { vector, .. } => self.ring(vector),
                Event::StartPair(pair) => self.pair = Some(pair),
                Event::State(State::Down | State::Quarantined, why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn ring(&self, vector: u16) {
        for peer in self.shm.peers().values() {
            peer.vectors.get(usize::from(vector)).into_iter().for_each(|fd| ring_full_or_not(fd));
        }
    }

    pub(crate) fn ring_worker(&self) {
        let doorbell = self.pair.as_ref().and_then(|pair| pair.doorbell);
        self.ring(doorbell.map_or(1, |(_, vector)| vector));
    }
}

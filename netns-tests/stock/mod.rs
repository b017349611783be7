//! A master as a stock kernel's virtio-net driver makes one, driven by hand: it says no HELLO, cuts
//! buffers and commands as Linux does, and takes what features it is told to.
//!
//! [`Stock`] is the configuration side: a session in the window, and requests in virtio-msg. It gives
//! the queues ([`rings`]), which are used without it.

pub(crate) mod frames;
pub(crate) mod rings;
pub(crate) mod tcp;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use boardlane::link::pair_vector;
use boardlane::memory::{BusMemory, Region, Side};
use boardlane::net::features::Features;
use boardlane::os::doorbell::ring_full_or_not;
use boardlane::os::fabric::regions;
use boardlane::spec::net::{self, Config};
use boardlane::spec::virtio::{self, status};
use boardlane::spec::{msg, window};
use boardlane::tunnel::fifo::Fifo;
use boardlane::tunnel::message::{Blocks, Body, Dialect, Message, VqueueState, decode, encode};
use boardlane::tunnel::part::{MemoryEntry, Params, Role};
use boardlane::tunnel::session::{Change, Session};
use boardlane::virtqueue::QueueConfig;
use zerocopy::FromBytes;

use crate::cases::hostile::Intruder;
use crate::world::{PATIENCE, wait};
use rings::{Control, Receiver, Sender, Shape};

/// What Linux's driver takes of the offer: split rings, or packed ones.
pub(crate) const SPLIT: Features =
    Features::OFFER.minus(Features::of(&[virtio::F_IN_ORDER, virtio::F_RING_PACKED]));
pub(crate) const PACKED: Features = Features::OFFER.minus(Features::of(&[virtio::F_IN_ORDER]));

/// In which memory something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Window,
    Driver,
}

/// A master's configuration side.
pub(crate) struct Stock {
    _intruder: Intruder,
    pub(crate) mem: Arc<BusMemory>,
    fifo: Fifo,
    /// The agent's doorbells, and ours.
    theirs: Vec<Arc<OwnedFd>>,
    pub(crate) ours: Vec<Arc<OwnedFd>>,
    heart: Heart,
    token: u16,
    free: [Range<u64>; 2],
    all_free: [Range<u64>; 2],
    pub(crate) features: Features,
}

/// A driver whose device runs.
pub(crate) struct Driver {
    pub(crate) stock: Stock,
    pub(crate) pairs: Vec<(Receiver, Sender)>,
    pub(crate) control: Option<Control>,
    /// Pairs in use.
    pub(crate) used: usize,
}

impl Stock {
    /// Takes the master's part of a slot, and waits for its agent.
    pub(crate) fn in_slot(path: &Path) -> Self {
        let mut intruder = Intruder::in_slot(path);
        let slot = intruder.shm.slot().clone();
        let (window, driver) = regions(slot.len);
        let region = |range: &Range<u64>, side| {
            let offset = usize::try_from(range.start).unwrap();
            Region::mapped(range.start, range.end - range.start, side, slot.memory.clone(), offset)
        };
        let table = vec![region(&window, Side::Far), region(&driver, Side::Near)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let entry = |kind, range: &Range<u64>| MemoryEntry {
            kind,
            bus_addr: range.start,
            len: range.end - range.start,
        };
        let params = Params {
            role: Role::Driver,
            window_addr: window.start,
            window_len: u32::try_from(window.end).unwrap(),
            owner: slot.id.into(),
            vectors: u32::try_from(slot.doorbells.len()).unwrap(),
            mailbox: driver.start,
            window_mailbox: u64::from(window::HEADER_LEN + window::mailbox_len(window::SLOTS)),
            dma_only: false,
            table: vec![
                entry(window::MEMORY_WINDOW, &window),
                entry(window::MEMORY_DRIVER, &driver),
            ],
            slot: 0,
            heartbeat: Duration::from_millis(50),
            dead_after: PATIENCE,
        };
        let mut session = Session::new(Instant::now(), &mem, params).unwrap();
        let mut epoch = u32::from(slot.id) << 8;
        session.start(Instant::now(), epoch | 1, u64::from(epoch) | 1);
        let mut stopped = false;
        let (peer, fifo) = wait("a stock driver has met the agent", || {
            if std::mem::take(&mut stopped) {
                epoch += 1;
                session.start(Instant::now(), epoch | 1, u64::from(epoch) | 1);
            }
            match session.handle_look(Instant::now(), &mem, &|_| true) {
                Some(Change::Up(peer, fifo)) => Ok((peer, fifo)),
                Some(Change::Down(reason)) => {
                    stopped = true;
                    Err(reason.to_string())
                }
                seen => Err(format!("{seen:?}")),
            }
        });
        let owner = u16::try_from(peer.owner).unwrap();
        let peer = wait("the agent is among the slot's clients", || {
            let Intruder { shm, runtime } = &mut intruder;
            let news = async { tokio::time::timeout(Duration::from_millis(1), shm.next()).await };
            let _ = runtime.block_on(news);
            shm.peers().get(&owner).cloned().ok_or("it is not".to_owned())
        });
        let own = u64::from(window::mailbox_len(window::SLOTS));
        let header = u64::from(window::HEADER_LEN);
        let free = [window.start + header + own..window.end, driver.start + own..driver.end];
        let mut stock = Self {
            _intruder: intruder,
            heart: Heart::start(session, mem.clone()),
            mem,
            fifo,
            theirs: peer.vectors,
            ours: slot.doorbells,
            token: 0,
            all_free: free.clone(),
            free,
            features: Features::NONE,
        };
        stock.ring(0);
        stock
    }

    fn ring(&mut self, vector: usize) {
        ring_full_or_not(&self.theirs[vector]);
    }

    /// The agent's doorbell for a queue.
    fn doorbell(&self, pair: u16) -> Arc<OwnedFd> {
        let vectors = u32::try_from(self.theirs.len()).unwrap();
        self.theirs[usize::from(pair_vector(pair, vectors).unwrap())].clone()
    }

    /// Asks, and waits for the answer.
    pub(crate) fn request(&mut self, body: Body) -> Body {
        let token = self.send(body);
        self.answer(token)
    }

    /// Asks; the token by which to get the answer.
    pub(crate) fn send(&mut self, body: Body) -> u16 {
        self.token += 1;
        let mut out = [0; msg::MAX_LEN];
        let token = self.token;
        let len = encode(Dialect::V2, &Message { dev_num: 0, token, body }, &mut out);
        assert!(self.fifo.send(&self.mem, &out[..len]).unwrap(), "the agent takes messages");
        self.ring(0);
        token
    }

    /// Waits for the answer to a request.
    pub(crate) fn answer(&mut self, token: u16) -> Body {
        let start = Instant::now();
        let mut slot = [0; window::SLOT_LEN];
        loop {
            self.heart.check();
            assert!(start.elapsed() < PATIENCE, "request {token} is not answered");
            if !self.fifo.receive(&self.mem, &mut slot).unwrap() {
                thread::sleep(Duration::from_micros(20));
                continue;
            }
            let message = decode(Dialect::V2, &slot).unwrap();
            if message.token == token {
                return message.body;
            }
            // What it announces is read when it is wanted.
            assert!(matches!(message.body, Body::EventConfig { .. }), "{message:?}");
        }
    }

    /// The device status.
    pub(crate) fn status(&mut self) -> u8 {
        match self.request(Body::GetDeviceStatus) {
            Body::DeviceStatus { status } => u8::try_from(status).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn set_status(&mut self, status: u8) -> u8 {
        match self.request(Body::SetDeviceStatus { status: status.into() }) {
            Body::DeviceStatusSet { status } => u8::try_from(status).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The config space.
    pub(crate) fn config(&mut self) -> Config {
        match self.request(Body::GetConfig { offset: 0, length: net::CONFIG_LEN }) {
            Body::Config { data, .. } => Config::read_from_bytes(&data).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// What the device offers.
    fn offered(&mut self) -> Features {
        match self.request(Body::GetDeviceFeatures { index: 0, count: 4 }) {
            Body::DeviceFeatures(Blocks { blocks, .. }) => (0..)
                .zip(blocks)
                .fold(Features::NONE, |all, (index, bits)| all.with_block(index, bits)),
            other => panic!("{other:?}"),
        }
    }

    /// Resets the device.
    pub(crate) fn reset(&mut self) {
        self.set_status(0);
        wait("the device is reset", || match self.status() {
            0 => Ok(()),
            other => Err(other.to_string()),
        });
        self.free = self.all_free.clone();
    }

    /// Resets the device and accepts these features; the status that comes of it.
    pub(crate) fn accept(&mut self, features: Features) -> u8 {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let blocks = (0..4).map(|i| features.block(i)).collect();
        let set = self.request(Body::SetDriverFeatures(Blocks { index: 0, blocks }));
        assert_eq!(set, Body::DriverFeaturesSet);
        self.features = features;
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK)
    }

    /// Brings a device up with these features and so many pairs set up.
    pub(crate) fn drive(mut self, features: Features, pairs: u16, shape: Shape) -> Driver {
        let offered = self.offered();
        let status = self.accept(features.intersection(offered));
        assert!(status & status::FEATURES_OK != 0, "{features} is refused");
        let made = (0..pairs)
            .map(|pair| {
                let receiver = Receiver::place(&mut self, pair, shape);
                let sender = Sender::place(&mut self, pair, shape);
                self.enable(receiver.index, &receiver.config);
                self.enable(sender.index, &sender.config);
                (receiver, sender)
            })
            .collect();
        let control = self.features.has(net::F_CTRL_VQ).then(|| {
            let most = if self.features.has(net::F_MQ) {
                self.config().max_virtqueue_pairs.get()
            } else {
                1
            };
            let control = Control::place(&mut self);
            self.enable(net::controlq(most), &control.config);
            control
        });
        let status = self.set_status(status | status::DRIVER_OK);
        assert!(status & status::DRIVER_OK != 0, "{status}");
        let mut driver = Driver { stock: self, pairs: made, control, used: 1 };
        for (receiver, _) in &mut driver.pairs {
            receiver.fill();
        }
        driver
    }

    /// Tells the device of a queue.
    pub(crate) fn enable(&mut self, index: u16, config: &QueueConfig) {
        let QueueConfig { size, desc, driver, device, .. } = *config;
        let set = Body::SetVqueue {
            index: index.into(),
            flags: msg::VQ_ENABLE,
            size: size.into(),
            reserved: 0,
            desc,
            driver,
            device,
        };
        assert_eq!(self.request(set), Body::VqueueSet);
        assert!(self.is_enabled(index), "queue {index} at {config:?}");
    }

    /// Whether the device has a queue set up.
    pub(crate) fn is_enabled(&mut self, index: u16) -> bool {
        match self.request(Body::GetVqueue { index: index.into() }) {
            Body::Vqueue(VqueueState { flags, .. }) => flags & msg::VQ_ENABLED != 0,
            other => panic!("{other:?}"),
        }
    }

    /// Resets a queue; nobody uses it any more after that.
    pub(crate) fn reset_queue(&mut self, index: u16) {
        assert_eq!(self.request(Body::ResetVqueue { index: index.into() }), Body::VqueueReset);
    }

    /// Memory that nothing lies in yet, whole lines.
    fn take(&mut self, spot: Spot, len: u64) -> u64 {
        let free = &mut self.free[spot as usize];
        let at = free.start.next_multiple_of(64);
        free.start = at + len;
        assert!(free.start <= free.end, "the slot has too little memory for this case");
        at
    }
}

/// Beats in the window's header, however long a case thinks.
struct Heart {
    stop: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    fn start(mut session: Session, mem: Arc<BusMemory>) -> Self {
        let (stop, fault) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (flag, told) = (stop.clone(), fault.clone());
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if let Some(change) = session.handle_look(Instant::now(), &mem, &|_| false) {
                    *told.lock().unwrap() = Some(format!("{change:?}"));
                }
                thread::sleep(Duration::from_millis(10));
            }
            session.shutdown(&mem);
            session.release(&mem);
        });
        Self { stop, fault, thread: Some(thread) }
    }

    /// The session must be up.
    fn check(&self) {
        let fault = self.fault.lock().unwrap();
        assert!(fault.is_none(), "the session is over: {fault:?}");
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

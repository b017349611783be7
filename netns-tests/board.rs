//! A board driven by hand: an agent without a netdev, which behaves until it is told to flood its master
//! with what a board can send. Also the benches' ([`Flooder`]).

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use boardlane::memory::{BusMemory, Region, Side};
use boardlane::net::device_path::DevicePath;
use boardlane::net::features::Features;
use boardlane::net::model::{self, NetDevice, Offer, QueueSetup};
use boardlane::net::path::Path as _;
use boardlane::os::fabric::regions;
use boardlane::os::fabric::shm::ShmLink;
use boardlane::os::poll::ring;
use boardlane::spec::{msg, net, virtio, window};
use boardlane::tunnel::device::DeviceTunnel;
use boardlane::tunnel::fifo::Fifo;
use boardlane::tunnel::message::{Body, Dialect, Hello, Message, NetdevState, encode};
use boardlane::tunnel::part::{Params, Role};
use boardlane::tunnel::session::{Change, Session};
use boardlane::virtqueue::QueueConfig;
use tokio::runtime::Runtime;

/// Of each kind so many, then the others.
const BATCH: usize = 64;
const HEARTBEAT: Duration = Duration::from_millis(100);

/// With what the board floods its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    Nothing,
    Frames,
    Messages,
    Doorbells,
    All,
}

impl Flood {
    pub(crate) const ALL: [Self; 5] =
        [Self::Nothing, Self::Frames, Self::Messages, Self::Doorbells, Self::All];

    fn has(self, kind: Self) -> bool {
        self == kind || self == Self::All
    }
}

/// A board whose session may come and go.
pub(crate) struct Board {
    shm: ShmLink,
    runtime: Runtime,
    mem: Arc<BusMemory>,
    session: Session,
    epoch: u32,
    fifo: Option<Fifo>,
    tunnel: DeviceTunnel,
    model: NetDevice,
    path: Option<DevicePath>,
    theirs: Vec<Arc<OwnedFd>>,
    next_look: Instant,
    frame: Vec<u8>,
    /// Batches of messages so far.
    flooded: u32,
    /// It takes no messages.
    pub(crate) deaf: bool,
}

impl Board {
    /// Takes the board's part of a slot. The master need not be there yet.
    pub(crate) fn in_slot(path: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shm = runtime.block_on(ShmLink::connect(path)).unwrap();
        let slot = shm.slot().clone();
        let (window, driver) = regions(slot.len);
        let region = |range: &Range<u64>, side| {
            let offset = usize::try_from(range.start).unwrap();
            Region::mapped(range.start, range.end - range.start, side, slot.memory.clone(), offset)
        };
        let table = vec![region(&window, Side::Near), region(&driver, Side::Far)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let own = u64::from(window::HEADER_LEN);
        let params = Params {
            role: Role::Device,
            window_addr: window.start,
            window_len: u32::try_from(window.end).unwrap(),
            owner: slot.id.into(),
            vectors: u32::try_from(slot.doorbells.len()).unwrap(),
            mailbox: own,
            window_mailbox: own + u64::from(window::mailbox_len(window::SLOTS)),
            dma_only: false,
            table: Vec::new(),
            slot: 0,
            heartbeat: HEARTBEAT,
            dead_after: Duration::from_secs(10),
        };
        let now = Instant::now();
        let session = Session::new(now, &mem, params).unwrap();
        // A broadcast to a port of which nobody knows, after the virtio-net header.
        let mut frame = vec![0; 12];
        frame.extend([0xff; 6].iter().chain(&[2, 0, 0, 0, 0, 9]).chain(&[8, 0]));
        frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 255, 255, 255, 255]);
        frame.extend([0, 9, 0, 9, 0, 26, 0, 0]);
        frame.resize(12 + 60, 0);
        let epoch = u32::from(slot.id) << 12;
        let (tunnel, model) = device(epoch);
        let (fifo, path, theirs) = (None, None, Vec::new());
        let mut board = Self {
            shm,
            runtime,
            mem,
            session,
            epoch,
            fifo,
            tunnel,
            model,
            path,
            theirs,
            next_look: now,
            frame,
            flooded: 0,
            deaf: false,
        };
        board.begin();
        board
    }

    /// The doorbells that the master rings; this board polls.
    pub(crate) fn doorbells(&self) -> Vec<Arc<OwnedFd>> {
        self.shm.slot().doorbells.clone()
    }

    /// A new session, with a new epoch.
    pub(crate) fn begin(&mut self) {
        self.epoch += 1;
        (self.fifo, self.path) = (None, None);
        (self.tunnel, self.model) = device(self.epoch);
        self.session.start(Instant::now(), self.epoch, u64::from(self.epoch) | 1 << 40);
    }

    /// Whether the master has set the device up.
    pub(crate) fn is_up(&self) -> bool {
        self.path.is_some()
    }

    /// Does what an agent does: session, answers, queues; frames that come are taken and are gone.
    pub(crate) fn turn(&mut self) {
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + Duration::from_millis(5);
            self.look(now);
        }
        self.answer(now);
        while let Some(event) = self.model.poll_event() {
            match event {
                model::Event::Activate { features, queues } => {
                    let [rx, tx] = [0, 1].map(|index| config(&queues, index, features));
                    self.path = DevicePath::new(&self.mem, features, &rx, &tx).ok();
                }
                model::Event::Reset => {
                    self.path = None;
                    self.model.quiesced();
                    self.tunnel.notify_at_rest(&self.model);
                }
                _ => {}
            }
        }
        if let Some(path) = &mut self.path {
            for _ in 0..BATCH {
                if !matches!(
                    path.receive(&self.mem),
                    Ok(boardlane::net::path::Inward::Frame { .. })
                ) {
                    break;
                }
                let _ = path.received(&self.mem);
            }
            path.release(&self.mem);
        }
    }

    fn look(&mut self, now: Instant) {
        let news = async { tokio::time::timeout(Duration::ZERO, self.shm.next()).await };
        let _ = self.runtime.block_on(news);
        let alive: BTreeSet<u32> = self.shm.peers().keys().map(|id| u32::from(*id)).collect();
        for _ in 0..4 {
            match self.session.handle_look(now, &self.mem, &|id| alive.contains(&id)) {
                None => break,
                Some(Change::Up(peer, fifo)) => {
                    let peer =
                        u16::try_from(peer.owner).ok().and_then(|id| self.shm.peers().get(&id));
                    self.theirs = peer.map(|peer| peer.vectors.clone()).unwrap_or_default();
                    self.fifo = Some(fifo);
                    self.ring(0);
                }
                Some(Change::Ring(_)) => self.ring_all(),
                Some(Change::Down(_)) => self.begin(),
                Some(Change::Waiting(_)) => {}
            }
        }
    }

    fn answer(&mut self, now: Instant) {
        let Some(fifo) = &mut self.fifo else { return };
        let (mut slot, mut out) = ([0; window::SLOT_LEN], [0; msg::MAX_LEN]);
        let mut sent = false;
        while !self.deaf
            && self.tunnel.ready()
            && fifo.receive(&self.mem, &mut slot).unwrap_or(false)
        {
            self.tunnel.handle_message(now, &slot, &mut self.model);
            while self.tunnel.poll_event().is_some() {}
        }
        while fifo.has_room(&self.mem).unwrap_or(false) {
            let Some(len) = self.tunnel.poll_message(&mut out) else { break };
            sent |= fifo.send(&self.mem, &out[..len]).unwrap_or(false);
        }
        if sent {
            self.ring(0);
        }
    }

    /// A batch of what it floods with; how many frames, messages and rings.
    pub(crate) fn flood(&mut self, kind: Flood) -> [u64; 3] {
        let mut done = [0; 3];
        if kind.has(Flood::Frames) {
            done[0] = self.frames();
            self.ring(1);
        }
        if kind.has(Flood::Messages) {
            done[1] = self.messages();
            self.ring(0);
        }
        if kind.has(Flood::Doorbells) {
            for _ in 0..BATCH {
                self.ring_all();
            }
            done[2] = (BATCH * self.theirs.len()) as u64;
        }
        done
    }

    /// Sends a frame, header included, if there is room.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let Some(path) = &mut self.path else { return };
        if path.room(&self.mem).is_ok_and(|room| room.fill(&self.mem, frame)) {
            let _ = path.sent(&self.mem, frame.len());
        }
        path.flush(&self.mem);
        self.ring(1);
    }

    fn frames(&mut self) -> u64 {
        let Some(path) = &mut self.path else { return 0 };
        let mut sent = 0;
        for _ in 0..BATCH {
            if !path.room(&self.mem).is_ok_and(|room| room.fill(&self.mem, &self.frame)) {
                break;
            }
            sent += u64::from(path.sent(&self.mem, self.frame.len()).is_ok());
        }
        path.flush(&self.mem);
        sent
    }

    /// Notifications of used buffers, of changed config and of a changed netdev: what costs the master
    /// most.
    fn messages(&mut self) -> u64 {
        let Some(fifo) = self.fifo.as_mut().filter(|_| self.path.is_some()) else { return 0 };
        let mut out = [0; msg::MAX_LEN];
        let mut sent = 0;
        self.flooded += 1;
        for (n, _) in (0_u32..).zip(0..BATCH) {
            let body = match n % 4 {
                0 => Body::EventConfig { status: 15, generation: n, offset: 0, data: Vec::new() },
                1 => {
                    let mtu = 1300 + u16::try_from(self.flooded % 200).unwrap();
                    Body::EventLink(NetdevState { mtu, up: true, mac: [2, 0, 0, 0, 0, 9] })
                }
                n => Body::EventUsed { index: n % 2 },
            };
            let len = encode(Dialect::V2, &Message { dev_num: 0, token: 0, body }, &mut out);
            if !fifo.send(&self.mem, &out[..len]).unwrap_or(false) {
                break;
            }
            sent += 1;
        }
        sent
    }

    fn ring(&self, vector: usize) {
        if let Some(bell) = self.theirs.get(vector) {
            let _ = ring(&**bell);
        }
    }

    fn ring_all(&self) {
        self.theirs.iter().for_each(|bell| drop(ring(&**bell)));
    }
}

fn device(epoch: u32) -> (DeviceTunnel, NetDevice) {
    let hello = Hello {
        revision: msg::REVISION,
        max_len: u32::try_from(msg::MAX_LEN).unwrap(),
        epoch,
        layout: window::LAYOUT_VERSION,
        version: "by hand".into(),
        ..Hello::default()
    };
    let mut model = NetDevice::new(Offer {
        features: Features::OFFER.without(Features::of(&[net::F_CTRL_VQ, net::F_MQ])),
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        rx_size: 256,
        tx_size: 256,
        pairs: 1,
    });
    model.set_link(true);
    (DeviceTunnel::new(Dialect::V2, hello), model)
}

fn config(queues: &[QueueSetup], index: u16, features: Features) -> QueueConfig {
    let queue = queues.iter().find(|queue| queue.index == index).unwrap();
    QueueConfig {
        size: queue.size,
        desc: queue.desc,
        driver: queue.driver,
        device: queue.device,
        packed: features.has(virtio::F_RING_PACKED),
        in_order: features.has(virtio::F_IN_ORDER),
        event_idx: features.has(virtio::F_EVENT_IDX),
        indirect: features.has(virtio::F_INDIRECT_DESC),
    }
}

/// A board on a thread of its own, which floods as it is told.
pub(crate) struct Flooder {
    kind: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    up: Arc<AtomicBool>,
    done: Arc<[AtomicU64; 3]>,
    thread: Option<JoinHandle<()>>,
}

impl Flooder {
    pub(crate) fn in_slot(path: &Path) -> Self {
        let mut board = Board::in_slot(path);
        let (kind, done) = (Arc::<AtomicU8>::default(), Arc::<[AtomicU64; 3]>::default());
        let [stop, up] = [(); 2].map(|()| Arc::<AtomicBool>::default());
        let thread = thread::spawn({
            let (kind, stop, up, done) = (kind.clone(), stop.clone(), up.clone(), done.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    board.turn();
                    up.store(board.is_up(), Ordering::Relaxed);
                    match Flood::ALL[usize::from(kind.load(Ordering::Relaxed))] {
                        Flood::Nothing => thread::sleep(Duration::from_millis(2)),
                        flood => {
                            for (sum, n) in done.iter().zip(board.flood(flood)) {
                                sum.fetch_add(n, Ordering::Relaxed);
                            }
                        }
                    }
                }
            }
        });
        Self { kind, stop, up, done, thread: Some(thread) }
    }

    /// Floods with this from now on.
    pub(crate) fn set(&self, kind: Flood) {
        let index = Flood::ALL.iter().position(|flood| *flood == kind).unwrap();
        self.kind.store(u8::try_from(index).unwrap(), Ordering::Relaxed);
    }

    /// Whether the master has set the device up.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Frames, messages and rings so far.
    pub(crate) fn done(&self) -> [u64; 3] {
        self.done.each_ref().map(|n| n.load(Ordering::Relaxed))
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

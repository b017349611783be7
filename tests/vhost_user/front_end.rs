//! A front-end in this process: memory in a memfd, our driver's half on it, eventfds, and messages on a
//! Unix socket.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boardlane::memory::{BusMemory, Region, Side};
use boardlane::net::driver_path::DriverPath;
use boardlane::net::features::Features;
use boardlane::net::path::{Inward, Path};
use boardlane::net::placement::{Placement, place};
use boardlane::os::fabric::vhost_user::memory::{Loss, map};
use boardlane::spec::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN, protocol};
use boardlane::spec::{net, virtio};
use boardlane::tunnel::vhost_user::{Header, Inflight, MemoryRegion, Reply, Request, VringAddr};
use boardlane::virtqueue::QueueConfig;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::site::{PATIENCE, Site, wait};
use crate::stream::{Stream, frame};

/// Of the driver's memory: two regions of one file, whose addresses on the bus and in this process (as
/// far as the back-end is to know) have nothing to do with each other.
const LEN: u64 = 16 << 20;
const WINDOW: u64 = 4 << 20;
const BUS: u64 = 0x1_0000_0000;
const USER: u64 = 0x7f12_3400_0000;
/// Between the two regions, on the bus and in this process.
const BUS_GAP: u64 = 1 << 30;
const USER_GAP: u64 = 1 << 28;

/// Frames between two looks at what has come.
const BATCH: usize = 48;
/// How long a call is waited for before it is looked whether it was lost.
const LONG: Duration = Duration::from_secs(2);

/// Which rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
    pub(crate) event_idx: bool,
}

impl Rings {
    pub(crate) fn name(self) -> String {
        let format = if self.packed { "packed" } else { "split" };
        let order = if self.in_order { ", in order" } else { "" };
        let event = if self.event_idx { "" } else { ", no event_idx" };
        format!("{format}{order}{event}")
    }

    fn features(self) -> Features {
        let mut bits = vec![virtio::F_VERSION_1, net::F_MRG_RXBUF];
        bits.extend(self.packed.then_some(virtio::F_RING_PACKED));
        bits.extend(self.in_order.then_some(virtio::F_IN_ORDER));
        bits.extend(self.event_idx.then_some(virtio::F_EVENT_IDX));
        Features::of(&bits)
    }
}

/// What is tracked of what is in flight: the back-end's memory, in our keeping.
type Tracked = (Inflight, OwnedFd);

/// A descriptor for each queue.
pub(crate) type Pair = [Arc<OwnedFd>; 2];

pub(crate) struct FrontEnd {
    pub(crate) file: OwnedFd,
    mem: Arc<BusMemory>,
    features: Features,
    placement: Placement,
    path: DriverPath,
    pub(crate) kicks: Pair,
    pub(crate) calls: Pair,
    pub(crate) tracked: Option<Tracked>,
    /// Where the rings go on.
    bases: [u32; 2],
    pub(crate) socket: Option<UnixStream>,
    pub(crate) stream: Stream,
    /// Times that there was work that no call had told of.
    pub(crate) untold: u64,
    /// Calls are read; otherwise they stay as they are.
    pub(crate) hears_calls: bool,
}

pub(crate) fn doorbell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

impl FrontEnd {
    /// Fresh rings, and nobody to talk to.
    pub(crate) fn new(rings: Rings, sealed: bool) -> Self {
        let file =
            memfd_create("front-end", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, LEN).unwrap();
        if sealed {
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        }
        // As a back-end does it: that the memory is cut is then no end of this process.
        let mapping = map(file.as_fd(), 0, LEN, &Loss::new()).unwrap();
        let region = |bus, len, at| Region::mapped(bus, len, Side::Near, mapping.clone(), at);
        let driver = BUS + WINDOW + BUS_GAP;
        let at = usize::try_from(WINDOW).unwrap();
        let table = vec![region(BUS, WINDOW, 0), region(driver, LEN - WINDOW, at)];
        let mem = Arc::new(BusMemory::new(table).unwrap());
        let features = rings.features();
        let (window, driver) = (BUS..BUS + WINDOW, driver..driver + LEN - WINDOW);
        let placement = place(window, driver, [256, 256], features).unwrap();
        let Placement { receiveq, transmitq, buffers } = &placement;
        let path = DriverPath::new(&mem, features, receiveq, transmitq, buffers).unwrap();
        let first = if rings.packed { 0x8000_8000 } else { 0 };
        Self {
            file,
            mem,
            features,
            path,
            placement,
            kicks: [doorbell(), doorbell()],
            calls: [doorbell(), doorbell()],
            tracked: None,
            bases: [first; 2],
            socket: None,
            stream: Stream::default(),
            untold: 0,
            hears_calls: true,
        }
    }

    fn queues(&self) -> [&QueueConfig; 2] {
        [&self.placement.receiveq, &self.placement.transmitq]
    }

    /// How many frames may be in a ring.
    pub(crate) fn ring_size(&self) -> u64 {
        self.placement.transmitq.size.into()
    }

    /// Connects to a link and sets a device up as QEMU does, with memory for what is in flight if
    /// `tracks`.
    pub(crate) fn set_up(&mut self, site: &Site, link: usize, tracks: bool) {
        // Who was killed may have left a listener that is about to be closed.
        self.socket = Some(wait("a connection that is served", || {
            let socket = site.connect(link);
            let asked = send(&socket, &Request::GetFeatures.encode(false), &[]);
            asked.and_then(|()| receive(&socket)).map(|_| socket).map_err(|e| e.to_string())
        }));
        self.negotiate();
        if tracks {
            self.track();
        }
        let regions = [
            MemoryRegion { bus_addr: BUS, len: WINDOW, user_addr: USER, offset: 0 },
            MemoryRegion {
                bus_addr: BUS + WINDOW + BUS_GAP,
                len: LEN - WINDOW,
                user_addr: USER + WINDOW + USER_GAP,
                offset: WINDOW,
            },
        ];
        let fds = [self.file.as_fd(), self.file.as_fd()];
        let socket = self.socket.as_ref().unwrap();
        done(socket, &Request::SetMemTable(regions.to_vec()), &fds);
        for index in 0..2 {
            self.set_up_ring(index);
        }
        for index in 0..2 {
            done(self.socket(), &Request::SetVringEnable { index, enable: 1 }, &[]);
        }
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        self.socket.as_ref().unwrap()
    }

    /// Of what is offered, what is wanted; until memory is told.
    fn negotiate(&self) {
        let socket = self.socket();
        let offered = number(socket, &Request::GetFeatures);
        assert_ne!(offered & 1 << F_PROTOCOL_FEATURES, 0);
        let wanted = protocol::REPLY_ACK | protocol::INFLIGHT_SHMFD;
        assert_eq!(number(socket, &Request::GetProtocolFeatures) & wanted, wanted);
        send(socket, &Request::SetProtocolFeatures(wanted).encode(false), &[]).unwrap();
        assert_eq!(number(socket, &Request::GetQueueNum), 1);
        done(socket, &Request::SetOwner, &[]);
        let [low, high] = [0, 1].map(|block| u64::from(self.features.block(block)));
        let features = low | high << 32;
        assert_eq!(features & !offered, 0);
        done(socket, &Request::SetFeatures(features | 1 << F_PROTOCOL_FEATURES), &[]);
    }

    /// Gets memory for what is in flight, or gives it back if it was got from an earlier back-end.
    fn track(&mut self) {
        if self.tracked.is_none() {
            let size = self.placement.receiveq.size;
            let asked = Inflight { len: 0, offset: 0, queues: 2, queue_size: size };
            let socket = self.socket();
            send(socket, &Request::GetInflightFd(asked).encode(false), &[]).unwrap();
            let (reply, mut fds) = receive(socket).unwrap();
            let Reply::Inflight(inflight) = reply else { panic!("{reply:?}") };
            self.tracked = Some((inflight, fds.pop().unwrap()));
        }
        let (inflight, fd) = self.tracked.as_ref().unwrap();
        done(self.socket(), &Request::SetInflightFd(*inflight), &[fd.as_fd()]);
    }

    fn set_up_ring(&self, index: u32) {
        let (socket, at) = (self.socket(), index as usize);
        let queue = self.queues()[at];
        let user = |bus: u64| {
            let offset = bus - BUS;
            USER + if offset < WINDOW { offset } else { offset - BUS_GAP + USER_GAP }
        };
        let addr = VringAddr {
            desc: user(queue.desc),
            driver: user(queue.driver),
            device: user(queue.device),
        };
        done(socket, &Request::SetVringNum { index, num: queue.size.into() }, &[]);
        done(socket, &Request::SetVringBase { index, base: self.bases[at] }, &[]);
        done(socket, &Request::SetVringAddr { index, flags: 0, addr }, &[]);
        done(socket, &Request::SetVringKick { index, fd: true }, &[self.kicks[at].as_fd()]);
        done(socket, &Request::SetVringCall { index, fd: true }, &[self.calls[at].as_fd()]);
    }

    /// The back-end is gone, and with it what it knew of the rings. For a split one its used index says
    /// where to go on; for a packed one there is what was known at first (QEMU, hw/virtio/virtio.c:
    /// `virtio_queue_restore_last_avail_idx`).
    pub(crate) fn is_left(&mut self) {
        self.socket = None;
        let packed = self.placement.receiveq.packed;
        for index in (0..2).filter(|_| !packed) {
            self.bases[index] = self.used_index(index).into();
        }
    }

    /// The index in a split ring's used ring.
    fn used_index(&self, index: usize) -> u16 {
        let span = self.mem.resolve(self.queues()[index].device, 4).unwrap();
        self.mem.view(span).unwrap().load_le16(2)
    }

    /// Stops the rings and learns where they go on.
    pub(crate) fn stop(&mut self) {
        for index in 0..2 {
            let socket = self.socket();
            send(socket, &Request::GetVringBase { index }.encode(false), &[]).unwrap();
            let (reply, _) = receive(socket).unwrap();
            let Reply::VringBase { index: same, base } = reply else { panic!("{reply:?}") };
            assert_eq!(same, index);
            self.bases[index as usize] = base;
        }
    }

    /// Goes on after [`stop`](Self::stop), on the same connection.
    pub(crate) fn go_on(&self) {
        (0..2).for_each(|index| self.set_up_ring(index));
    }

    /// Of split rings, how far they are used.
    pub(crate) fn bases_of_used(&self) -> Option<[u16; 2]> {
        (!self.placement.receiveq.packed).then(|| [0, 1].map(|index| self.used_index(index)))
    }

    pub(crate) fn kick(&self) {
        self.kicks.iter().for_each(|kick| ring(kick));
    }

    /// Has the available ring of the split transmitq say what cannot be.
    pub(crate) fn spoil(&self) {
        let span = self.mem.resolve(self.queues()[1].driver, 4).unwrap();
        let view = self.mem.view(span).unwrap();
        view.store_le16(2, view.load_le16(2).wrapping_add(0x4000));
    }

    /// A batch each way, as far as there is something to do: how many frames went, and how many came.
    pub(crate) fn turn(&mut self, most: usize) -> (usize, usize) {
        let mut sent = 0;
        while sent < BATCH.min(most) {
            let frame = frame(self.stream.next);
            if !self.path.room(&self.mem).unwrap().fill(&self.mem, &frame) {
                break;
            }
            assert_eq!(self.path.sent(&self.mem, frame.len()).unwrap(), None);
            self.stream.next += 1;
            sent += 1;
        }
        if self.path.flush(&self.mem) {
            ring(&self.kicks[1]);
        }
        (sent, self.take_in())
    }

    fn take_in(&mut self) -> usize {
        let mut came = 0;
        while came < BATCH {
            match self.path.receive(&self.mem).unwrap() {
                Inward::Empty => break,
                Inward::Dropped(reason) => panic!("{}", reason.name()),
                Inward::Frame { prefix, tail, .. } => {
                    let mut frame = prefix.to_vec();
                    for span in tail {
                        let at = frame.len();
                        frame.resize(at + span.len(), 0);
                        self.mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
                    }
                    self.stream.judge(&frame);
                }
            }
            self.path.received(&self.mem).unwrap();
            came += 1;
        }
        if self.path.release(&self.mem) {
            ring(&self.kicks[0]);
        }
        came
    }

    /// Waits until it is called, for so long at most; `for_room`: also for a place to send from.
    fn sleep(&mut self, for_room: bool, longest: Duration) {
        if !self.path.arm(&self.mem, for_room).unwrap() {
            if !self.hears_calls {
                std::thread::sleep(longest);
            }
            let called = wait_for(&self.calls, longest);
            if !called && longest >= LONG && self.path.arm(&self.mem, for_room).unwrap() {
                // A call that comes only now belongs to what has come only now.
                self.untold += u64::from(!wait_for(&self.calls, Duration::from_millis(200)));
            }
            for call in self.calls.iter().filter(|_| self.hears_calls) {
                let _ = rustix::io::read(call, &mut [0_u8; 8]);
            }
        }
        self.path.disarm(&self.mem);
    }

    /// Sends as much as there is room for and takes what comes, until so many more have come.
    pub(crate) fn pump(&mut self, frames: u64) {
        let (until, mut since) = (self.stream.seen().came + frames, Instant::now());
        while self.stream.seen().came < until {
            match self.turn(BATCH) {
                (0, 0) => self.sleep(true, LONG),
                (_, 0) => {}
                _ => since = Instant::now(),
            }
            assert!(since.elapsed() < PATIENCE, "{:?}", self.stream);
        }
    }

    /// Sends for so many turns, whatever comes.
    pub(crate) fn push(&mut self, turns: u64) {
        for _ in 0..turns {
            if self.turn(BATCH) == (0, 0) {
                self.sleep(true, Duration::from_millis(5));
            }
        }
    }

    /// Sends nothing and takes what comes until nothing is under way.
    pub(crate) fn drain(&mut self) {
        let since = Instant::now();
        while self.stream.under_way() > 0 {
            if self.take_in() == 0 {
                self.sleep(false, LONG);
            }
            assert!(since.elapsed() < PATIENCE, "{:?}", self.stream);
        }
    }
}

fn ring(kick: &OwnedFd) {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // One that is full is rung already.
    if poll(&mut [PollFd::new(kick, PollFlags::OUT)], Some(&at_once)) == Ok(0) {
        return;
    }
    let _ = rustix::io::write(kick, &1_u64.to_ne_bytes());
}

fn wait_for(fds: &Pair, longest: Duration) -> bool {
    let [a, b] = fds;
    let mut ready = [PollFd::new(a, PollFlags::IN), PollFd::new(b, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::try_from(longest).unwrap())).unwrap() > 0
}

/// Asks for it, and that it was done.
pub(crate) fn done(socket: &UnixStream, request: &Request, fds: &[BorrowedFd<'_>]) {
    send(socket, &request.encode(true), fds).unwrap_or_else(|e| panic!("{request:?}: {e}"));
    assert_eq!(receive(socket).unwrap().0, Reply::Number(0), "{request:?}");
}

/// Asks for a number.
pub(crate) fn number(socket: &UnixStream, request: &Request) -> u64 {
    send(socket, &request.encode(false), &[]).unwrap_or_else(|e| panic!("{request:?}: {e}"));
    let (reply, _) = receive(socket).unwrap();
    let Reply::Number(number) = reply else { panic!("{reply:?}") };
    number
}

/// Sends octets with descriptors.
pub(crate) fn send(
    mut socket: &UnixStream,
    octets: &[u8],
    fds: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(octets)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&octets[sent..])
}

pub(crate) fn receive(mut socket: &UnixStream) -> std::io::Result<(Reply, Vec<OwnedFd>)> {
    let mut header = [0; HEADER_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut header)];
    let got = recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(ErrorKind::ConnectionReset.into());
    }
    socket.read_exact(&mut header[got.bytes..])?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            fds.extend(came);
        }
    }
    let header = Header::parse(header, true).unwrap();
    let mut payload = vec![0; header.size as usize];
    socket.read_exact(&mut payload)?;
    Ok((Reply::decode(header.request, &payload).unwrap(), fds))
}

//! rust-vmm's vhost-user front-end against our back-end, over a real socket with real memory: messages,
//! acknowledgements, memory slots, config space, what is in flight. Behind it are our driver's rings.
//!
//! It knows no `STATUS`, and a base has 16 bits: of a packed ring it keeps the lower half.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::link::back_end::{BackEndLink, Event, Params, StartPair};
use boardlane::memory::{BusMemory, Mapping, Region, Side};
use boardlane::net::driver_path::DriverPath;
use boardlane::net::features::Features;
use boardlane::net::path::{Inward, Path};
use boardlane::net::placement::{Placement, place};
use boardlane::os::fabric::vhost_user::connection::Connection;
use boardlane::os::fabric::vhost_user::memory::{Loss, create, map};
use boardlane::spec::net::{self, HEADER_LEN};
use boardlane::spec::virtio;
use boardlane::tunnel::vhost_user::back_end::Descriptor;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::netdev::frame;

const BUS: u64 = 0x8000_0000;
const LEN: u64 = 4 << 20;
const PROTOCOL_FEATURES: u64 = 1 << 30;

#[derive(Clone, Debug)]
struct Fd(Arc<OwnedFd>);

impl Descriptor for Fd {
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String> {
        map(self.0.as_fd(), offset, len, &Loss::new()).map_err(|e| e.to_string())
    }

    fn is_channel(&self) -> bool {
        true
    }

    fn is_doorbell(&self) -> bool {
        true
    }

    fn create(len: u64) -> Result<(Self, Arc<Mapping>), String> {
        let (fd, mapping) = create(len).map_err(|e| e.to_string())?;
        Ok((Self(Arc::new(fd)), mapping))
    }
}

/// The back-end: it gives back every frame that it gets. Why its connection ended.
fn serve(socket: UnixStream, params: Params) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = Connection::over(socket.into()).unwrap();
        let mut link = BackEndLink::new(params);
        let mut running = BTreeMap::new();
        loop {
            if let Some(why) = drain(&mut link, &mut connection, &mut running) {
                return why;
            }
            running.values_mut().for_each(echo);
            let next = tokio::time::timeout(Duration::from_millis(1), connection.next()).await;
            match next {
                Err(_) => {}
                Ok(Ok(message)) => {
                    let fds = message.fds.into_iter().map(|fd| Fd(Arc::new(fd)));
                    link.handle_message(message.header, &message.payload, fds.collect());
                }
                Ok(Err(e)) => return e.to_string(),
            }
        }
    })
}

fn drain(
    link: &mut BackEndLink<Fd>,
    connection: &mut Connection,
    running: &mut BTreeMap<u16, StartPair<Fd>>,
) -> Option<String> {
    while let Some(event) = link.poll_event() {
        match event {
            Event::StartPair(start) => {
                assert!(running.insert(start.pair, start).is_none());
            }
            Event::StopPair(pair) => {
                let path = running.remove(&pair).map(|start| start.path);
                link.handle_pair_stopped(pair, path);
            }
            Event::Send(octets, fd) => {
                let fds: Vec<_> = fd.iter().map(|fd| fd.0.as_fd()).collect();
                connection.send(&octets, &fds).unwrap();
            }
            Event::Ring(fd) => ring(&fd),
            Event::Stop => panic!("a ring is broken"),
            Event::Close(why) => return Some(why),
            _ => {}
        }
    }
    None
}

fn ring(fd: &Fd) {
    rustix::io::write(&fd.0, &1_u64.to_ne_bytes()).unwrap();
}

fn echo(start: &mut StartPair<Fd>) {
    let StartPair { path, mem, calls, .. } = start;
    while let Inward::Frame { prefix, tail, .. } = path.receive(mem).unwrap() {
        let mut frame = prefix.to_vec();
        for span in tail {
            let at = frame.len();
            frame.resize(at + span.len(), 0);
            mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
        }
        path.received(mem).unwrap();
        frame[..HEADER_LEN].fill(0);
        assert!(path.room(mem).unwrap().fill(mem, &frame), "the driver takes them at once");
        assert_eq!(path.sent(mem, frame.len()).unwrap(), None);
    }
    let rings = [path.flush(mem), path.release(mem)];
    for (call, rings) in calls.iter().zip(rings) {
        call.iter().filter(|_| rings).for_each(ring);
    }
}

/// The front-end's process: its memory in two files, and the driver in it.
struct FrontEnd {
    frontend: Frontend,
    files: Vec<(OwnedFd, Arc<Mapping>)>,
    mem: BusMemory,
    placed: Placement,
    features: Features,
    driver: DriverPath,
    /// Of each ring: its kick and its call.
    bells: [[EventFd; 2]; 2],
}

impl FrontEnd {
    /// Negotiates as it would with anybody's back-end.
    fn new(socket: UnixStream, off: &[u8]) -> Self {
        let mut frontend = Frontend::from_stream(socket, 3);
        let offered = frontend.get_features().unwrap();
        assert_ne!(offered & PROTOCOL_FEATURES, 0);
        frontend.set_owner().unwrap();
        frontend.set_features(offered).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        let not = VhostUserProtocolFeatures::STATUS | VhostUserProtocolFeatures::BACKEND_REQ;
        frontend.set_protocol_features(protocol & !not).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let known = u128::from(offered & !PROTOCOL_FEATURES);
        let features = Features::from_bits(known).without(Features::of(off));
        let files: Vec<_> = (0..2).map(|_| create(LEN).unwrap()).collect();
        let region = |(at, (_, mapping)): (u64, &(OwnedFd, Arc<Mapping>))| {
            Region::mapped(BUS + at * LEN, LEN, Side::Near, mapping.clone(), 0)
        };
        let mem = BusMemory::new((0..).zip(&files).map(region).collect()).unwrap();
        let middle = BUS + LEN;
        let placed = place(BUS..middle, middle..middle + LEN, [64, 64], features).unwrap();
        let driver = driver(&mem, features, &placed);
        let bell = || EventFd::new(EFD_NONBLOCK).unwrap();
        let bells = [[bell(), bell()], [bell(), bell()]];
        let this = Self { frontend, files, mem, placed, features, driver, bells };
        this.accept();
        this
    }

    fn accept(&self) {
        let bits = u64::try_from(self.features.bits()).unwrap();
        self.frontend.set_features(bits | PROTOCOL_FEATURES).unwrap();
    }

    fn regions(&self) -> Vec<VhostUserMemoryRegionInfo> {
        let region = |(at, (fd, _)): (u64, &(OwnedFd, Arc<Mapping>))| VhostUserMemoryRegionInfo {
            guest_phys_addr: BUS + at * LEN,
            memory_size: LEN,
            // In the other order than on the bus.
            userspace_addr: 0x7f00_0000_0000 - at * 2 * LEN,
            mmap_offset: 0,
            mmap_handle: fd.as_raw_fd(),
        };
        (0..).zip(&self.files).map(region).collect()
    }

    fn user(&self, addr: u64) -> u64 {
        let mut regions = self.regions().into_iter().rev();
        let region = regions.find(|region| region.guest_phys_addr <= addr).unwrap();
        addr - region.guest_phys_addr + region.userspace_addr
    }

    fn start(&mut self, bases: [u16; 2]) {
        for (index, queue) in [self.placed.receiveq, self.placed.transmitq].iter().enumerate() {
            let [kick, call] = &self.bells[index];
            let config = VringConfigData {
                queue_max_size: queue.size,
                queue_size: queue.size,
                flags: 0,
                desc_table_addr: self.user(queue.desc),
                used_ring_addr: self.user(queue.device),
                avail_ring_addr: self.user(queue.driver),
                log_addr: None,
            };
            let frontend = &mut self.frontend;
            frontend.set_vring_num(index, queue.size).unwrap();
            frontend.set_vring_addr(index, &config).unwrap();
            frontend.set_vring_base(index, bases[index]).unwrap();
            frontend.set_vring_call(index, call).unwrap();
            frontend.set_vring_kick(index, kick).unwrap();
            frontend.set_vring_enable(index, true).unwrap();
        }
    }

    fn stop(&mut self) -> [u16; 2] {
        [0, 1].map(|index| {
            let base = self.frontend.get_vring_base(index).unwrap();
            u16::try_from(base & 0xffff).unwrap()
        })
    }

    fn exchange(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let sent = frame(number, 60 + number * 7);
            let Self { driver, mem, .. } = self;
            let whole = [&[0; HEADER_LEN], sent].concat();
            assert!(driver.room(mem).unwrap().fill(mem, &whole));
            assert_eq!(driver.sent(mem, whole.len()).unwrap(), None);
            if driver.flush(mem) {
                self.bells[1][0].write(1).unwrap();
            }
            let end = Instant::now() + Duration::from_secs(10);
            while !self.takes(sent) {
                assert!(Instant::now() < end, "frame {number} does not come back");
                thread::yield_now();
            }
        }
    }

    fn takes(&mut self, sent: &[u8]) -> bool {
        let Self { driver, mem, .. } = self;
        let Inward::Frame { prefix, tail, .. } = driver.receive(mem).unwrap() else { return false };
        let mut got = prefix.to_vec();
        for span in tail {
            let at = got.len();
            got.resize(at + span.len(), 0);
            mem.view(*span).unwrap().copy_to(0, &mut got[at..]);
        }
        assert!(&got[HEADER_LEN..] == sent, "another frame");
        driver.received(mem).unwrap();
        if driver.release(mem) {
            self.bells[0][0].write(1).unwrap();
        }
        true
    }
}

fn driver(mem: &BusMemory, features: Features, placed: &Placement) -> DriverPath {
    let Placement { receiveq, transmitq, buffers } = placed;
    DriverPath::new(mem, features, receiveq, transmitq, buffers).unwrap()
}

/// Runs a front-end's story; what ended the connection.
fn against(off: &[u8], story: impl FnOnce(FrontEnd)) -> String {
    let params = Params {
        features_off: Features::NONE,
        mac: [2, 0, 0, 0, 0, 5],
        mtu: 1500,
        pairs: 1,
        engine: None,
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back_end = thread::spawn(move || serve(ours, params));
    story(FrontEnd::new(theirs, off));
    back_end.join().unwrap()
}

const RINGS: [&[u8]; 4] = [
    &[net::F_CTRL_VQ],
    &[net::F_CTRL_VQ, virtio::F_RING_PACKED],
    &[net::F_CTRL_VQ, virtio::F_IN_ORDER, virtio::F_EVENT_IDX],
    &[net::F_CTRL_VQ, virtio::F_RING_PACKED, virtio::F_IN_ORDER, virtio::F_INDIRECT_DESC],
];

#[test]
fn rust_vmm_s_front_end_sets_our_device_up_stops_it_and_resets_it() {
    for off in RINGS {
        let ended = against(off, |mut it| {
            let first = if it.features.has(virtio::F_RING_PACKED) { 0x8000 } else { 0 };
            let (_, config) =
                it.frontend.get_config(0, 12, VhostUserConfigFlags::empty(), &[0; 12]).unwrap();
            assert_eq!(config[..6], [2, 0, 0, 0, 0, 5]);
            it.frontend.set_mem_table(&it.regions()).unwrap();
            it.start([first; 2]);
            it.exchange(0..100);
            let bases = it.stop();
            it.start(bases);
            it.exchange(100..200);
            it.frontend.reset_device().unwrap();
            it.driver = driver(&it.mem, it.features, &it.placed);
            it.accept();
            it.start([first; 2]);
            it.exchange(200..250);
        });
        assert_eq!(ended, "the other end has closed the connection");
    }
}

#[test]
fn memory_slots_and_memory_for_what_is_in_flight_are_as_it_expects_them() {
    for off in RINGS {
        against(off, |mut it| {
            let first = if it.features.has(virtio::F_RING_PACKED) { 0x8000 } else { 0 };
            assert_eq!(it.frontend.get_max_mem_slots().unwrap(), 32);
            for region in it.regions() {
                it.frontend.add_mem_region(&region).unwrap();
            }
            let asked = VhostUserInflight::new(0, 0, 2, 64);
            let (inflight, file) = it.frontend.get_inflight_fd(&asked).unwrap();
            assert!(file.metadata().unwrap().len() >= inflight.mmap_size);
            it.frontend.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();
            it.start([first; 2]);
            it.exchange(0..100);
            // Another slot comes and goes while rings run.
            let (fd, _) = create(0x1_0000).unwrap();
            let more = VhostUserMemoryRegionInfo {
                guest_phys_addr: 0x1000,
                memory_size: 0x1_0000,
                userspace_addr: 0x1000_0000,
                mmap_offset: 0,
                mmap_handle: fd.as_raw_fd(),
            };
            for round in 1..10 {
                it.frontend.add_mem_region(&more).unwrap();
                it.exchange(100 * round..100 * round + 10);
                it.frontend.remove_mem_region(&more).unwrap();
                it.exchange(100 * round + 10..100 * round + 20);
            }
            let bases = it.stop();
            it.start(bases);
            it.exchange(0..100);
        });
    }
}

#[test]
fn a_request_that_cannot_be_is_acknowledged_as_refused() {
    let ended = against(RINGS[1], |it| {
        assert!(it.frontend.set_vring_num(0, 3).is_err());
    });
    assert_eq!(ended, "SET_VRING_NUM has the value 0x3");
}

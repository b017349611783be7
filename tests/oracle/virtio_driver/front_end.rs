//! virtio-drivers' network driver as a guest's: what it does to its device's registers, a vhost-user
//! front-end tells our back-end, as a virtual machine monitor would.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use boardlane::link::back_end::{BackEndLink, Event, Params};
use boardlane::memory::{BusMemory, Kind, Mapping};
use boardlane::net::features::Features;
use boardlane::spec::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN};
use boardlane::tunnel::vhost_user::back_end::{Descriptor, PROTOCOL_FEATURES};
use boardlane::tunnel::vhost_user::{MemoryRegion, Reply, Request, VringAddr};
use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::board::MAC;
use super::hal::Arena;
use super::{BUFFER, SIZE, frame, frame_len, is_frame, offers};
use crate::Random;
use crate::image::Image;
use crate::netdev::Worker;

/// Where the driver's memory is for the front-end.
const USER: u64 = 0x7f00_0000_0000;

/// A descriptor: of memory, or a doorbell.
#[derive(Clone, Debug)]
struct Fd(Option<Arc<Mapping>>);

impl Descriptor for Fd {
    fn map(&self, offset: u64, _: u64) -> std::result::Result<Arc<Mapping>, String> {
        assert_eq!(offset, 0);
        self.0.clone().ok_or_else(|| "no memory".to_owned())
    }

    fn is_channel(&self) -> bool {
        true
    }

    fn is_doorbell(&self) -> bool {
        self.0.is_none()
    }

    fn create(len: u64) -> std::result::Result<(Self, Arc<Mapping>), String> {
        let memory = Arc::new(Mapping::anonymous(usize::try_from(len).unwrap(), Kind::Cached));
        Ok((Self(Some(memory.clone())), memory))
    }
}

struct Machine {
    link: BackEndLink<Fd>,
    worker: Option<(Worker, Arc<BusMemory>)>,
    replies: Vec<Vec<u8>>,
    queues: [bool; 2],
    rang: bool,
}

impl Machine {
    fn tell(&mut self, request: &Request, fds: Vec<Fd>) {
        let octets = request.encode(false);
        let (header, payload) = octets.split_first_chunk::<HEADER_LEN>().unwrap();
        self.link.handle_message(*header, payload, fds);
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::StartPair(start) => {
                    let before = self.worker.replace((Worker::over(start.path), start.mem));
                    assert!(before.is_none());
                }
                Event::StopPair(pair) => {
                    let path = self.worker.take().map(|(worker, _)| worker.into_path());
                    self.link.handle_pair_stopped(pair, path);
                }
                Event::Send(octets, _) => self.replies.push(octets),
                Event::Ring(_) => self.rang = true,
                Event::Stop => panic!("a ring is broken"),
                Event::Close(why) => panic!("{why}"),
                _ => {}
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Reply {
        self.tell(request, vec![]);
        let octets = self.replies.pop().expect("an answer");
        Reply::decode(request.number(), &octets[HEADER_LEN..]).unwrap()
    }

    fn number(&mut self, request: &Request) -> u64 {
        match self.ask(request) {
            Reply::Number(number) => number,
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self) {
        let Some((worker, mem)) = &mut self.worker else { return };
        self.rang |= worker.run(mem);
    }
}

/// The driver's way to the machine, and the test's.
#[derive(Clone)]
struct Guest(Rc<RefCell<Machine>>);

impl Guest {
    fn new(image: &Image, off: Features) -> Self {
        let params = Params { features_off: off, mac: MAC, mtu: 1500, pairs: 1, engine: None };
        let link = BackEndLink::new(params);
        let mut machine =
            Machine { link, worker: None, replies: Vec::new(), queues: [false; 2], rang: false };
        machine.tell(&Request::SetProtocolFeatures(PROTOCOL_FEATURES), vec![]);
        let share = |region: &boardlane::memory::Region| {
            let (bus_addr, len) = (region.bus_addr, region.len);
            let (mapping, _) = region.backing.clone().unwrap();
            let user_addr = bus_addr + USER;
            (MemoryRegion { bus_addr, len, user_addr, offset: 0 }, Fd(Some(mapping)))
        };
        let (regions, fds) = image.mem.regions().iter().map(share).unzip();
        machine.tell(&Request::SetMemTable(regions), fds);
        Self(Rc::new(RefCell::new(machine)))
    }

    fn worker<T>(&self, f: impl FnOnce(&mut Worker) -> T) -> T {
        f(&mut self.0.borrow_mut().worker.as_mut().expect("it runs").0)
    }
}

impl Transport for Guest {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.borrow_mut().number(&Request::GetFeatures) & !(1 << F_PROTOCOL_FEATURES)
    }

    fn write_driver_features(&mut self, features: u64) {
        let bits = features | 1 << F_PROTOCOL_FEATURES;
        self.0.borrow_mut().tell(&Request::SetFeatures(bits), vec![]);
    }

    fn max_queue_size(&mut self, _: u16) -> u32 {
        256
    }

    fn notify(&mut self, _: u16) {
        self.0.borrow_mut().run();
    }

    fn get_status(&self) -> DeviceStatus {
        let status = self.0.borrow_mut().number(&Request::GetStatus);
        DeviceStatus::from_bits_retain(u32::try_from(status).unwrap())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let machine = &mut self.0.borrow_mut();
        if status.is_empty() {
            machine.queues = [false; 2];
        }
        machine.tell(&Request::SetStatus(status.bits().into()), vec![]);
        machine.run();
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        desc: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        let index = u32::from(queue);
        let addr = VringAddr { desc: desc + USER, driver: driver + USER, device: device + USER };
        let machine = &mut self.0.borrow_mut();
        for (request, fds) in [
            (Request::SetVringEnable { index, enable: 1 }, vec![]),
            (Request::SetVringNum { index, num: size }, vec![]),
            (Request::SetVringBase { index, base: 0 }, vec![]),
            (Request::SetVringAddr { index, flags: 0, addr }, vec![]),
            (Request::SetVringKick { index, fd: true }, vec![Fd(None)]),
            (Request::SetVringCall { index, fd: true }, vec![Fd(None)]),
        ] {
            machine.tell(&request, fds);
        }
        machine.queues[usize::from(queue)] = true;
    }

    fn queue_unset(&mut self, queue: u16) {
        let machine = &mut self.0.borrow_mut();
        let index = queue.into();
        assert!(matches!(machine.ask(&Request::GetVringBase { index }), Reply::VringBase { .. }));
        assert!(machine.worker.is_none(), "the ring's memory is the driver's again");
        machine.queues[usize::from(queue)] = false;
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.borrow().queues[usize::from(queue)]
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let offset = u32::try_from(offset).unwrap();
        let request = Request::GetConfig { offset, flags: 0, data: vec![0; size_of::<T>()] };
        match self.0.borrow_mut().ask(&request) {
            Reply::Config { data, .. } => Ok(T::read_from_bytes(&data).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}

#[test]
fn a_guest_s_virtio_drivers_is_served_through_a_front_end_one_boot_after_the_other() {
    for offer in offers() {
        let off = Features::from_bits(Features::OFFER.bits() & !offer.bits());
        let guest = Guest::new(&Arena::install(5), off);
        let mut random = Random(11);
        for boot in 0..6 {
            let mut net = VirtIONet::<Arena, Guest, SIZE>::new(guest.clone(), BUFFER).unwrap();
            assert_eq!(net.mac_address(), MAC);
            for number in 0..1500 {
                let [there, back] = [(); 2].map(|()| frame_len(&mut random));
                net.send(TxBuffer::from(frame(number, there))).unwrap();
                let got = guest.worker(|worker| worker.inbox.pop_front()).expect("it was kicked");
                is_frame(&got, number, there);
                guest.worker(|worker| worker.outbox.push_back(frame(number + 1, back)));
                guest.0.borrow_mut().run();
                let got = net.receive().unwrap();
                is_frame(got.packet(), number + 1, back);
                net.recycle_rx_buffer(got).unwrap();
                if number % 300 == 7 {
                    // An interrupt is masked, and so its descriptor another one.
                    let call = Request::SetVringCall { index: boot % 2, fd: true };
                    guest.0.borrow_mut().tell(&call, vec![Fd(None)]);
                    guest.0.borrow_mut().run();
                }
            }
            if boot % 2 == 0 {
                drop(net);
                assert!(guest.0.borrow().worker.is_none());
            } else {
                // Nobody resets the queues: the next driver resets the device.
                std::mem::forget(net);
            }
        }
    }
}

//! Our device as virtio-drivers sees it: the device model behind its `Transport`, and behind that the
//! device's path with a netdev.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use boardlane::net::device_path::DevicePath;
use boardlane::net::features::Features;
use boardlane::net::frame::Drop;
use boardlane::net::model::{Event, NetDevice, Offer, QueueSetup};
use boardlane::spec::{net, virtio};
use boardlane::tunnel::model::{Device, QueueOperation, QueueUpdate};
use boardlane::virtqueue::{At, QueueConfig, Start};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::image::Image;
use crate::netdev::Worker;

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[derive(Debug)]
struct Board {
    image: Arc<Image>,
    device: NetDevice,
    /// While the driver's queues run.
    worker: Option<Worker>,
    /// What the worker's path was made for.
    queues: Option<(Features, [QueueConfig; 2])>,
    /// The path is replaced each time the worker runs; so many times it was.
    replaced: Option<usize>,
    /// The driver, or the netdev, has something new.
    kicked: bool,
    /// Whoever drives the test runs the worker; else a notification does.
    by_hand: bool,
    notifications: u64,
    /// The driver waited for ever, because of a notification that it did not send.
    late: bool,
}

/// The driver's way to the board, and the test's.
#[derive(Clone, Debug)]
pub(super) struct Bus(Arc<(Mutex<Board>, Condvar)>);

fn queue_config(setup: &QueueSetup, features: Features) -> QueueConfig {
    QueueConfig {
        size: setup.size,
        desc: setup.desc,
        driver: setup.driver,
        device: setup.device,
        packed: features.has(virtio::F_RING_PACKED),
        in_order: features.has(virtio::F_IN_ORDER),
        event_idx: features.has(virtio::F_EVENT_IDX),
        indirect: features.has(virtio::F_INDIRECT_DESC),
    }
}

impl Board {
    /// Does what the driver's last call asks of a link.
    fn follow(&mut self) {
        while let Some(event) = self.device.poll_event() {
            match event {
                Event::Activate { features, queues } => {
                    let queue = |index| {
                        let setup = queues.iter().find(|setup| setup.index == index).unwrap();
                        queue_config(setup, features)
                    };
                    let (rx, tx) = (queue(net::RECEIVEQ), queue(net::TRANSMITQ));
                    let path = DevicePath::new(&self.image.mem, features, &rx, &tx).unwrap();
                    self.worker = Some(Worker::new(path));
                    self.queues = Some((features, [rx, tx]));
                    self.kicked = true;
                }
                Event::Reset => {
                    self.worker = None;
                    self.device.quiesced();
                }
                Event::ResetQueue(index) => {
                    self.worker = None;
                    self.device.queue_quiesced(index);
                }
                other => panic!("this driver has no way to ask for {other:?}"),
            }
        }
    }

    /// Another path goes on where the worker's one halts, or as if it had crashed.
    fn replace_path(&mut self) {
        let (Some(worker), Some(n), Some((features, [rx, tx]))) =
            (&mut self.worker, &mut self.replaced, &self.queues)
        else {
            return;
        };
        *n += 1;
        let mem = &self.image.mem;
        worker.replace(|old| {
            let starts = if *n % 3 == 0 {
                [At::Crash { base: 0 }; 2]
            } else {
                let positions = old.halt(mem).map(|position| position.unwrap());
                assert_eq!(old.tick(), None, "no frame waits: each buffer holds any");
                positions.map(|position| At::Base(position.base()))
            };
            let starts = starts.map(Start::at);
            Box::new(DevicePath::new_at(mem, *features, [rx, tx], starts).unwrap())
        });
    }

    /// Runs the worker until it sleeps. `true`: it rang the driver.
    fn run(&mut self) -> bool {
        self.replace_path();
        self.kicked = false;
        self.worker.as_mut().is_some_and(|worker| worker.run(&self.image.mem))
    }
}

impl Bus {
    /// A board that offers these features, over memory that the driver shares.
    pub(super) fn new(image: Arc<Image>, features: Features) -> Self {
        let offer = Offer { features, mac: MAC, mtu: 1500, rx_size: 256, tx_size: 256, pairs: 1 };
        let board = Board {
            image,
            device: NetDevice::new(offer),
            worker: None,
            queues: None,
            replaced: None,
            kicked: false,
            by_hand: false,
            notifications: 0,
            late: false,
        };
        Self(Arc::new((Mutex::new(board), Condvar::new())))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.0.lock().unwrap()
    }

    /// From now on notifications do not run the worker: [`turn`](Self::turn) does.
    pub(super) fn run_when_kicked_only(&self) {
        self.board().by_hand = true;
    }

    /// From now on another path goes on with the rings each time the worker runs.
    pub(super) fn replace_path(&self) {
        self.board().replaced = Some(0);
    }

    /// How many paths have come and gone.
    pub(super) fn replaced(&self) -> usize {
        self.board().replaced.unwrap_or(0)
    }

    pub(super) fn negotiated(&self) -> Option<Features> {
        self.board().device.negotiated()
    }

    pub(super) fn is_running(&self) -> bool {
        self.board().worker.is_some()
    }

    pub(super) fn drops(&self) -> Vec<Drop> {
        self.board().worker.as_ref().map(|worker| worker.drops.clone()).unwrap_or_default()
    }

    /// The next frame that the driver has sent.
    pub(super) fn received(&self) -> Option<Vec<u8>> {
        let mut board = self.board();
        assert!(!board.late, "the driver did not notify, though it was asked to");
        board.worker.as_mut()?.inbox.pop_front()
    }

    /// A frame for the driver, as soon as the worker runs.
    pub(super) fn queue(&self, frame: &'static [u8]) {
        self.board().worker.as_mut().expect("the driver is set up").outbox.push_back(frame);
    }

    /// A frame for the driver, now. `true`: the driver was notified.
    pub(super) fn send(&self, frame: &'static [u8]) -> bool {
        self.queue(frame);
        self.board().run()
    }

    /// Does `f`, in which a driver may spin until its frame is used. If it does so for 10 s, it has its
    /// will, and the next look at what was [`received`](Self::received) fails.
    pub(super) fn not_for_ever(&self, f: impl FnOnce()) {
        thread::scope(|scope| {
            let (done, waits) = mpsc::channel::<()>();
            scope.spawn(move || {
                let mut seen = None;
                while waits.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Timeout)
                {
                    let mut board = self.board();
                    if seen.replace(board.notifications) == Some(board.notifications) {
                        board.late = true;
                        board.run();
                    }
                }
            });
            f();
            drop(done);
        });
    }

    pub(super) fn kick(&self) {
        self.board().kicked = true;
        self.0.1.notify_one();
    }

    pub(super) fn is_kicked(&self) -> bool {
        self.board().kicked
    }

    pub(super) fn wait_for_kick(&self, most: Duration) {
        let board = self.board();
        drop(self.0.1.wait_timeout_while(board, most, |board| !board.kicked).unwrap());
    }

    /// Lets the worker do one batch; it stays awake until it sleeps by itself. `true`: it rang the driver.
    pub(super) fn turn(&self, batch: usize) -> bool {
        let mut board = self.board();
        let Board { image, worker, kicked, .. } = &mut *board;
        let Some(worker) = worker else { return false };
        let ring = worker.turn(&image.mem, batch);
        *kicked = !worker.is_asleep();
        ring
    }

    fn device<T>(&self, f: impl FnOnce(&mut NetDevice) -> T) -> T {
        let mut board = self.board();
        let answer = f(&mut board.device);
        board.follow();
        answer
    }
}

impl Transport for Bus {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.board().device.info().device_id).unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let [low, high] = [0, 1].map(|block| u64::from(self.board().device.features(block)));
        low | high << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for block in 0..2 {
            let bits = u32::try_from(features >> (32 * block) & 0xffff_ffff).unwrap();
            self.device(|device| device.set_driver_features(block, bits));
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.board().device.queue(queue.into()).max_size.into()
    }

    fn notify(&mut self, _: u16) {
        self.kick();
        let mut board = self.board();
        board.notifications += 1;
        if !board.by_hand {
            board.run();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.board().device.status().into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.device(|device| device.set_status(status.bits()));
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
        let update = QueueUpdate {
            operation: QueueOperation::Enable,
            size: Some(size),
            desc: Some(desc),
            driver: Some(driver),
            device: Some(device),
        };
        self.device(|device| device.set_queue(queue.into(), &update)).unwrap();
    }

    fn queue_unset(&mut self, queue: u16) {
        self.device(|device| device.reset_queue(queue.into()));
        assert!(!self.queue_used(queue), "the ring's memory is the driver's again");
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.board().device.queue(queue.into()).enabled
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::QUEUE_INTERRUPT
    }

    fn read_config_generation(&self) -> u32 {
        self.board().device.generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut bytes = vec![0; size_of::<T>()];
        self.board().device.read_config(u32::try_from(offset).unwrap(), &mut bytes);
        Ok(T::read_from_bytes(&bytes).unwrap())
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let offset = u32::try_from(offset).unwrap();
        let done = self.device(|device| device.write_config(offset, value.as_bytes()));
        if done { Ok(()) } else { Err(virtio_drivers::Error::InvalidParam) }
    }
}

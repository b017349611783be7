//! The driver's end of the control queue: one command at a time, each waited for
//! (virtio 1.4 §5.1.6.5).

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::memory::BusMemory;
use crate::spec::net::ctrl;
use crate::virtqueue::{Buffer, DriverQueue, QueueConfig, QueueError};

/// Memory that a command takes, and its answer, in bytes.
pub const COMMAND_LEN: u32 = 64;
/// Entries that a command takes, with its answer.
const ENTRIES: u16 = 2;
/// How long an answer is waited for: longer than a doorbell that is lost costs, which the keepalive makes
/// good, once a second, where heartbeats are rarer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What our driver asks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send every frame, or filter.
    Promiscuous(bool),
    /// The driver's own address.
    MacAddress([u8; 6]),
    /// So many queue pairs.
    UsePairs(u16),
    /// The address has been announced.
    Announced,
}

impl Command {
    fn octets(self) -> Vec<u8> {
        let (code, data) = match self {
            Self::Promiscuous(on) => (ctrl::RX_PROMISC, vec![on.into()]),
            Self::MacAddress(mac) => (ctrl::MAC_ADDR_SET, mac.to_vec()),
            Self::UsePairs(pairs) => (ctrl::MQ_VQ_PAIRS_SET, pairs.to_le_bytes().to_vec()),
            Self::Announced => (ctrl::ANNOUNCE_ACK, vec![]),
        };
        [vec![code.0, code.1], data].concat()
    }
}

/// Why a control queue cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The ring is broken.
    Queue(QueueError),
    /// The device's queue has fewer entries than a command and its answer take.
    TooSmall(u16),
    /// No answer within a second.
    Silent(Command),
    /// The answer is neither OK nor ERR.
    Answer(Command, u8),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(e) => write!(f, "controlq: {e}"),
            Self::TooSmall(size) => {
                write!(f, "controlq: the device takes {size} entries, a command needs {ENTRIES}")
            }
            Self::Silent(command) => write!(f, "controlq: {command:?} was not answered"),
            Self::Answer(command, n) => write!(f, "controlq: {command:?} was answered by {n}"),
        }
    }
}

impl std::error::Error for ControlError {}

impl From<QueueError> for ControlError {
    fn from(e: QueueError) -> Self {
        Self::Queue(e)
    }
}

/// The driver's end of a control queue.
#[derive(Debug)]
pub struct ControlDriver {
    queue: DriverQueue,
    /// Bus addresses of the command, which the device reads, and of the answer, which it writes.
    command: u64,
    answer: u64,
    waiting: VecDeque<Command>,
    asked: Option<(Command, Instant)>,
}

impl ControlDriver {
    /// A queue with [`COMMAND_LEN`] bytes at each of the two addresses. Our own placement, so it panics
    /// where there is no memory.
    pub fn new(
        mem: &BusMemory,
        queue: &QueueConfig,
        command: u64,
        answer: u64,
    ) -> Result<Self, ControlError> {
        if queue.size < ENTRIES {
            return Err(ControlError::TooSmall(queue.size));
        }
        let queue = queue.activate_driver(mem)?;
        Ok(Self { queue, command, answer, waiting: VecDeque::new(), asked: None })
    }

    /// Has the device asked for this, after what waits already; one that waits counts once.
    pub fn ask(&mut self, command: Command) {
        let same = |c: &Command| std::mem::discriminant(c) == std::mem::discriminant(&command);
        self.waiting.retain(|waiting| !same(waiting));
        self.waiting.push_back(command);
    }

    /// The device's next answer: the command, and whether it was carried out.
    pub fn poll(
        &mut self,
        now: Instant,
        mem: &BusMemory,
    ) -> Result<Option<(Command, bool)>, ControlError> {
        let Some((command, until)) = self.asked else { return Ok(None) };
        if self.queue.pop_used(mem)?.is_none() {
            let silent = now >= until;
            return if silent { Err(ControlError::Silent(command)) } else { Ok(None) };
        }
        self.asked = None;
        let mut answer = [0];
        let span = mem.resolve(self.answer, 1).expect("our own placement");
        mem.view(span).expect("our own placement").copy_to(0, &mut answer);
        match answer[0] {
            ctrl::OK => Ok(Some((command, true))),
            ctrl::ERR => Ok(Some((command, false))),
            other => Err(ControlError::Answer(command, other)),
        }
    }

    /// Asks the next thing, if nothing is asked. `true`: ring the device.
    pub fn send(&mut self, now: Instant, mem: &BusMemory) -> Result<bool, ControlError> {
        if self.asked.is_some() {
            return Ok(false);
        }
        let Some(command) = self.waiting.pop_front() else { return Ok(false) };
        // Each answer is to be notified. It cannot be there before it is asked for, so there is no
        // need to look again.
        let _ = self.queue.arm(mem)?;
        let octets = command.octets();
        let write = |addr, octets: &[u8]| {
            let len = u32::try_from(octets.len()).expect("a few bytes");
            let span = mem.resolve(addr, len).expect("our own placement");
            mem.view(span).expect("our own placement").copy_from(0, octets);
            Buffer { addr, len }
        };
        // An answer that the device does not write is none.
        let readable = write(self.command, &octets);
        let writable = write(self.answer, &[u8::MAX]);
        self.queue.add(mem, &[readable], &[writable], 0).expect("one command at a time");
        self.asked = Some((command, now + PATIENCE));
        Ok(self.queue.publish(mem))
    }

    /// When an answer is overdue.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.asked.map(|(_, until)| until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Kind, Mapping, Region, Side};
    use crate::virtqueue::Chain;

    fn memory() -> BusMemory {
        let mapping = Arc::new(Mapping::anonymous(0x4000, Kind::Cached));
        let region = Region::mapped(0, 0x4000, Side::Near, mapping, 0);
        BusMemory::new(vec![region]).unwrap()
    }

    fn queue(size: u16, packed: bool, event_idx: bool) -> QueueConfig {
        QueueConfig {
            size,
            desc: 0,
            driver: 0x1000,
            device: 0x2000,
            packed,
            in_order: false,
            event_idx,
            indirect: false,
        }
    }

    #[test]
    fn a_queue_without_room_for_a_command_is_refused_before_one_is_asked() {
        let mem = memory();
        for packed in [false, true] {
            let new = |size| {
                ControlDriver::new(&mem, &queue(size, packed, false), 0x3000, 0x3100).map(
                    |mut c| {
                        c.ask(Command::Announced);
                        c.send(Instant::now(), &mem)
                    },
                )
            };
            assert_eq!(new(1), Err(ControlError::TooSmall(1)));
            assert!(matches!(new(2), Ok(Ok(_))));
        }
    }

    #[test]
    fn every_answer_is_notified_and_not_only_the_first() {
        let mem = memory();
        for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = queue(4, packed, event_idx);
            for at in (0..0x4000).step_by(0x1000) {
                mem.view(mem.resolve(at, 0x1000).unwrap()).unwrap().copy_from(0, &[0; 0x1000]);
            }
            let now = Instant::now();
            let mut driver = ControlDriver::new(&mem, &config, 0x3000, 0x3100).unwrap();
            let mut device = config.activate_device(&mem).unwrap();
            let mut chain = Chain::with_capacity(4);
            for command in [Command::Promiscuous(true), Command::UsePairs(2), Command::Announced] {
                driver.ask(command);
                driver.send(now, &mem).unwrap();
                assert!(device.pop(&mem, &mut chain).unwrap());
                let answer = mem.view(mem.resolve(0x3100, 1).unwrap()).unwrap();
                answer.copy_from(0, &[ctrl::OK]);
                device.push(&mem, chain.head, 1);
                assert!(
                    device.publish(&mem),
                    "{command:?}: packed {packed}, EVENT_IDX {event_idx}"
                );
                assert_eq!(driver.poll(now, &mem), Ok(Some((command, true))));
            }
        }
    }
}

//! Queues that a driver resets and sets up anew while the others run, by messages that a test puts into
//! the driver's mailbox.

use super::*;
use crate::net::driver_path::DriverPath;
use crate::net::placement::{Queues, Reach, place_all};
use crate::tunnel::message::{self, Body, Message};
use crate::virtqueue::QueueConfig;

const PAIRS: u16 = 3;

impl Two {
    /// What our driver has placed.
    fn placed(&self) -> Queues {
        let own = u64::from(window::mailbox_len(window::SLOTS));
        let Range { start, end } = self.ends[DRIVER].link.params.driver_memory;
        let header = u64::from(window::HEADER_LEN);
        place_all(
            header + own..start,
            start + own..end,
            &[[QUEUE_SIZE; 2]; PAIRS as usize],
            Some(64),
            self.ends[DRIVER].features,
            Reach::Both,
        )
        .unwrap()
    }

    fn tell(&mut self, body: Body) {
        let mut out = [0; msg::MAX_LEN];
        // A token that our driver's own requests do not have yet.
        let message = Message { dev_num: 0, token: 0x8000, body };
        let len = message::encode(Dialect::default(), &message, &mut out);
        let fifo = self.ends[DRIVER].link.fifo.as_mut().unwrap();
        fifo.send(&self.mem, &out[..len]).unwrap();
        self.input(DEVICE, |link, now| link.handle_doorbell(now));
    }

    fn reset(&mut self, index: u16) {
        self.tell(Body::ResetVqueue { index: index.into() });
    }

    fn enable(&mut self, index: u16, queue: &QueueConfig) {
        self.tell(Body::SetVqueue {
            index: index.into(),
            flags: msg::VQ_ENABLE,
            size: queue.size.into(),
            reserved: 0,
            desc: queue.desc,
            driver: queue.driver,
            device: queue.device,
        });
    }

    fn model(&mut self) -> &mut NetDevice {
        let Some(Core::Device { model, .. }) = &mut self.ends[DEVICE].link.core else {
            panic!("{}", self.ends[DEVICE].reason)
        };
        model
    }
}

#[test]
fn a_pair_is_reset_and_set_up_anew_while_the_others_carry_frames() {
    let mut two = Two::new(16, [PAIRS; 2], Features::NONE);
    let placed = two.placed().pairs.swap_remove(1);
    for round in 0..3 {
        // The old rings are overwritten from here on.
        two.ends[DRIVER].workers.remove(&1);
        for (index, queue) in [(2, &placed.receiveq), (3, &placed.transmitq)] {
            two.reset(index);
            assert!(!two.model().queue(index.into()).enabled);
            let span = two.mem.resolve(queue.device, 1024).unwrap();
            two.mem.view(span).unwrap().copy_from(0, &[0xff; 1024]);
        }
        assert!(!two.send(DEVICE, 1, 1), "there is no receiveq");
        assert!(two.send(DEVICE, 0, 2) && two.send(DRIVER, 2, 3), "the others go on");
        let came = two.receive();
        assert_eq!(came[DRIVER], BTreeMap::from([(0, vec![2])]));
        assert_eq!(came[DEVICE], BTreeMap::from([(2, vec![3])]));
        let features = two.ends[DRIVER].features;
        let driver = DriverPath::new(
            &two.mem,
            features,
            &placed.receiveq,
            &placed.transmitq,
            &placed.buffers,
        );
        two.ends[DRIVER].workers.insert(1, Box::new(driver.unwrap()));
        two.enable(2, &placed.receiveq);
        two.enable(3, &placed.transmitq);
        two.all_pairs_carry();
        assert_eq!(two.ends[DEVICE].reason, "", "round {round}");
    }
}

#[test]
fn the_control_queue_is_reset_and_set_up_anew() {
    let mut two = Two::new(16, [PAIRS; 2], Features::NONE);
    let placed = two.placed().control.unwrap();
    two.reset(2 * PAIRS);
    assert!(!two.model().queue(u32::from(2 * PAIRS)).enabled);
    two.all_pairs_carry();
    let new = ControlDriver::new(&two.mem, &placed.queue, placed.command, placed.answer);
    if let Some(Core::Driver { control, .. }) = &mut two.ends[DRIVER].link.core {
        *control = Some(new.unwrap());
    }
    two.ask(Command::UsePairs(1), net::F_MQ);
    assert_eq!(two.used()[DEVICE].len(), usize::from(PAIRS), "nobody looks at the queue");
    two.enable(2 * PAIRS, &placed.queue);
    two.run(10 * MS);
    assert_eq!(two.used(), [vec![0], vec![0]]);
    two.all_pairs_carry();
}

#[test]
fn without_ring_reset_a_reset_of_any_queue_takes_the_device_down() {
    for index in [0, 3, 2 * PAIRS] {
        let mut two = Two::new(16, [PAIRS; 2], Features::of(&[virtio::F_RING_RESET]));
        two.reset(index);
        assert!(two.used()[DEVICE].is_empty());
        assert_eq!(two.ends[DEVICE].reason, format!("the driver reset queue {index}"));
    }
}

#[test]
fn a_queue_that_a_running_device_cannot_use_makes_it_need_a_reset() {
    const NOWHERE: u64 = 1 << 40;
    // Of a pair that was whole, of one that is not yet, and the control queue.
    for (pairs, index) in [([4, 4], 5), ([2, 4], 5), ([4, 4], 8)] {
        let mut two = Two::new(16, pairs, Features::NONE);
        let queue = two.placed().pairs[0].receiveq;
        if pairs[0] == 2 {
            two.enable(4, &queue);
        } else {
            two.reset(index);
        }
        assert_eq!(two.ends[DEVICE].reason, "", "queue {index} of {pairs:?}");
        two.enable(index, &QueueConfig { size: 16, desc: NOWHERE, ..queue });
        let status = two.model().status();
        assert_ne!(status & virtio::status::DEVICE_NEEDS_RESET, 0, "queue {index} of {pairs:?}");
    }
}

/// What a driver may do to its queues, in any order, while workers take their time to stop.
#[test]
fn whatever_is_reset_set_up_and_used_in_whatever_order_is_as_the_driver_wants_it_in_the_end() {
    for seed in 1..200 {
        let mut random = Random(seed);
        let mut two = Two::new(16, [PAIRS; 2], Features::NONE);
        two.ends[DEVICE].slow = true;
        let placed = two.placed();
        let queue = |index: u16| {
            let pair = &placed.pairs[usize::from(index / 2)];
            if index % 2 == 0 { pair.receiveq } else { pair.transmitq }
        };
        for _ in 0..60 {
            let index = random.below(u64::from(2 * PAIRS)) as u16;
            match random.below(6) {
                0 | 1 => two.reset(index),
                2 | 3 => {
                    // As a driver does it, on cleared rings.
                    if !two.model().queue(index.into()).enabled {
                        drop(queue(index).activate_driver(&two.mem).unwrap());
                    }
                    two.enable(index, &queue(index));
                }
                4 => {
                    let pairs = 1 + random.below(PAIRS.into()) as u16;
                    let _ = two.model().control(net::ctrl::MQ_VQ_PAIRS_SET, &pairs.to_le_bytes());
                    two.input(DEVICE, |link, now| link.handle_timeout(now));
                }
                _ => {
                    let stopping = two.ends[DEVICE].stopping.iter().next().copied();
                    if let Some(pair) = stopping {
                        two.ends[DEVICE].stopped(two.now, pair);
                        two.input(DEVICE, |link, now| link.handle_timeout(now));
                    }
                }
            }
        }
        two.ends[DEVICE].slow = false;
        while let Some(pair) = two.ends[DEVICE].stopping.iter().next().copied() {
            two.ends[DEVICE].stopped(two.now, pair);
            two.input(DEVICE, |link, now| link.handle_timeout(now));
        }
        // What waited for that is taken up now.
        two.input(DEVICE, |link, now| link.handle_doorbell(now));
        let used = two.ends[DEVICE].link.used_pairs;
        let workers: Vec<_> = two.used()[DEVICE].clone();
        assert_eq!(workers, (0..used).collect::<Vec<_>>(), "seed {seed}");
        for pair in 0..used {
            let enabled = two.model().queue(u32::from(2 * pair)).enabled;
            // A receiveq without buffers gives no room either, so its path tells by being there.
            let path = &two.ends[DEVICE].workers[&pair];
            assert_eq!(format!("{path:?}").contains("receiveq: Some"), enabled, "seed {seed}");
        }
        assert_eq!(two.ends[DEVICE].reason, "", "seed {seed}");
    }
}

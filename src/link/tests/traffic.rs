//! Frames with numbers, and what workers do with them.

use std::collections::VecDeque;

use super::*;
use crate::net::path::{Inward, PathError};

impl World {
    /// Sends frames each way and wants them all.
    pub(super) fn frames_pass(&mut self) {
        let before = self.frames;
        for id in self.ends.keys().copied().collect::<Vec<_>>() {
            if self.ends[&id].worker.is_some() {
                (0..20).for_each(|_| self.send(id));
            }
        }
        // Workers breathe at each step, and in a small slot there are few buffers.
        (0..10).for_each(|_| self.run(MS));
        assert_eq!(self.frames.map(|n| n - 20), before, "{:#?}", self.logs());
    }

    /// Puts a frame into an end's netdev.
    pub(super) fn send(&mut self, id: u32) {
        let number = {
            let role = self.ends[&id].role as usize;
            self.sent[role] += 1;
            self.sent[role]
        };
        let len = 26 + [40, 1500, 9000][(number % 3) as usize];
        let mut frame = vec![0; len];
        frame[12..20].copy_from_slice(&number.to_le_bytes());
        frame[20..].fill(number as u8);
        self.end(id).outbox.push_back(frame);
    }

    /// What workers do, one that is to stop or whose other end is gone included.
    pub(super) fn breathe(&mut self) {
        for _ in 0..3 {
            for (id, end) in &mut self.ends {
                let Some(worker) = end.worker.as_mut().filter(|w| !w.broken) else { continue };
                let role = end.role;
                let mut came = |frame: &[u8]| {
                    let from = role.other() as usize;
                    let number = u64::from_le_bytes(frame[12..20].try_into().unwrap());
                    assert!(number > self.came[from], "frame {number} came again, or late");
                    assert!(number <= self.sent[from], "frame {number} was never sent");
                    assert!(frame[20..].iter().all(|b| *b == number as u8), "altered");
                    self.came[from] = number;
                    self.frames[from] += 1;
                };
                let done = breath(worker, &mut end.outbox, &self.mem, &mut came);
                assert!(done.is_ok() || worker.stopping, "{id}: {done:?}");
            }
        }
    }
}

fn breath(
    worker: &mut Worker,
    outbox: &mut VecDeque<Vec<u8>>,
    mem: &BusMemory,
    came: &mut impl FnMut(&[u8]),
) -> Result<(), PathError> {
    let path = &mut worker.path;
    while let Some(frame) = outbox.front() {
        if !path.room(mem)?.fill(mem, frame) {
            break;
        }
        assert_eq!(path.sent(mem, frame.len())?, None);
        outbox.pop_front();
    }
    path.flush(mem);
    loop {
        match path.receive(mem)? {
            Inward::Empty => break,
            Inward::Dropped(reason) => panic!("{reason:?}"),
            Inward::Frame { prefix, tail, .. } => {
                let mut frame = prefix.to_vec();
                for span in tail {
                    let at = frame.len();
                    frame.resize(at + span.len(), 0);
                    mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
                }
                came(&frame);
            }
        }
        path.received(mem)?;
    }
    path.release(mem);
    Ok(())
}

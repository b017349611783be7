//! Sends back what comes: each good frame that a path gives goes out by the same path.
//!
//! No frame is taken before there is room to send it, so none is lost for want of room, and they keep
//! their order. The frame itself is not altered. Of its virtio-net header, DATA_VALID and `num_buffers`
//! speak of the way that it came by and are cleared; a device's path sets `num_buffers` anew. A frame
//! whose offloads may not be sent the other way is dropped.

use super::frame::{self, Drop, LARGEST, Offloads};
use super::path::{Path, PathError, Room, Taken};
use crate::memory::BusMemory;
use crate::spec::net::{HDR_F_DATA_VALID, HEADER_LEN};

/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No frame is there.
    Empty,
    /// There is no room to send a frame back, so none was taken.
    NoRoom,
    /// What came was no good frame.
    Dropped(Drop),
    /// A frame came and was sent back.
    Sent {
        /// Its length in bytes, without virtio-net header.
        len: usize,
    },
    /// A good frame came and could not be sent back.
    NotSent {
        /// Its length in bytes, without virtio-net header.
        len: usize,
        /// Why.
        reason: Drop,
    },
}

/// Sends back what comes; the module has the rules.
#[derive(Debug)]
pub struct Echo {
    back: Offloads,
    frame: Box<[u8]>,
    copied: usize,
}

impl Echo {
    /// An echo whose frames may carry the offloads `back`.
    pub fn new(back: Offloads) -> Self {
        Self { back, frame: vec![0; LARGEST].into(), copied: 0 }
    }

    /// Bytes of frames that it has copied to where paths had them put, since the last call.
    pub fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied)
    }

    /// The frame of so many bytes, without header, that the last step took.
    pub fn frame(&self, len: usize) -> &[u8] {
        &self.frame[..HEADER_LEN + len]
    }

    /// Takes the next frame from the path and sends it back. The frame's spans are in the table
    /// `frames`. `flush` and `release` are to be called after some steps.
    pub fn step(
        &mut self,
        path: &mut dyn Path,
        mem: &BusMemory,
        frames: &BusMemory,
    ) -> Result<Step, PathError> {
        if matches!(path.room(mem)?, Room::Nowhere) {
            return Ok(Step::NoRoom);
        }
        let total = match path.receive_whole(mem, frames, &mut self.frame)? {
            Taken::Empty => return Ok(Step::Empty),
            Taken::Dropped(reason) => return Ok(Step::Dropped(reason)),
            Taken::Frame(total) => total,
        };
        let len = total - HEADER_LEN;
        let frame = &mut self.frame[..total];
        // Mostly they are clear. What has just been written can be read at once only if it is read in the
        // same words: a part that is written over has the reader wait for all stores before it.
        if frame[0] & HDR_F_DATA_VALID != 0 {
            frame[0] &= !HDR_F_DATA_VALID;
        }
        if frame[NUM_BUFFERS..HEADER_LEN] != [0; 2] {
            frame[NUM_BUFFERS..HEADER_LEN].fill(0);
        }
        if let Err(reason) = frame::check_own(frame, self.back) {
            return Ok(Step::NotSent { len, reason });
        }
        let room = path.room(mem)?.fill(frames, frame);
        assert!(room, "taking a frame costs no room");
        self.copied = self.copied.wrapping_add(total);
        Ok(match path.sent(mem, total)? {
            None => Step::Sent { len },
            Some(reason) => Step::NotSent { len, reason },
        })
    }
}

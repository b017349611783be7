//! The driver's copy of the config space, read piece by piece (virtio 1.4 §2.5.3).
//!
//! All pieces of one reading carry the same generation, or the reading starts again.

use crate::tunnel::message::Body;

use super::DriverError;

/// Greatest part of a config space that is read, in bytes; a network device's has 28.
pub(super) const MAX_CONFIG: u32 = 1024;
/// How often a reading that met a change starts again.
const RESTARTS: u8 = 3;

/// A reading in progress.
#[derive(Debug)]
pub(super) struct Reading {
    length: u32,
    piece: u32,
    generation: u32,
    data: Vec<u8>,
    restarts: u8,
}

/// How far a reading is.
#[derive(Debug)]
pub(super) enum Progress {
    /// [`Reading::request`] gives the next request.
    More,
    /// All of it, from one generation.
    Whole(Vec<u8>),
}

impl Reading {
    /// Reads `length` bytes in pieces of up to `piece` bytes.
    pub(super) fn new(length: u32, piece: u32) -> Self {
        Self { length, piece, generation: 0, data: Vec::new(), restarts: 0 }
    }

    fn next(&self) -> (u32, u32) {
        let offset = u32::try_from(self.data.len()).unwrap_or(self.length);
        (offset, self.length.saturating_sub(offset).min(self.piece))
    }

    pub(super) fn request(&self) -> Body {
        let (offset, length) = self.next();
        Body::GetConfig { offset, length }
    }

    /// Takes the answer to [`Reading::request`].
    pub(super) fn take(
        &mut self,
        generation: u32,
        offset: u32,
        data: &[u8],
    ) -> Result<Progress, DriverError> {
        let (expected, length) = self.next();
        if offset != expected || u32::try_from(data.len()) != Ok(length) {
            let why = "another offset or length than asked for";
            return Err(DriverError::BadAnswer { to: "GET_CONFIG", why });
        }
        if offset == 0 {
            self.generation = generation;
        } else if generation != self.generation {
            if self.restarts == RESTARTS {
                return Err(DriverError::ConfigUnstable);
            }
            self.restarts += 1;
            self.data.clear();
            return Ok(Progress::More);
        }
        self.data.extend_from_slice(data);
        if self.next().1 == 0 {
            return Ok(Progress::Whole(std::mem::take(&mut self.data)));
        }
        Ok(Progress::More)
    }
}

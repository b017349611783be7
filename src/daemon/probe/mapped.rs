//! Windows that this process maps itself, to read only: where no daemon holds the target.

use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Range;
#[cfg(any(feature = "pci", feature = "uio"))]
use std::os::fd::OwnedFd;
use std::path::Path;

use super::window::{Memories, Presence, Window};
use crate::memory::{Look, ReadOnly};
#[cfg(any(feature = "pci", feature = "uio"))]
use crate::os::fabric::Looked;
use crate::os::fabric::regions;
use crate::os::fabric::shm::{Peek, peek};
use crate::tunnel::inspect::Header;

/// Memory that holds a window, and perhaps driver memory. Bus addresses are offsets.
pub(super) struct Mapped {
    bytes: Bytes,
    memories: Memories,
    /// Who is on the transport, where it tells.
    present: Option<BTreeSet<u32>>,
}

/// What is mapped.
enum Bytes {
    /// A slot's memory, and what has to stay for as long as it is looked at.
    Slot { memory: ReadOnly, _joined: Box<dyn Any> },
    /// A device's: parts whose bus addresses follow each other from 0 on, and what holds it meanwhile.
    #[cfg(any(feature = "pci", feature = "uio"))]
    Device { parts: Vec<Looked>, _held: Option<OwnedFd> },
}

impl Mapped {
    /// The memory of a backplane's slot, which is joined for as long as this lives.
    pub(super) fn slot(path: &Path) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("starting: {e}"))?;
        let Peek { memory, len, others, stream } =
            runtime.block_on(peek(path)).map_err(|e| e.to_string())?;
        let (window, driver) = regions(len);
        Ok(Self {
            bytes: Bytes::Slot { memory, _joined: Box::new((stream, runtime)) },
            memories: Memories { window, driver },
            present: Some(others.into_iter().map(u32::from).collect()),
        })
    }

    /// A device's memory, whose bus addresses follow each other from 0 on, and what lies where; `held`
    /// stays open meanwhile.
    #[cfg(any(feature = "pci", feature = "uio"))]
    pub(super) fn device(
        parts: Vec<Looked>,
        (window, driver): (Range<u64>, Range<u64>),
        held: Option<OwnedFd>,
    ) -> Self {
        let memories = Memories { window, driver };
        Self { bytes: Bytes::Device { parts, _held: held }, memories, present: None }
    }

    /// Looks at it.
    pub(super) fn look(&self) -> Result<Window, String> {
        let Range { start, end } = self.memories.window;
        let reach = |addr, len: u32| self.part(addr, len.into());
        let header = self.part(start, end - start).and_then(|w| Header::read(w, &reach));
        let header = header.ok_or("the memory is too small for a window")?;
        #[cfg(any(feature = "pci", feature = "uio"))]
        if matches!(&self.bytes, Bytes::Device { parts, .. } if parts.iter().any(Looked::is_lost)) {
            return Err("it has gone while it was looked at".to_owned());
        }
        let presence = |_, id| match &self.present {
            None => Presence::Unknown,
            Some(ids) if ids.contains(&id) => Presence::Attached,
            Some(_) => Presence::Gone,
        };
        Ok(Window::new(&header, &self.memories, &presence))
    }

    fn part(&self, addr: u64, len: u64) -> Option<Look<'_>> {
        let (at, len) = (usize::try_from(addr).ok()?, usize::try_from(len).ok()?);
        match &self.bytes {
            Bytes::Slot { memory, .. } => memory.look(at, len),
            #[cfg(any(feature = "pci", feature = "uio"))]
            Bytes::Device { parts, .. } => {
                let mut at = at;
                for part in parts {
                    match at.checked_sub(part.memory.len()) {
                        None => return part.memory.look(at, len),
                        Some(beyond) => at = beyond,
                    }
                }
                None
            }
        }
    }
}

//! The memory that the two ends share, as each of them sees it.

#[cfg(feature = "sim")]
mod model;
#[cfg(feature = "os")]
mod slot;

use std::ops::Range;
use std::sync::Arc;

use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};

/// A slot of the least length, its first quarter the window.
pub(crate) const SLOT: u64 = 1 << 20;
pub(crate) const WINDOW: u64 = SLOT / 4;

/// Where a case happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Model memory, which sees each access; without the feature `sim`, plain memory.
    Model,
    /// A slot of a backplane, whose mappings stand between guard pages.
    #[cfg(feature = "os")]
    Slot,
}

impl Ground {
    pub(crate) const ALL: &[Self] = &[
        Self::Model,
        #[cfg(feature = "os")]
        Self::Slot,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Model if cfg!(feature = "sim") => "model memory",
            Self::Model => "plain memory",
            #[cfg(feature = "os")]
            Self::Slot => "a slot",
        }
    }
}

/// One slot, from both ends.
pub(crate) struct Memory {
    pub(crate) victim: Arc<BusMemory>,
    pub(crate) attacker: Arc<BusMemory>,
    #[cfg(feature = "sim")]
    model: Option<Arc<model::Model>>,
    /// Given back when the case is over.
    #[cfg(feature = "os")]
    _slot: Option<slot::Lease>,
}

fn table(mapping: &Arc<Mapping>) -> Arc<BusMemory> {
    let offset = usize::try_from(WINDOW).unwrap();
    let regions = vec![
        Region::mapped(0, WINDOW, Side::Near, mapping.clone(), 0),
        Region::mapped(WINDOW, SLOT - WINDOW, Side::Far, mapping.clone(), offset),
    ];
    Arc::new(BusMemory::new(regions).unwrap())
}

impl Memory {
    pub(crate) fn new(ground: Ground) -> Self {
        match ground {
            Ground::Model => Self::modelled(),
            #[cfg(feature = "os")]
            Ground::Slot => {
                let lease = slot::Lease::take();
                let [victim, attacker] = lease.ends().each_ref().map(table);
                Self {
                    victim,
                    attacker,
                    #[cfg(feature = "sim")]
                    model: None,
                    _slot: Some(lease),
                }
            }
        }
    }

    #[cfg(feature = "sim")]
    fn modelled() -> Self {
        let bytes = Arc::new(Mapping::anonymous(usize::try_from(SLOT).unwrap(), Kind::Cached));
        let model = Arc::new(model::Model::new(bytes.clone()));
        Self {
            victim: table(&Arc::new(Mapping::model(model.clone(), Kind::Cached))),
            attacker: table(&bytes),
            model: Some(model),
            #[cfg(feature = "os")]
            _slot: None,
        }
    }

    #[cfg(not(feature = "sim"))]
    fn modelled() -> Self {
        let bytes = Arc::new(Mapping::anonymous(usize::try_from(SLOT).unwrap(), Kind::Cached));
        Self {
            victim: table(&bytes),
            attacker: table(&bytes),
            #[cfg(feature = "os")]
            _slot: None,
        }
    }

    /// From now on the victim has no business outside of these.
    pub(crate) fn confine(&self, _spans: &[Range<u64>]) {
        #[cfg(feature = "sim")]
        if let Some(model) = &self.model {
            model.confine(_spans);
        }
    }

    /// Once the victim has read an octet from `at` on, it reads as that of `then`. `false`: this ground
    /// cannot tell when it was read.
    #[must_use]
    pub(crate) fn change_once_read(&self, _at: u64, _then: &[u8]) -> bool {
        #[cfg(feature = "sim")]
        if let Some(model) = &self.model {
            model.change_once_read(_at, _then);
            return true;
        }
        false
    }

    /// Where the victim was that it had no business to be; how often it has read in all.
    pub(crate) fn trespasses(&self) -> (Vec<u64>, u64) {
        #[cfg(feature = "sim")]
        if let Some(model) = &self.model {
            return model.trespasses();
        }
        (Vec::new(), 0)
    }
}

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
    /// The same, as memory that takes words only.
    Words,
    /// A slot of a backplane, whose mappings stand between guard pages.
    #[cfg(feature = "os")]
    Slot,
}

impl Ground {
    pub(crate) const ALL: &[Self] = &[
        Self::Model,
        Self::Words,
        #[cfg(feature = "os")]
        Self::Slot,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Model if cfg!(feature = "sim") => "model memory",
            Self::Model => "plain memory",
            Self::Words => "uncached memory",
            #[cfg(feature = "os")]
            Self::Slot => "a slot",
        }
    }
}

/// One slot, from both ends.
pub(crate) struct Memory {
    pub(crate) victim: Arc<BusMemory>,
    pub(crate) attacker: Arc<BusMemory>,
    /// The victim's, driver memory included, where the victim's CPU does not reach that.
    pub(crate) engine: Arc<BusMemory>,
    #[cfg(feature = "sim")]
    model: Option<Arc<model::Model>>,
    /// Given back when the case is over.
    #[cfg(feature = "os")]
    _slot: Option<slot::Lease>,
}

/// What the verdicts rely on.
#[cfg(feature = "sim")]
pub(crate) fn model_memory_sees_each_access() {
    let memory = Memory::new(Ground::Model, false);
    let word = |mem: &BusMemory, at| {
        let span = mem.resolve(at, 8).unwrap();
        mem.view(span).unwrap().load_le64(0)
    };
    memory.confine(&[0..64, WINDOW..SLOT]);
    for at in [56, 64, WINDOW, WINDOW - 8] {
        assert_eq!(word(&memory.victim, at), 0);
    }
    memory.change_once_read(WINDOW, &[1, 2]);
    assert_eq!(word(&memory.victim, WINDOW), 0, "as it was");
    assert_eq!(word(&memory.victim, WINDOW), 0x0201, "as it has become");
    assert_eq!(word(&memory.attacker, 128), 0, "the attacker may be anywhere");
    assert_eq!(memory.trespasses().0, [64, WINDOW - 8]);
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
    /// A slot; `window_only`: of the victim an engine alone reaches driver memory.
    pub(crate) fn new(ground: Ground, window_only: bool) -> Self {
        let mut memory = match ground {
            Ground::Model => Self::modelled(Kind::Cached),
            Ground::Words => Self::modelled(Kind::Uncached),
            #[cfg(feature = "os")]
            Ground::Slot => {
                let lease = slot::Lease::take();
                let [victim, attacker] = lease.ends();
                let memory = Self::of(victim, attacker);
                Self { _slot: Some(lease), ..memory }
            }
        };
        if window_only {
            let mut regions = memory.victim.regions().to_vec();
            regions[1].backing = None;
            memory.victim = Arc::new(BusMemory::new(regions).unwrap());
        }
        memory
    }

    fn of(victim: &Arc<Mapping>, attacker: &Arc<Mapping>) -> Self {
        let victim = table(victim);
        Self {
            engine: victim.clone(),
            victim,
            attacker: table(attacker),
            #[cfg(feature = "sim")]
            model: None,
            #[cfg(feature = "os")]
            _slot: None,
        }
    }

    #[cfg(feature = "sim")]
    fn modelled(kind: Kind) -> Self {
        let bytes = Arc::new(Mapping::anonymous(usize::try_from(SLOT).unwrap(), kind));
        let model = Arc::new(model::Model::new(bytes.clone()));
        let victim = Arc::new(Mapping::model(model.clone(), kind));
        Self { model: Some(model), ..Self::of(&victim, &bytes) }
    }

    #[cfg(not(feature = "sim"))]
    fn modelled(kind: Kind) -> Self {
        let bytes = Arc::new(Mapping::anonymous(usize::try_from(SLOT).unwrap(), kind));
        Self::of(&bytes, &bytes)
    }

    /// From now on the victim has no business outside of these.
    pub(crate) fn confine(&self, _spans: &[Range<u64>]) {
        #[cfg(feature = "sim")]
        if let Some(model) = &self.model {
            model.confine(_spans);
        }
    }

    /// Once the victim has read an octet from `at` on, it reads as that of `then`. Other memory cannot tell
    /// when that is.
    pub(crate) fn change_once_read(&self, _at: u64, _then: &[u8]) {
        #[cfg(feature = "sim")]
        if let Some(model) = &self.model {
            model.change_once_read(_at, _then);
        }
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

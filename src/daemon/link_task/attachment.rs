//! A link's end of its transport, whichever that is.

use std::collections::{BTreeMap, BTreeSet};

use crate::os::bell::Bell;
use crate::os::fabric::Attached;
#[cfg(feature = "pci")]
use crate::os::fabric::pci::PciLink;
use crate::os::fabric::shm::{Peer, PeerEvent, ShmLink};
#[cfg(feature = "uio")]
use crate::os::fabric::uio::UioLink;

/// An end that is attached. It lasts until it is dropped, with all that came of it.
#[derive(Debug)]
pub(super) enum Attachment {
    /// A backplane's slot.
    Shm(Box<InSlot>),
    /// A board's PCI function.
    #[cfg(feature = "pci")]
    Pci(Box<PciLink>),
    /// A UIO device.
    #[cfg(feature = "uio")]
    Uio(Box<UioLink>),
}

/// What happened on a transport.
#[derive(Debug)]
pub(super) enum Change {
    /// Somebody came.
    Joined,
    /// The end with this id left.
    Left(u32),
    /// There will be no more news. What is attached stays so.
    Lost(String),
    /// What is attached is gone, or has to be let go of.
    #[cfg_attr(
        not(any(feature = "pci", feature = "uio")),
        allow(dead_code, reason = "only hardware goes")
    )]
    Gone(String),
}

/// In a slot, with its backplane as long as that is there.
#[derive(Debug)]
pub(super) struct InSlot {
    attached: Attached,
    link: Option<ShmLink>,
    peers: BTreeMap<u16, Peer>,
}

impl Attachment {
    /// In the slot of this connection.
    pub(super) fn in_slot(link: ShmLink) -> Result<Self, String> {
        let slot = link.slot().clone();
        let attached =
            Attached::in_one_piece(&slot.memory, slot.len, slot.id.into(), slot.doorbells)
                .ok_or("the slot is too large for this machine")?;
        let peers = link.peers().clone();
        Ok(Self::Shm(Box::new(InSlot { attached, link: Some(link), peers })))
    }

    /// What this end has.
    pub(super) fn attached(&self) -> &Attached {
        match self {
            Self::Shm(slot) => &slot.attached,
            #[cfg(feature = "pci")]
            Self::Pci(function) => function.attached(),
            #[cfg(feature = "uio")]
            Self::Uio(device) => device.attached(),
        }
    }

    /// The ids of the others that are there; `None` if this transport does not tell.
    pub(super) fn present(&self) -> Option<BTreeSet<u32>> {
        match self {
            Self::Shm(slot) => Some(slot.peers.keys().map(|id| u32::from(*id)).collect()),
            #[cfg(feature = "pci")]
            Self::Pci(_) => None,
            #[cfg(feature = "uio")]
            Self::Uio(_) => None,
        }
    }

    /// This vector's doorbell of the end with this id; one that listens on fewer has one for all.
    pub(super) fn bell(&self, id: u32, vector: u16) -> Option<Bell> {
        match self {
            Self::Shm(slot) => {
                let peer = slot.peers.get(&u16::try_from(id).ok()?)?;
                let vector = peer.vectors.get(usize::from(vector)).or(peer.vectors.first());
                vector.cloned().map(Bell::from)
            }
            #[cfg(feature = "pci")]
            Self::Pci(function) => function.bell(id, vector),
            #[cfg(feature = "uio")]
            Self::Uio(device) => device.bell(id, vector),
        }
    }

    /// Why this end polls, if its transport has no doorbell for it.
    pub(super) fn polls(&self) -> Option<&'static str> {
        match self {
            Self::Shm(_) => None,
            #[cfg(feature = "pci")]
            Self::Pci(function) => {
                let deaf = function.attached().doorbells.is_empty();
                deaf.then_some("it has no interrupts of the function")
            }
            #[cfg(feature = "uio")]
            Self::Uio(device) => device.polls(),
        }
    }

    /// Whether there will be no more news, and another connection may be looked for.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Shm(slot) => slot.link.is_none(),
            #[cfg(feature = "pci")]
            Self::Pci(_) => false,
            #[cfg(feature = "uio")]
            Self::Uio(_) => false,
        }
    }

    /// Waits for the next change. Nothing is lost if it is dropped early.
    pub(super) async fn next(&mut self) -> Change {
        match self {
            Self::Shm(slot) => slot.next().await,
            #[cfg(feature = "pci")]
            Self::Pci(function) => Change::Gone(function.next().await),
            #[cfg(feature = "uio")]
            Self::Uio(device) => Change::Gone(device.next().await),
        }
    }
}

impl InSlot {
    async fn next(&mut self) -> Change {
        let Some(link) = &mut self.link else { return std::future::pending().await };
        match link.next().await {
            Ok(event) => {
                self.peers = link.peers().clone();
                match event {
                    PeerEvent::Joined(_) => Change::Joined,
                    PeerEvent::Left(id) => Change::Left(id.into()),
                }
            }
            Err(e) => {
                self.link = None;
                Change::Lost(e.to_string())
            }
        }
    }
}

//! What the two netdevs are set to: told to the other end, followed, shown.

use std::time::Instant;

use super::Running;
use crate::daemon::Role;
use crate::daemon::netdev::Look;
use crate::link::{PeerLink, Start};
use crate::net::frame::Offloads;
use crate::os::tap::TapError;
use crate::spec::net::F_MTU;
use crate::tunnel::part::Role as End;

impl Running<'_> {
    /// Carries out the last order; says whether it is to stop.
    pub(super) async fn obey(&mut self) -> bool {
        let order = self.task.order();
        if !order.stop {
            if let Some(netdev) = &mut self.netdev {
                let look = netdev.change(&order.config).await;
                self.netdev_looks(&look);
            }
            self.task.done.send_replace(order.number);
        }
        order.stop
    }

    /// Somebody has changed the netdev: sets again what is ours, and tells who has to know.
    pub(super) async fn heal_netdev(&mut self) -> Look {
        let Some(netdev) = &mut self.netdev else { return Look::Good };
        let mac = netdev.state().mac;
        let look = netdev.heal().await;
        if look == Look::Gone {
            return look;
        }
        let moved = netdev.state().mac != mac;
        self.netdev_looks(&look);
        if moved && self.is_at_work() {
            // One that is going on is the old address's.
            self.announced = None;
            self.announce().await;
        }
        look
    }

    /// Says what frames for the other end may carry.
    pub(super) fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        self.netdev.as_ref().map_or(Ok(()), |netdev| netdev.set_offloads(offloads))
    }

    /// The master says which MAC address the board's netdev has, unless the config does.
    pub(super) async fn take_mac(&mut self, mac: [u8; 6]) {
        let Some(netdev) = &mut self.netdev else { return };
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        if self.task.role != Role::Agent || !unicast {
            return;
        }
        if let Err(e) = netdev.set_mac(mac).await {
            self.task.log.warn(&e);
        }
        self.task.view.borrow_mut().mac = Some(netdev.state().mac);
    }

    /// The netdev was looked at: tells the other end and people what there is to know of it.
    fn netdev_looks(&mut self, look: &Look) {
        let state = self.netdev.as_ref().map(|netdev| netdev.state());
        if let Some(state) = state {
            self.link.handle_netdev(Instant::now(), state);
        }
        let note = self.note(look);
        let mut view = self.task.view.borrow_mut();
        if view.note != note && !note.is_empty() {
            self.task.log.warn(&note);
        }
        view.note = note;
        view.mac = state.map(|state| state.mac);
        view.mtu = self.netdev.as_ref().and_then(|netdev| netdev.mtu());
    }

    /// The other end's netdev has been set to something else. Its admin state is the carrier here,
    /// which the link tells apart.
    pub(super) async fn take_peer_link(&mut self, peer: PeerLink) {
        let PeerLink { up, mtu, mac } = peer;
        let other = self.other();
        let mtu_text = mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
        let mac = mac.map_or("unknown".to_owned(), |mac| mac.map(|b| format!("{b:02x}")).join(":"));
        let up = if up { "up" } else { "down" };
        self.task
            .log
            .info(format_args!("the {other}'s netdev is set {up}, MTU {mtu_text}, MAC {mac}"));
        let look = match &mut self.netdev {
            Some(netdev) => netdev.follow(mtu).await,
            None => Look::Good,
        };
        self.netdev_looks(&look);
    }

    /// A data path is there, so all is known that there is to know of the link's MTU.
    pub(super) async fn agree_on_mtu(&mut self, start: &Start) {
        let offers = self.task.role == Role::Master && start.features.has(F_MTU);
        let offered = offers.then(|| start.config.mtu.get());
        let peer = self.link.peer_link().and_then(|peer| peer.mtu);
        let look = match &mut self.netdev {
            Some(netdev) => netdev.agree(offered, peer).await,
            None => Look::Good,
        };
        self.netdev_looks(&look);
    }

    fn note(&self, look: &Look) -> String {
        let (other, netdev) = (self.other(), self.netdev.as_ref());
        match look {
            Look::Failed(e) => e.clone(),
            _ if netdev.is_some_and(|netdev| !netdev.is_up()) => {
                "the netdev is set down".to_owned()
            }
            _ if self.link.peer_link().is_some_and(|peer| !peer.up) => {
                format!("the {other}'s netdev is set down")
            }
            _ => netdev.and_then(|netdev| netdev.mtu_note(other)).unwrap_or_default(),
        }
    }

    fn other(&self) -> &'static str {
        match self.task.role {
            Role::Master => End::Device.name(),
            Role::Agent => End::Driver.name(),
        }
    }
}

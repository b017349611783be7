//! What the two netdevs are set to: followed, announced, shown. The link tells the other end.
//!
//! `peer` is what the other end's netdev is set to, if that is known. After each method that takes it,
//! the link is to be told [`Workers::netdev_state`].

use std::time::Instant;

use super::Workers;
use crate::daemon::Role;
use crate::daemon::netdev::Look;
use crate::link::{PeerLink, Start};
use crate::net::frame::Offloads;
use crate::os::announce;
use crate::os::tap::TapError;
use crate::spec::net::F_MTU;
use crate::tunnel::message::NetdevState;
use crate::tunnel::part::Role as End;

/// What has become of a netdev that somebody changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::link_task) enum Healed {
    /// It is as it should be, or it was said what is not.
    Here,
    /// The same, and it has another MAC address.
    Moved,
    /// It has been deleted.
    Gone,
}

impl Workers<'_> {
    /// What it is set to itself.
    pub(in crate::daemon::link_task) fn netdev_state(&self) -> Option<NetdevState> {
        self.netdev.as_ref().map(|netdev| netdev.state())
    }

    /// Carries out the last order; says whether it is to stop.
    pub(in crate::daemon::link_task) async fn obey(&mut self, peer: Option<PeerLink>) -> bool {
        let order = self.task.order();
        if !order.stop {
            if let Some(netdev) = &mut self.netdev {
                let look = netdev.change(&order.config).await;
                self.netdev_looks(&look, peer);
            }
            self.task.done.send_replace(order.number);
        }
        order.stop
    }

    /// Somebody has changed the netdev: sets again what is ours.
    pub(in crate::daemon::link_task) async fn heal_netdev(
        &mut self,
        peer: Option<PeerLink>,
    ) -> Healed {
        let Some(netdev) = &mut self.netdev else { return Healed::Here };
        let mac = netdev.state().mac;
        let look = netdev.heal().await;
        let [healed, failed] = netdev.take_applied();
        {
            let counts = &mut self.task.view.borrow_mut().counts;
            counts.heals += healed;
            counts.heal_failures += failed;
        }
        if let Look::Gone(why) = &look {
            self.task.log.warn(why);
            return Healed::Gone;
        }
        let moved = netdev.state().mac != mac;
        self.netdev_looks(&look, peer);
        if moved { Healed::Moved } else { Healed::Here }
    }

    /// Announces the netdev's address, unless that is going on: nor does one that fails at once make
    /// room for the next, as each costs a log line, and the other end can ask for as many as it likes.
    pub(in crate::daemon::link_task) async fn announce(&mut self) {
        let now = Instant::now();
        let going_on = self.announced.as_ref().is_some_and(|(at, _)| now < *at + announce::TIME);
        let Some(netdev) = self.netdev.as_ref().filter(|netdev| !going_on && netdev.is_up()) else {
            return;
        };
        let announcement = netdev.announce().await;
        if let Err(e) = &announcement {
            self.task.log.warn(format_args!("announcing the address: {e}"));
        }
        self.announced = Some((now, announcement.ok()));
    }

    /// Announces an address that has changed, if there is a worker.
    pub(in crate::daemon::link_task) async fn announce_anew(&mut self) {
        if self.is_at_work() {
            // One that is going on is the old address's.
            self.announced = None;
            self.announce().await;
        }
    }

    /// Says whether the netdev is to have a carrier, which takes a worker.
    pub(in crate::daemon::link_task) fn carrier(&self, up: bool) {
        let up = up && self.is_at_work();
        if let Some(Err(e)) = self.netdev.as_ref().map(|netdev| netdev.tap().set_carrier(up)) {
            self.task.log.warn(format_args!("carrier: {e}"));
        }
        self.task.view.borrow_mut().carrier = up;
    }

    /// The other end takes other offloads from now on.
    pub(in crate::daemon::link_task) fn change_offloads(&mut self, offloads: Offloads) {
        self.stale.extend(self.workers.keys().chain(self.leaving.keys()));
        if let Err(e) = self.set_offloads(offloads) {
            self.task.log.warn(format_args!("offloads: {e}"));
        }
    }

    /// Says what frames for the other end may carry.
    pub(super) fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        self.netdev.as_ref().map_or(Ok(()), |netdev| netdev.set_offloads(offloads))
    }

    /// The other end says which MAC address the netdev has, unless the config does.
    pub(in crate::daemon::link_task) async fn take_mac(&mut self, mac: [u8; 6]) {
        let Some(netdev) = &mut self.netdev else { return };
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        if !unicast {
            return;
        }
        if let Err(e) = netdev.set_mac(mac).await {
            self.task.log.warn(&e);
        }
        self.task.view.borrow_mut().mac = Some(netdev.state().mac);
    }

    /// The netdev was looked at: tells people what there is to know of it.
    fn netdev_looks(&self, look: &Look, peer: Option<PeerLink>) {
        let note = self.note(look, peer);
        let mut view = self.task.view.borrow_mut();
        if view.note != note && !note.is_empty() {
            self.task.log.warn(&note);
        }
        view.note = note;
        view.mac = self.netdev_state().map(|state| state.mac);
        view.mtu = self.netdev.as_ref().and_then(|netdev| netdev.mtu());
    }

    /// The other end's netdev has been set to something else. Its admin state is the carrier here,
    /// which the link tells apart.
    pub(in crate::daemon::link_task) async fn take_peer_link(
        &mut self,
        said: PeerLink,
        peer: Option<PeerLink>,
    ) {
        let PeerLink { up, mtu, mac } = said;
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
        self.netdev_looks(&look, peer);
    }

    /// A data path is there, so all is known that there is to know of the link's MTU.
    pub(super) async fn agree_on_mtu(&mut self, start: &Start, peer: Option<PeerLink>) {
        let offers = self.task.role == Role::Master && start.features.has(F_MTU);
        let offered = offers.then(|| start.config.mtu.get());
        let wanted = peer.and_then(|peer| peer.mtu);
        let look = match &mut self.netdev {
            Some(netdev) => netdev.agree(offered, wanted).await,
            None => Look::Good,
        };
        self.netdev_looks(&look, peer);
    }

    fn note(&self, look: &Look, peer: Option<PeerLink>) -> String {
        let (other, netdev) = (self.other(), self.netdev.as_ref());
        match look {
            Look::Failed(e) => e.clone(),
            _ if netdev.is_some_and(|netdev| !netdev.is_up()) => {
                "the netdev is set down".to_owned()
            }
            _ if peer.is_some_and(|peer| !peer.up) => format!("the {other}'s netdev is set down"),
            _ => netdev.and_then(|netdev| netdev.note(other)).unwrap_or_default(),
        }
    }

    fn other(&self) -> &'static str {
        match self.task.role {
            Role::Master => End::Device.name(),
            Role::Agent => End::Driver.name(),
        }
    }
}

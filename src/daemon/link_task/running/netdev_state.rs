//! What the two netdevs are set to: told to the other end, followed, shown.

use std::time::Instant;

use super::Running;
use crate::daemon::Role;
use crate::daemon::netdev::Look;
use crate::link::{PeerLink, Start};
use crate::spec::net::F_MTU;
use crate::tunnel::part::Role as End;

impl Running<'_> {
    /// The netdev was looked at: tells the other end and people what there is to know of it.
    pub(super) fn netdev_looks(&mut self, look: &Look) {
        let state = self.netdev.state();
        self.link.handle_netdev(Instant::now(), state);
        let note = self.note(look);
        let mut view = self.task.view.borrow_mut();
        if view.note != note && !note.is_empty() {
            tracing::warn!("{}: {note}", self.task.config.name);
        }
        view.note = note;
        view.mac = Some(state.mac);
        view.mtu = self.netdev.mtu();
    }

    /// The other end's netdev has been set to something else. Its admin state is the carrier here,
    /// which the link tells apart.
    pub(super) async fn take_peer_link(&mut self, peer: PeerLink) {
        let PeerLink { up, mtu, mac } = peer;
        let (name, other) = (&self.task.config.name, self.other());
        let mtu_text = mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
        let mac = mac.map_or("unknown".to_owned(), |mac| mac.map(|b| format!("{b:02x}")).join(":"));
        let up = if up { "up" } else { "down" };
        tracing::info!("{name}: the {other}'s netdev is set {up}, MTU {mtu_text}, MAC {mac}");
        let look = self.netdev.follow(mtu).await;
        self.netdev_looks(&look);
    }

    /// A data path is there, so all is known that there is to know of the link's MTU.
    pub(super) async fn agree_on_mtu(&mut self, start: &Start) {
        let offers = self.task.role == Role::Master && start.features.has(F_MTU);
        let offered = offers.then(|| start.config.mtu.get());
        let peer = self.link.peer_link().and_then(|peer| peer.mtu);
        let look = self.netdev.agree(offered, peer).await;
        self.netdev_looks(&look);
    }

    fn note(&self, look: &Look) -> String {
        let other = self.other();
        match look {
            Look::Failed(e) => e.clone(),
            _ if !self.netdev.is_up() => "the netdev is set down".to_owned(),
            _ if self.link.peer_link().is_some_and(|peer| !peer.up) => {
                format!("the {other}'s netdev is set down")
            }
            _ => self.netdev.mtu_note(other).unwrap_or_default(),
        }
    }

    fn other(&self) -> &'static str {
        match self.task.role {
            Role::Master => End::Device.name(),
            Role::Agent => End::Driver.name(),
        }
    }
}

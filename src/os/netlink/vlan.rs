//! VLANs of a netdev (IEEE 802.1Q), each a netdev of its own.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::LinkVlan;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

use super::{At, Netlink, NetlinkError};

/// A netdev, as far as it matters to who would have its name for a VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaybeVlan {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias.
    pub alias: Option<String>,
    /// What made it ("vlan", "veth", ..); empty for hardware.
    pub kind: String,
    /// The netdev that it is a VLAN of, or has otherwise to do with.
    pub parent: Option<u32>,
    /// The VLAN's id.
    pub id: Option<u16>,
}

impl Netlink {
    /// What a netdev is, `None` if there is none.
    pub async fn maybe_vlan(&self, at: At<'_>) -> Result<Option<MaybeVlan>, NetlinkError> {
        Ok(self.link(at).await?.map(|link| read(&link)))
    }

    /// Makes a VLAN of the netdev with the index `parent`, which is down yet.
    pub async fn make_vlan(&self, parent: u32, id: u16, name: &str) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewLink(LinkVlan::new(name, parent, id).build());
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let made = self.socket.request(message, flags).await;
        made.map(drop).map_err(NetlinkError::on(|| format!("VLAN {name}")))
    }
}

fn read(link: &LinkMessage) -> MaybeVlan {
    let mut found = MaybeVlan { index: link.header.index, ..MaybeVlan::default() };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => found.alias = Some(alias.clone()),
            LinkAttribute::Link(parent) => found.parent = Some(*parent),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| match info {
                LinkInfo::Kind(kind) => found.kind = kind.to_string(),
                LinkInfo::Data(InfoData::Vlan(attributes)) => {
                    found.id = attributes.iter().find_map(|a| match a {
                        InfoVlan::Id(id) => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }),
            _ => {}
        }
    }
    if found.kind != InfoKind::Vlan.to_string() {
        found.id = None;
    }
    found
}

//! Netdevs by their indices, whatever they are called.

use rtnetlink::LinkUnspec;

use super::observe::name;
use super::{Netlink, NetlinkError};

impl Netlink {
    /// The name of the netdev with this index, if there is one.
    pub async fn name_of(&self, index: u32) -> Result<Option<String>, NetlinkError> {
        match self.get_link(LinkUnspec::new_with_index(index).build()).await {
            Ok(link) => Ok(name(link)),
            Err(e) if e.is(&[libc::ENODEV]) => Ok(None),
            Err(e) => Err(NetlinkError::failed(format!("link number {index}"), e)),
        }
    }

    /// Gives the netdev with this index another name. Before Linux 6.2 it has to be down for that.
    pub async fn rename(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).name(name.to_owned()).build();
        self.set_link(link).await.map_err(NetlinkError::on(|| format!("name {name}")))
    }
}

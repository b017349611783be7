//! The netdev of a link that waits for something else: what the config says of it is healed all the while.

use std::pin::pin;

use super::LinkTask;
use super::workers::{Healed, Input, Workers};
use crate::daemon::netdev::Netdev;

/// What a wait came to.
pub(super) enum Minded<T> {
    Done(T),
    /// There is an order.
    Order,
    NetdevLost,
}

impl LinkTask {
    /// Waits for `what` or an order, and sees to the netdev meanwhile.
    pub(super) async fn minding<T>(
        &self,
        netdev: Option<&mut Netdev>,
        what: impl Future<Output = T>,
    ) -> Minded<T> {
        let mut workers = Workers::new(self, netdev);
        let mut what = pin!(what);
        loop {
            let input = tokio::select! {
                done = &mut what => return Minded::Done(done),
                input = workers.input() => input,
            };
            // Nobody works, so there is nothing else.
            match input {
                Input::Order => return Minded::Order,
                Input::Netdev if workers.heal_netdev(None).await == Healed::Gone => {
                    return Minded::NetdevLost;
                }
                _ => {}
            }
        }
    }
}

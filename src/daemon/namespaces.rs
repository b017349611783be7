//! Which links have lost their network namespace: somebody has taken its name away, or given it to another,
//! or the process is gone that it was named by.
//!
//! The kernel tells of none of these, and a link's sockets keep its namespace alive, so that all in it goes
//! on unseen. So the broker looks, for all links at once. A look costs it some 5 µs for a link, and nothing
//! where no link has a namespace of its own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::broker::Broker;

/// Between looks.
const OFTEN: Duration = Duration::from_secs(1);

/// The names of the links that have lost theirs, as known from the last look.
pub type Strays = watch::Receiver<Vec<String>>;

/// What looks for them.
#[derive(Debug)]
pub struct Namespaces {
    broker: Broker,
    strays: Rc<watch::Sender<Vec<String>>>,
    followed: Cell<bool>,
}

impl Namespaces {
    /// Nobody looks yet.
    pub fn new(broker: Broker) -> Self {
        Self { broker, strays: Rc::default(), followed: Cell::new(false) }
    }

    /// Tells of each look that finds any.
    pub fn subscribe(&self) -> Strays {
        self.strays.subscribe()
    }

    /// Has somebody look from now on; within a `LocalSet`.
    pub fn follow(&self) {
        if self.followed.replace(true) {
            return;
        }
        let (broker, strays) = (self.broker.clone(), self.strays.clone());
        spawn_local(async move {
            loop {
                sleep(OFTEN).await;
                // A broker that does not answer is others' matter.
                let found = broker.strays().await.unwrap_or_default();
                strays.send_if_modified(|strays| {
                    let any = !found.is_empty();
                    *strays = found;
                    any
                });
            }
        });
    }
}

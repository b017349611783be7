//! Which PCI functions of known kinds are there: links wait for theirs, and patterns have a link for each.
//!
//! A confined daemon has no sight of sysfs, so its broker looks. When to look, the kernel's uevents say;
//! where they are not heard, functions are looked for every few seconds.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use super::broker::Broker;
use super::config::Address;
use crate::os::fabric::pci;
use crate::os::uevent::Uevents;

/// From the first notice to the look: a card has many functions, and files that come after its notice.
const SETTLE: Duration = Duration::from_millis(50);
/// Between looks without notices.
const OFTEN: Duration = Duration::from_secs(3);
/// Between looks with notices, should one have been lost in a way that nobody knows.
const SELDOM: Duration = Duration::from_secs(60);

/// The functions that are there, as known from the last look.
#[derive(Debug)]
pub struct Functions {
    known: Rc<Known>,
    /// Somebody looks whenever it is worth it.
    followed: Cell<bool>,
}

#[derive(Debug)]
struct Known {
    broker: Broker,
    /// Lowest first.
    there: watch::Sender<Vec<Address>>,
    /// Why the last look found nothing out; told once.
    failed: RefCell<String>,
}

impl Functions {
    /// None, until somebody [looks](Self::look).
    pub fn new(broker: Broker) -> Self {
        let known = Known { broker, there: watch::Sender::default(), failed: RefCell::default() };
        Self { known: Rc::new(known), followed: Cell::new(false) }
    }

    /// Those that were there at the last look.
    pub fn there(&self) -> Vec<Address> {
        self.known.there.borrow().clone()
    }

    /// Tells of each look after a notice, and of others that find something new.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Address>> {
        self.known.there.subscribe()
    }

    /// Looks; without an answer what is known stays.
    pub async fn look(&self) {
        self.known.look(false).await;
    }

    /// Has somebody look from now on whenever it is worth it; within a `LocalSet`.
    pub fn follow(&self) {
        if !self.followed.replace(true) {
            let known = self.known.clone();
            spawn_local(async move { known.follow().await });
        }
    }
}

impl Known {
    async fn follow(&self) {
        let socket = self.broker.uevents().await.map_err(|e| io::Error::other(e.text));
        let mut uevents = socket.and_then(Uevents::over);
        let pause = if uevents.is_ok() { SELDOM } else { OFTEN };
        if let Err(e) = &uevents {
            tracing::info!("PCI functions are looked for every {} s: {e}", pause.as_secs());
        }
        // What has come or gone since somebody looked, and before there were notices.
        self.look(false).await;
        let heard = async || match &mut uevents {
            Ok(uevents) => uevents.changed().await,
            Err(_) => std::future::pending().await,
        };
        follow(pause, heard, async |noticed| self.look(noticed).await).await;
    }

    /// Looks, and tells of it if there is something new, or a function's driver may be another.
    async fn look(&self, noticed: bool) {
        let why = match self.broker.functions().await {
            Ok(new) => {
                self.there.send_if_modified(|there| {
                    let modified = noticed || *there != new;
                    *there = new;
                    modified
                });
                String::new()
            }
            Err(e) => e.text,
        };
        let told = self.failed.replace(why.clone());
        if !why.is_empty() && why != told {
            tracing::warn!("looking for PCI functions: {why}");
        }
    }
}

/// Looks a while after the first notice, and after a pause without any; says whether there was one.
async fn follow(
    pause: Duration,
    mut heard: impl AsyncFnMut(),
    mut look: impl AsyncFnMut(bool),
) -> ! {
    loop {
        let mut due = Instant::now() + pause;
        let mut noticed = false;
        loop {
            tokio::select! {
                () = heard() => {
                    noticed = true;
                    due = due.min(Instant::now() + SETTLE);
                }
                () = sleep_until(due) => break,
            }
        }
        look(noticed).await;
    }
}

/// Those that are there now, for who may look himself; none where they cannot be seen.
pub fn of_machine() -> Vec<Address> {
    let known = pci::known(&pci::Tree::default()).unwrap_or_default();
    known.iter().map(|function| function.address).collect()
}

#[cfg(test)]
pub(super) mod tests;

//! The confined end: asks, and waits for a bounded time.
//!
//! Several links may ask at once. Replies are told apart by number; one that comes too late finds
//! nobody and is dropped, its descriptors closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::protocol::{Refused, Reply, Request, What};
use super::server::Granted;
use crate::os::broker::{Asker, Message};

/// How long a reply may take: a name of a network namespace can be a file that hangs.
const LIMIT: Duration = Duration::from_secs(5);

type Answer = Result<Granted, Refused>;

/// The channel to a broker that is a process of its own.
#[derive(Debug)]
pub(super) struct Client {
    socket: Asker,
    next: Cell<u32>,
    waiting: RefCell<BTreeMap<u32, (What, oneshot::Sender<Answer>)>>,
    lost: watch::Sender<bool>,
}

impl Client {
    /// Takes on the socket; within a `LocalSet`, which serves it from then on.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Rc<Self>> {
        let client = Rc::new(Self {
            socket: Asker::new(socket)?,
            next: Cell::new(1),
            waiting: RefCell::default(),
            lost: watch::Sender::new(false),
        });
        let reader = client.clone();
        tokio::task::spawn_local(async move {
            while let Some(message) = reader.socket.receive().await {
                reader.take(message);
            }
            reader.waiting.borrow_mut().clear();
            reader.lost.send_replace(true);
        });
        Ok(client)
    }

    /// Waits until the broker is gone.
    pub(super) async fn lost(&self) {
        // The sender is in `self`.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    pub(super) async fn ask(
        &self,
        what: What,
        link: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Granted, Refused> {
        if *self.lost.borrow() {
            return Err("the broker has ended".into());
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let request = Request { number, what, link: link.to_owned() };
        let sent = self.socket.send(&request.octets(), fds);
        sent.map_err(|e| format!("the broker takes no request: {e}"))?;
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, (what, tell));
        match timeout(LIMIT, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the broker has ended".into()),
            Err(_) => {
                self.waiting.borrow_mut().remove(&number);
                Err(format!("the broker has not answered within {} s", LIMIT.as_secs()).into())
            }
        }
    }

    fn take(&self, message: Message) {
        let Some(reply) = Reply::parse(&message.octets) else { return };
        let Some((what, tell)) = self.waiting.borrow_mut().remove(&reply.number) else { return };
        let wanted = if reply.outcome.is_ok() { what.fds() } else { 0..=0 };
        let answer = match reply.outcome {
            _ if !wanted.contains(&message.fds.len()) => {
                Err("the broker's reply is not right".into())
            }
            Ok(index) => Ok(Granted { index, fds: message.fds }),
            Err(refused) => Err(refused),
        };
        // Whoever asked may have gone.
        let _ = tell.send(answer);
    }
}

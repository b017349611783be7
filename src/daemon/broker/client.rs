//! The confined end: asks, and waits for a bounded time.
//!
//! Several links may ask at once; one request is under way at a time, as the broker does one thing after
//! the other. Replies are told apart by number; one that comes too late finds nobody and is dropped, its
//! descriptors closed. Until it comes, nothing else is asked: one broker that hangs must not cost each
//! request its time, one after the other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::protocol::{Refused, Reply, Request, What};
use super::server::Granted;
use crate::os::broker::{Asker, Message};
use crate::os::close::Closer;

/// How long a reply may take: a name of a network namespace can be a file that hangs.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

type Answer = Result<Granted, Refused>;

/// The channel to a broker that is a process of its own.
#[derive(Debug)]
pub(super) struct Client {
    socket: Asker,
    next: Cell<u32>,
    turn: Mutex<()>,
    waiting: RefCell<BTreeMap<u32, (What, oneshot::Sender<Answer>)>>,
    lost: watch::Sender<bool>,
    /// The request that has not been answered in time, nor since.
    overdue: Cell<Option<u32>>,
    /// For connections that come too late.
    closer: Closer,
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
            turn: Mutex::new(()),
            waiting: RefCell::default(),
            lost: watch::Sender::new(false),
            overdue: Cell::new(None),
            closer: Closer::default(),
        });
        let reader = client.clone();
        spawn_local(async move {
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

    /// Asks once it is this request's turn. The turn is a task's, not the caller's: one who does not look
    /// for his answer for a while must not keep the others from theirs.
    pub(super) async fn ask(
        self: &Rc<Self>,
        what: What,
        link: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Granted, Refused> {
        let fds = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<Vec<_>>>();
        let (fds, link) = (fds.map_err(|e| e.to_string())?, link.to_owned());
        let client = self.clone();
        let asked = spawn_local(async move { client.ask_in_turn(what, link, &fds).await });
        asked.await.unwrap_or_else(|e| Err(e.to_string().into()))
    }

    async fn ask_in_turn(
        &self,
        what: What,
        link: String,
        fds: &[OwnedFd],
    ) -> Result<Granted, Refused> {
        // It does one thing after the other; the time for an answer begins when it may do this.
        let _turn = self.turn.lock().await;
        if *self.lost.borrow() {
            return Err("the broker has ended".into());
        }
        let late =
            || Err(format!("the broker has not answered within {} s", LIMIT.as_secs()).into());
        if self.overdue.get().is_some() {
            return late();
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let request = Request { number, what, link };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.socket.send(&request.octets(), &fds);
        sent.map_err(|e| format!("the broker takes no request: {e}"))?;
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, (what, tell));
        match timeout(LIMIT, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the broker has ended".into()),
            Err(_) => {
                self.waiting.borrow_mut().remove(&number);
                self.overdue.set(Some(number));
                late()
            }
        }
    }

    fn take(&self, message: Message) {
        let Some(reply) = Reply::parse(&message.octets) else { return };
        let Some((what, tell)) = self.waiting.borrow_mut().remove(&reply.number) else {
            if self.overdue.get() == Some(reply.number) {
                self.overdue.set(None);
            }
            message.fds.into_iter().for_each(|fd| self.closer.close(fd));
            return;
        };
        let wanted = if reply.outcome.is_ok() { what.fds() } else { 0..=0 };
        let answer = match reply.outcome {
            _ if !wanted.contains(&message.fds.len()) => {
                Err("the broker's reply is not right".into())
            }
            Ok(index) => Ok(Granted { index, note: reply.note, fds: message.fds }),
            Err(refused) => Err(refused),
        };
        // Whoever asked may have gone.
        let _ = tell.send(answer);
    }
}

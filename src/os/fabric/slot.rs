//! The server's side of one slot: its memory, its clients, and what each still has to be told.
//!
//! Theory of operation. A slot is one task, which never waits for a single client. It sees to three
//! things until none of them can go on: clients that have gone, output that a socket has room for, and
//! clients that come. A client that takes nothing gets a queue, which cannot grow: a peer that
//! leaves before the client was told of it vanishes from the queue, so there are at most the
//! handshake, the vectors of the other clients, and one departure for each client it was told of. It
//! is disconnected when it takes nothing for [`STALL`]. Clients say nothing in this protocol: one
//! that does is disconnected as well. At most [`BURST`] clients join per [`TICK`], so a flood of
//! connections costs the other clients little, and ids are not used again soon; who has gone or
//! talked before it is its turn is turned away and told to nobody.
//!
//! Invariants: ids are unique among `clients`; each client has the same number of eventfds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep};

use super::{MAX_CLIENTS, wire};
use crate::os::log::Log;
use crate::spec::ivshmem::{SHARED_MEMORY, VERSION};

/// How long a client may take nothing of what there is for it.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// Most clients that join in a tick.
const BURST: usize = 16;
/// How often the burst is granted, stalls are looked for, and a lack of resources is tried again.
const TICK: Duration = Duration::from_millis(100);

/// One slot of a backplane.
#[derive(Debug)]
pub(super) struct SlotServer {
    log: Log,
    listener: UnixListener,
    memory: Arc<OwnedFd>,
    vectors: u16,
    next_id: u16,
    clients: Vec<Client>,
    /// How many clients may still join before the next tick.
    burst: usize,
    tick: Pin<Box<Sleep>>,
    ticking: bool,
    pub(super) stall: Duration,
}

#[derive(Debug)]
struct Client {
    id: u16,
    stream: UnixStream,
    doorbells: Vec<Arc<OwnedFd>>,
    outbox: Outbox,
    /// Since when it has taken nothing, if there is something for it.
    stalled: Option<Instant>,
}

/// Why a client is no longer served.
#[derive(Debug)]
enum Farewell {
    Left,
    Talks,
    TakesNothing,
    Os(io::Error),
}

impl SlotServer {
    /// Serves the slot `number` with this memory; each client gets `vectors` eventfds.
    pub(super) fn new(number: u16, listener: UnixListener, memory: OwnedFd, vectors: u16) -> Self {
        Self {
            log: Log::new(format!("slot {number}")),
            listener,
            memory: Arc::new(memory),
            vectors,
            next_id: 0,
            clients: Vec::new(),
            burst: BURST,
            tick: Box::pin(sleep(TICK)),
            ticking: false,
            stall: STALL,
        }
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(mut self) -> Infallible {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Infallible> {
        loop {
            let mut again = self.poll_tick(cx);
            again |= self.poll_clients(cx, Client::poll_gone);
            again |= self.poll_clients(cx, Client::poll_output);
            again |= self.poll_arrivals(cx);
            // Armed last, so that the timer knows what this turn left over.
            if !again && !self.arm_tick() {
                return Poll::Pending;
            }
        }
    }

    /// Whether a tick has come.
    fn poll_tick(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.ticking || self.tick.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.ticking = false;
        self.burst = BURST;
        let (now, stall) = (Instant::now(), self.stall);
        let stuck = |c: &Client| c.stalled.is_some_and(|since| now.duration_since(since) >= stall);
        while let Some(at) = self.clients.iter().position(stuck) {
            self.dismiss(at, &Farewell::TakesNothing);
        }
        true
    }

    /// Starts the timer if a tick is needed; whether it did.
    fn arm_tick(&mut self) -> bool {
        let needed = self.burst < BURST || self.clients.iter().any(|c| c.stalled.is_some());
        if self.ticking || !needed {
            return false;
        }
        self.tick.as_mut().reset(Instant::now() + TICK);
        self.ticking = true;
        true
    }

    /// Lets each client take a step, and dismisses those whose step says so; whether any was.
    fn poll_clients(
        &mut self,
        cx: &mut Context<'_>,
        step: fn(&mut Client, &mut Context<'_>) -> Option<Farewell>,
    ) -> bool {
        let mut dismissed = false;
        let mut at = 0;
        while let Some(client) = self.clients.get_mut(at) {
            match step(client, cx) {
                None => at += 1,
                Some(why) => {
                    self.dismiss(at, &why);
                    dismissed = true;
                }
            }
        }
        dismissed
    }

    /// Takes those who want to connect, as far as the burst allows; whether any has joined.
    ///
    /// It leaves off after a while, for the sake of the runtime's budget for this task: without any
    /// left, sockets look as if they were not ready, and those seen to later would starve.
    fn poll_arrivals(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.burst;
        let mut looks = 0;
        while self.burst > 0 {
            if looks == BURST {
                cx.waker().wake_by_ref();
                break;
            }
            looks += 1;
            match self.listener.poll_accept(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok((stream, _))) => self.burst -= usize::from(self.admit(stream)),
                Poll::Ready(Err(error)) => {
                    // Out of descriptors, for example: the one who waits is taken at a later tick.
                    self.log.warn(format_args!("a client cannot be taken now: {error}"));
                    self.burst = 0;
                }
            }
        }
        self.burst < before
    }

    /// Lets a client join unless there is a reason to turn it away; whether it has joined.
    fn admit(&mut self, stream: UnixStream) -> bool {
        if self.clients.len() >= MAX_CLIENTS {
            self.log.info("a client is turned away: the slot has as many as it can");
            return false;
        }
        let waits = recv(&stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if !matches!(waits, Err(Errno::AGAIN)) {
            return false;
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let doorbells = (0..self.vectors).map(|_| eventfd(0, flags).map(Arc::new));
        match doorbells.collect() {
            Ok(doorbells) => self.join(stream, doorbells),
            Err(error) => {
                self.log.warn(format_args!("a client is turned away: {error}"));
                return false;
            }
        }
        true
    }

    fn join(&mut self, stream: UnixStream, doorbells: Vec<Arc<OwnedFd>>) {
        let id = self.fresh_id();
        let pid = stream.peer_cred().ok().and_then(|c| c.pid()).unwrap_or_default();
        let mut outbox = Outbox::default();
        outbox.push(VERSION, None);
        outbox.push(id.into(), None);
        outbox.push(SHARED_MEMORY, Some(&self.memory));
        for other in &mut self.clients {
            other.outbox.push_joined(id, &doorbells);
            outbox.push_joined(other.id, &other.doorbells);
        }
        outbox.push_joined(id, &doorbells);
        self.clients.push(Client { id, stream, doorbells, outbox, stalled: None });
        self.log.info(format_args!("client {id} joins (process {pid})"));
    }

    /// The next id in turn that no client has.
    fn fresh_id(&mut self) -> u16 {
        // Ends within MAX_CLIENTS + 1 turns.
        while self.clients.iter().any(|c| c.id == self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    /// Closes the connection of the client at this place and tells the others.
    fn dismiss(&mut self, at: usize, why: &Farewell) {
        let gone = self.clients.remove(at);
        for other in &mut self.clients {
            other.outbox.push_left(gone.id, gone.doorbells.len());
        }
        let (log, id) = (&self.log, gone.id);
        match why {
            Farewell::Left => log.info(format_args!("client {id} leaves")),
            Farewell::Talks => {
                log.warn(format_args!("client {id} is dismissed: it sent something"))
            }
            Farewell::TakesNothing => {
                log.warn(format_args!("client {id} is dismissed: it takes no messages"));
            }
            Farewell::Os(error) => log.warn(format_args!("client {id} is dismissed: {error}")),
        }
    }
}

impl Client {
    /// Looks whether it has closed its end, or talks.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Option<Farewell> {
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => return Some(Farewell::Os(error)),
                Poll::Ready(Ok(())) => {}
            }
            match self.stream.try_read(&mut [0; 1]) {
                Ok(0) => return Some(Farewell::Left),
                Ok(_) => return Some(Farewell::Talks),
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Some(Farewell::Left),
                    _ => return Some(Farewell::Os(e)),
                },
            }
        }
    }

    /// Sends what the socket has room for.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Option<Farewell> {
        while let Some(next) = self.outbox.0.front() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Some(Farewell::Os(error)),
                Poll::Ready(Ok(())) => {}
            }
            let fd = next.fd.as_ref().map(|fd| fd.as_fd());
            let send = || wire::send(self.stream.as_fd(), next.number, fd);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Ok(()) => {
                    self.outbox.0.pop_front();
                    self.stalled = None;
                }
                Err(e) if is_shortage(&e) => break,
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        return Some(Farewell::Left);
                    }
                    _ => return Some(Farewell::Os(e)),
                },
            }
        }
        if self.outbox.0.is_empty() {
            self.stalled = None;
        } else {
            self.stalled.get_or_insert_with(Instant::now);
        }
        None
    }
}

/// Whether the kernel lacks something now that it may have at the next tick: memory, or room for
/// descriptors that are under way.
fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM))
}

/// What a client has still to be told, in order.
#[derive(Debug, Default)]
struct Outbox(VecDeque<Pending>);

#[derive(Debug)]
struct Pending {
    number: i64,
    fd: Option<Arc<OwnedFd>>,
}

impl Outbox {
    fn push(&mut self, number: i64, fd: Option<&Arc<OwnedFd>>) {
        self.0.push_back(Pending { number, fd: fd.cloned() });
    }

    fn push_joined(&mut self, id: u16, doorbells: &[Arc<OwnedFd>]) {
        for fd in doorbells {
            self.push(id.into(), Some(fd));
        }
    }

    /// A peer with this many vectors has left. If nothing of its joining has been sent, then nothing
    /// of it will be; if a part has, the rest follows, so that the client sees whole peers only.
    fn push_left(&mut self, id: u16, vectors: usize) {
        let joining = |m: &Pending| m.number == i64::from(id) && m.fd.is_some();
        if self.0.iter().filter(|m| joining(m)).count() == vectors {
            self.0.retain(|m| !joining(m));
        } else {
            self.push(id.into(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doorbells(n: usize) -> Vec<Arc<OwnedFd>> {
        (0..n).map(|_| Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap())).collect()
    }

    fn numbers(outbox: &Outbox) -> Vec<(i64, bool)> {
        outbox.0.iter().map(|m| (m.number, m.fd.is_some())).collect()
    }

    #[test]
    fn a_peer_that_leaves_unannounced_leaves_nothing_in_the_queue() {
        let (mut outbox, fds) = (Outbox::default(), doorbells(2));
        outbox.push(VERSION, None);
        outbox.push_joined(0, &fds);
        outbox.push_joined(1, &fds);
        outbox.push_left(0, 2);
        assert_eq!(numbers(&outbox), [(0, false), (1, true), (1, true)]);
    }

    #[test]
    fn a_peer_announced_in_part_is_announced_whole_before_it_leaves() {
        let (mut outbox, fds) = (Outbox::default(), doorbells(3));
        outbox.push_joined(5, &fds);
        outbox.0.pop_front();
        outbox.push_left(5, 3);
        assert_eq!(numbers(&outbox), [(5, true), (5, true), (5, false)]);
    }

    #[test]
    fn a_queue_that_nobody_takes_from_does_not_grow() {
        let (mut outbox, fds) = (Outbox::default(), doorbells(4));
        outbox.push_joined(7, &fds);
        outbox.0.pop_front();
        for id in 8..10_000 {
            outbox.push_joined(id, &fds);
            outbox.push_left(id, 4);
        }
        outbox.push_left(7, 4);
        assert_eq!(outbox.0.len(), 4);
        assert_eq!(fds.iter().map(Arc::strong_count).max(), Some(2));
    }

    #[tokio::test]
    async fn ids_are_taken_in_turn_and_those_in_use_are_skipped() {
        let path = std::env::temp_dir().join(format!("boardlane-ids-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let memory = super::super::memfd::create("test", 1 << 20).unwrap();
        let mut slot = SlotServer::new(0, listener, memory, 1);
        let mut ends = Vec::new();
        for id in [0, 1, 65535] {
            let (here, there) = UnixStream::pair().unwrap();
            ends.push(there);
            slot.next_id = id;
            assert!(slot.admit(here));
        }
        slot.next_id = 65534;
        assert_eq!([slot.fresh_id(), slot.fresh_id(), slot.fresh_id()], [65534, 2, 3]);
    }
}

//! A link whose driver is a vhost-user front-end: one connection after the other, each with a device of
//! its own.
//!
//! The other end of the socket is a process on this machine that shares its memory with us. It may cut
//! the memory short at any time: what is then gone is replaced by zeros, which ends the connection when
//! that is seen, at a heartbeat at the latest. After a connection that ended for a fault of the front-end
//! the next one is taken with growing delay, as long as none lasts.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::task::spawn_blocking;

use super::minding::Minded;
use super::workers::{self, Healed, Pair, Workers};
use super::{LOOK, LinkTask, RETRY, Refusal};
use crate::daemon::broker::Refused;
use crate::daemon::config::{Dma, MTU_MAX, SocketSide, Transport};
use crate::daemon::netdev::Netdev;
use crate::link::State;
use crate::link::back_end::{BackEndLink, Event, Params, StartPair};
use crate::memory::Mapping;
use crate::net::engine_path::EngineUse;
use crate::net::path::Which;
use crate::os::close::{Closer, Kept, MOST_LEFT};
use crate::os::doorbell::{Doorbell, Ringer};
use crate::os::fabric::vhost_user::connection::{Connection, ConnectionError, Listener, Received};
use crate::os::fabric::vhost_user::memory::{Loss, create, map};
use crate::os::fabric::{is_channel, is_doorbell};
use crate::os::pace::Pace;
use crate::tunnel::vhost_user::back_end::Descriptor;

/// A front-end that sends without end gives its link work in each turn: so many turns follow at once, and
/// then one in a while, as all links share the thread.
const MOST_TURNS: u32 = 256;
const TURN_INTERVAL: Duration = Duration::from_millis(4);
/// The longest delay after a connection that ended for a fault; one that lasted so long ends the row.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A front-end's descriptor. Its last closing may take long.
#[derive(Clone, Debug)]
struct Fd {
    /// `None` while it is dropped.
    fd: Option<Arc<OwnedFd>>,
    loss: Loss,
    closer: Closer,
}

impl Fd {
    fn new(fd: OwnedFd, loss: &Loss, closer: &Closer) -> Self {
        Self { fd: Some(Arc::new(fd)), loss: loss.clone(), closer: closer.clone() }
    }

    fn get(&self) -> &Arc<OwnedFd> {
        self.fd.as_ref().expect("it is not being dropped")
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // A worker may have it still; that has only such as are closed at once.
        if let Some(fd) = self.fd.take().and_then(Arc::into_inner) {
            self.closer.close(fd);
        }
    }
}

impl Descriptor for Fd {
    fn map(&self, offset: u64, len: u64) -> Result<Arc<Mapping>, String> {
        map(self.get().as_fd(), offset, len, &self.loss).map_err(|e| e.to_string())
    }

    fn is_channel(&self) -> bool {
        is_channel(self.get().as_fd())
    }

    fn is_doorbell(&self) -> bool {
        is_doorbell(self.get().as_fd())
    }

    fn create(len: u64) -> Result<(Self, Arc<Mapping>), String> {
        let (fd, mapping) = create(len).map_err(|e| e.to_string())?;
        Ok((Self::new(fd, &Loss::new(), &Closer::default()), mapping))
    }
}

/// Why a connection came to its end.
enum Ended {
    /// The daemon stops.
    Stopping,
    /// The netdev is gone.
    NetdevLost,
    /// The front-end has left.
    Left {
        /// Its device ran.
        ran: bool,
    },
    /// It did what cannot be.
    Fault,
}

/// What a connection waits for.
enum Input {
    Workers(workers::Input),
    Message(Received),
    /// The connection is over: why, and whether for a fault.
    Over(String, bool),
    /// The control queue was kicked.
    Kick,
    Nothing,
}

impl LinkTask {
    /// Serves one front-end after the other; `true` when the link is to stop, `false` if the netdev is
    /// lost.
    pub(super) async fn served(&mut self, mut netdev: Option<&mut Netdev>) -> bool {
        let mut listener = None;
        let mut pause = RETRY;
        let closer = Closer::default();
        while !self.obey(netdev.as_deref_mut()).await {
            let front_end = self.front_end(&mut listener, &closer);
            let connection = match self.minding(netdev.as_deref_mut(), front_end).await {
                Minded::Order => continue,
                Minded::NetdevLost => return false,
                Minded::Done(connection) => connection,
            };
            let since = Instant::now();
            match connection {
                Ok(connection) => {
                    match self.serve(connection, netdev.as_deref_mut(), &closer).await {
                        Ended::Stopping => return true,
                        Ended::NetdevLost => return false,
                        Ended::Left { ran: true } => pause = RETRY,
                        // One that comes and goes is not to keep other links waiting.
                        Ended::Left { ran: false } => self.pause(LOOK).await,
                        Ended::Fault => {
                            if since.elapsed() >= LONGEST_PAUSE {
                                pause = RETRY;
                            }
                            self.pause(pause).await;
                            pause = LONGEST_PAUSE.min(2 * pause);
                        }
                    }
                }
                Err(e) => {
                    self.wait_because(e.why);
                    self.pause(e.pause).await;
                }
            }
        }
        true
    }

    /// Waits for the next front-end, or connects to it.
    async fn front_end(
        &self,
        listener: &mut Option<Kept<Listener>>,
        closer: &Closer,
    ) -> Result<Connection, Refusal> {
        closer.settle().await;
        let refusal = |why, absent| Refusal { why, pause: if absent { LOOK } else { RETRY } };
        let os = |e: std::io::Error| refusal(e.to_string(), false);
        let client = SocketSide::Client;
        let dials =
            matches!(&self.config.transport, Transport::VhostUser { how, .. } if *how == client);
        if listener.is_none() {
            let socket = self.broker.vhost_user(&self.config.name).await;
            let socket = socket.map_err(|Refused { text, absent }| refusal(text, absent))?;
            if dials {
                return Connection::over(socket).map_err(os);
            }
            *listener = Some(closer.keep(Listener::over(socket).map_err(os)?));
        }
        self.wait_because("no front-end has connected".to_owned());
        match listener {
            Some(listener) => listener.accept().await.map_err(os),
            None => Err(refusal("there is no listener".to_owned(), false)),
        }
    }

    async fn serve(
        &mut self,
        connection: Connection,
        netdev: Option<&mut Netdev>,
        closer: &Closer,
    ) -> Ended {
        let ringer = match Ringer::new() {
            Ok(ringer) => ringer,
            Err(e) => {
                closer.close(connection);
                self.wait_because(format!("starting a thread: {e}"));
                self.pause(RETRY).await;
                return Ended::Left { ran: false };
            }
        };
        let mut running = Running::new(self, connection, netdev, closer.clone(), ringer);
        let ended = running.run().await;
        let Running { workers, link, ringer, connection, closer, .. } = running;
        workers.leave().await;
        // To unmap a guest's memory takes its time, and so may a ring of a doorbell that is full.
        let _ = spawn_blocking(move || drop((link, ringer))).await;
        // With what nobody has read.
        closer.close(connection);
        ended
    }
}

/// A link on a connection.
struct Running<'a> {
    task: &'a LinkTask,
    workers: Workers<'a>,
    link: BackEndLink<Fd>,
    connection: Connection,
    closer: Closer,
    loss: Loss,
    /// Its device has run.
    ran: bool,
    /// Rung when the control queue has commands.
    kick: Option<Doorbell>,
    ringer: Ringer,
    /// How soon the next message is taken.
    pace: Pace,
    next_turn: Instant,
}

impl<'a> Running<'a> {
    fn new(
        task: &'a LinkTask,
        connection: Connection,
        netdev: Option<&'a mut Netdev>,
        closer: Closer,
        ringer: Ringer,
    ) -> Self {
        let unfit = netdev.as_ref().map(|netdev| netdev.unfit()).unwrap_or_default();
        let engine = task.config.dma == Dma::Engine;
        let cpu_below = task.config.engine.cpu_below as usize;
        let params = Params {
            features_off: task.features_off.union(unfit),
            mac: task.other_mac,
            mtu: task.config.mtu.unwrap_or(MTU_MAX),
            pairs: task.config.queues,
            engine: engine.then_some(EngineUse { cpu_below }),
        };
        let now = Instant::now();
        let mut running = Self {
            task,
            workers: Workers::new(task, netdev),
            link: BackEndLink::new(params),
            connection,
            closer,
            loss: Loss::new(),
            ran: false,
            kick: None,
            ringer,
            pace: Pace::new(now, MOST_TURNS, TURN_INTERVAL),
            next_turn: now,
        };
        running.tell_netdev();
        running
    }

    fn tell_netdev(&mut self) {
        if let Some(state) = self.workers.netdev_state() {
            self.link.handle_netdev(state.up);
        }
    }

    async fn run(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.drain().await {
                return ended;
            }
            if self.loss.is_lost() {
                return self.over("the front-end has cut its memory short", Ended::Fault);
            }
            match self.input().await {
                Input::Workers(input) => {
                    if let Some(ended) = self.workers_input(input).await {
                        return ended;
                    }
                }
                Input::Message(Received { header, payload, fds }) => {
                    self.next_turn = self.pace.count(Instant::now()).unwrap_or(self.next_turn);
                    let fds = fds.into_iter().map(|fd| Fd::new(fd, &self.loss, &self.closer));
                    self.link.handle_message(header, &payload, fds.collect());
                }
                Input::Over(why, fault) => {
                    return self.over(&why, if fault { Ended::Fault } else { self.left() });
                }
                Input::Kick => self.link.handle_kick(),
                Input::Nothing => {}
            }
        }
    }

    fn left(&self) -> Ended {
        Ended::Left { ran: self.ran }
    }

    /// The connection is over: why.
    fn over(&self, why: &str, ended: Ended) -> Ended {
        self.workers.state(State::Down, why.to_owned());
        ended
    }

    async fn input(&mut self) -> Input {
        let heartbeat = Duration::from_millis(self.task.config.heartbeat_ms.into());
        let now = Instant::now();
        let more = self.link.has_more();
        let ready = now >= self.next_turn;
        // A message or a command that waits for its turn, or a look whether memory was lost.
        let due = if ready { now + heartbeat } else { self.next_turn };
        let takes = !self.link.is_busy() && self.closer.left() <= MOST_LEFT;
        tokio::select! {
            input = self.workers.input() => Input::Workers(input),
            received = self.connection.next(), if takes && ready => match received {
                Ok(received) => Input::Message(received),
                Err(ConnectionError::Closed) => Input::Over("the front-end has left".to_owned(), false),
                Err(e) => Input::Over(e.to_string(), true),
            },
            rung = rung(&mut self.kick) => match rung {
                Ok(()) => Input::Kick,
                Err(e) => Input::Over(format!("control queue's kick: {e}"), false),
            },
            () = std::future::ready(()), if more && ready => {
                self.next_turn = self.pace.count(now).unwrap_or(self.next_turn);
                Input::Kick
            }
            () = tokio::time::sleep_until(due.into()) => Input::Nothing,
        }
    }

    /// Something about the workers or the netdev; why the link has to end, if it has to.
    async fn workers_input(&mut self, input: workers::Input) -> Option<Ended> {
        match input {
            workers::Input::Order => {
                if self.workers.obey(None).await {
                    return Some(Ended::Stopping);
                }
                self.tell_netdev();
            }
            workers::Input::Netdev => match self.workers.heal_netdev(None).await {
                Healed::Gone => return Some(Ended::NetdevLost),
                Healed::Here => self.tell_netdev(),
                Healed::Moved => {
                    self.tell_netdev();
                    self.workers.announce_anew().await;
                }
            },
            workers::Input::Broken(reason, true) => {
                self.task.log.warn(&reason);
                return Some(Ended::NetdevLost);
            }
            // Zeros in place of a ring break it, too.
            workers::Input::Broken(..) if self.loss.is_lost() => {}
            workers::Input::Broken(reason, false) => self.link.handle_broken(&reason),
            workers::Input::Left(pair, path) => self.link.handle_pair_stopped(pair, path),
            workers::Input::Nothing => {}
        }
        None
    }

    /// Does all that the link asks for.
    async fn drain(&mut self) -> Option<Ended> {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => self.workers.state(state, reason),
                Event::Start(start) => {
                    self.ran = true;
                    if let Err(e) = self.workers.start(&start, None).await {
                        self.task.log.warn(&e);
                        return Some(Ended::NetdevLost);
                    }
                }
                Event::StartPair(start) => {
                    // It may be the front-end's descriptors. A netdev that is lost is found out by the next
                    // session.
                    if let Err(e) = self.start_pair(start).await {
                        return Some(self.over(&e, Ended::Fault));
                    }
                }
                Event::StopPair(pair) => {
                    if !self.workers.stop_pair(pair) {
                        self.link.handle_pair_stopped(pair, None);
                    }
                }
                Event::Stop => {
                    self.workers.stop_all().await;
                    self.link.handle_stopped();
                }
                Event::Dropped(pair, which, reason) => {
                    let stats = self.task.view.borrow_mut().stats(pair);
                    match which {
                        Which::Receiveq => stats.tx.dropped(reason),
                        Which::Transmitq => stats.rx.dropped(reason),
                    }
                }
                Event::Offloads(offloads) => self.workers.change_offloads(offloads),
                Event::Carrier(up) => self.workers.carrier(up),
                Event::Watch(kick) => {
                    match kick.map(|kick| Doorbell::new(kick.get().clone())).transpose() {
                        Ok(kick) => self.kick = kick,
                        Err(e) => {
                            let why = format!("watching the control queue's kick: {e}");
                            return Some(self.over(&why, Ended::Fault));
                        }
                    }
                }
                Event::Ring(fd) => self.ringer.ring(fd.get()),
                Event::Send(octets, fd) => {
                    let fds: Vec<_> = fd.iter().map(|fd| fd.get().as_fd()).collect();
                    match self.connection.send(&octets, &fds) {
                        Ok(()) => {}
                        Err(ConnectionError::Closed) => {
                            return Some(self.over("the front-end has left", self.left()));
                        }
                        Err(e) => return Some(self.over(&e.to_string(), Ended::Fault)),
                    }
                }
                // A front-end that reads none of them has no use for more.
                Event::Tell(channel, octets) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    let _ = rustix::net::send(channel.get(), &octets, flags);
                }
                Event::Close(_) => return Some(Ended::Fault),
            }
        }
        self.workers.close_queues();
        None
    }

    async fn start_pair(&mut self, start: StartPair<Fd>) -> Result<(), String> {
        let StartPair { pair, path, mem, kicks, calls, settings } = start;
        let pair = Pair {
            number: pair,
            path,
            engine_mem: mem.clone(),
            mem,
            doorbells: kicks.map(|kick| kick.get().clone()).into(),
            peers: calls.map(|call| Some(call?.get().clone().into())),
            settings: Some(settings),
        };
        self.workers.start_pair(pair).await
    }
}

async fn rung(doorbell: &mut Option<Doorbell>) -> std::io::Result<()> {
    match doorbell {
        Some(doorbell) => doorbell.rung().await,
        None => std::future::pending().await,
    }
}

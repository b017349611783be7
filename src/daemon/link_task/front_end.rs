//! A link whose device is a vhost-user back-end: one connection after the other, each with memory and
//! doorbells of its own.
//!
//! The other end of the socket is a process on this machine to which we give memory. It cannot cut it
//! short, and writes what it likes: rings and frames are checked as any peer's are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::time::timeout;

use super::workers::{self, Healed, Pair, Workers};
use super::{LOOK, LinkTask, RETRY, Refusal};
use crate::daemon::broker::Refused;
use crate::daemon::config::{SocketSide, Transport};
use crate::daemon::netdev::Netdev;
use crate::link::Start;
use crate::link::front_end::{Event, FrontEndLink, FrontEndParams, StartPair};
use crate::memory::Mapping;
use crate::net::features::Features;
use crate::os::close::{Closer, Kept, MOST_LEFT};
use crate::os::fabric::vhost_user::connection::{Connection, ConnectionError, Listener, Received};
use crate::os::fabric::vhost_user::{memory, pair};
use crate::os::pace::Pace;
use crate::spec::net::F_MAC;
use crate::tunnel::vhost_user::front_end::{Descriptor, Message};

/// A back-end that sends without end gives its link work in each turn: so many turns follow at once, and
/// then one in a while, as all links share the thread.
const MOST_TURNS: u32 = 256;
const TURN_INTERVAL: Duration = Duration::from_millis(4);
/// How long a back-end may leave messages unread.
const UNREAD: Duration = Duration::from_secs(5);
/// Between looks whether what it gave has been closed, while it is not heard for that.
const CLOSE_LOOK: Duration = Duration::from_millis(5);
/// How long a connection is waited for before the socket is looked at again: somebody may have put
/// another in its place.
const LISTEN: Duration = Duration::from_secs(10);

/// Why the link came to its end.
enum Ended {
    /// The daemon stops.
    Stopping,
    /// The netdev is gone.
    NetdevLost,
}

/// What a link waits for.
enum Input {
    Workers(workers::Input),
    /// The search for a connection is over.
    Searched(Result<Found, Refusal>),
    /// The back-end answers.
    Message(Received),
    /// It asks.
    Request(Received),
    /// The connection is over: why.
    Lost(String),
    Due,
}

/// A connection, and the memory that is for it.
type Found = (Box<Connected>, Arc<Mapping>);

type Search<'a> = Pin<Box<dyn Future<Output = Result<Found, Refusal>> + 'a>>;

impl LinkTask {
    /// Drives the device of one back-end after the other; `true` when the link is to stop, `false` if the
    /// netdev is lost.
    pub(super) async fn drives(&mut self, mut netdev: Option<&mut Netdev>) -> bool {
        if self.obey(netdev.as_deref_mut()).await {
            return true;
        }
        let mut running = Running::new(self, netdev);
        let ended = running.run().await;
        running.workers.leave().await;
        matches!(ended, Ended::Stopping)
    }
}

/// A connection, and what goes to the back-end by it.
struct Connected {
    connection: Kept<Connection>,
    /// Our end of the socket for the back-end's requests, and the one that it gets.
    requests: Option<Kept<Connection>>,
    theirs: Option<OwnedFd>,
    memory: OwnedFd,
    /// What we ring, of each ring.
    kicks: Vec<Arc<OwnedFd>>,
    /// What the back-end rings, of each pair.
    calls: Vec<Arc<OwnedFd>>,
}

impl Connected {
    fn new(
        connection: Kept<Connection>,
        params: FrontEndParams,
        closer: &Closer,
    ) -> Result<Found, String> {
        let memory = memory::create(params.memory_len());
        let (memory, mapping) = memory.map_err(|e| format!("memory for the rings: {e}"))?;
        let (requests, theirs) = pair().map_err(|e| format!("a pair of sockets: {e}"))?;
        let doorbells = |count: u16, rung: u32| {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let made = (0..count).map(|_| eventfd(rung, flags).map(Arc::new));
            made.collect::<Result<Vec<_>, _>>().map_err(|e| format!("a doorbell: {e}"))
        };
        let connected = Self {
            connection,
            requests: Some(closer.keep(requests)),
            theirs: Some(theirs),
            memory,
            // A ring starts when it is first kicked.
            kicks: doorbells(2 * params.pairs, 1)?,
            calls: doorbells(params.pairs, 0)?,
        };
        Ok((Box::new(connected), mapping))
    }

    /// Waits for a message of either kind.
    async fn next(&mut self) -> Input {
        loop {
            tokio::select! {
                received = self.connection.next() => return match received {
                    Ok(received) => Input::Message(received),
                    Err(ConnectionError::Closed) => Input::Lost("the back-end has left".to_owned()),
                    Err(e) => Input::Lost(e.to_string()),
                },
                request = next_request(&mut self.requests) => match request {
                    Ok(received) => return Input::Request(received),
                    // It says that it has no more of them.
                    Err(ConnectionError::Closed) => self.requests = None,
                    Err(e) => return Input::Lost(format!("requests of the back-end: {e}")),
                },
            }
        }
    }

    async fn send(&mut self, message: &Message) -> Result<(), String> {
        let Self { connection, theirs, memory, kicks, calls, .. } = self;
        let at = |ring: u16| usize::from(ring);
        let fd: Option<BorrowedFd<'_>> = match message.fd {
            None => None,
            Some(Descriptor::Memory) => Some(memory.as_fd()),
            Some(Descriptor::Kick(ring)) => kicks.get(at(ring)).map(|fd| fd.as_fd()),
            Some(Descriptor::Call(ring)) => calls.get(at(ring / 2)).map(|fd| fd.as_fd()),
            Some(Descriptor::BackendRequests) => theirs.as_ref().map(|fd| fd.as_fd()),
        };
        connection.send(&message.octets, fd.as_slice()).map_err(|e| e.to_string())?;
        if message.fd == Some(Descriptor::BackendRequests) {
            *theirs = None;
        }
        if !connection.has_unsent() {
            return Ok(());
        }
        match timeout(UNREAD, connection.flush()).await {
            Ok(sent) => sent.map_err(|e| e.to_string()),
            Err(_) => Err(format!("the back-end reads nothing for {} s", UNREAD.as_secs())),
        }
    }
}

/// Waits for a connection, and makes what goes by it.
async fn search(task: &LinkTask, params: FrontEndParams, closer: Closer) -> Result<Found, Refusal> {
    closer.settle().await;
    let refusal = |why, absent| Refusal { why, pause: if absent { LOOK } else { RETRY } };
    let other = |e: std::io::Error| refusal(e.to_string(), false);
    let Transport::VhostUser { path, how, .. } = &task.config.transport else {
        return Err(refusal(format!("{} is not vhost-user", task.config.transport), false));
    };
    let connection = loop {
        let socket = task.broker.vhost_user(&task.config.name).await;
        let socket = socket.map_err(|Refused { text, absent }| refusal(text, absent))?;
        if *how == SocketSide::Client {
            break closer.keep(Connection::over(socket).map_err(other)?);
        }
        task.wait_because(format!("no vhost-user back-end has connected to {}", path.display()));
        let listener = closer.keep(Listener::over(socket).map_err(other)?);
        if let Ok(accepted) = timeout(LISTEN, listener.accept()).await {
            break closer.keep(accepted.map_err(other)?);
        }
    };
    Connected::new(connection, params, &closer).map_err(|why| refusal(why, false))
}

async fn next_request(
    requests: &mut Option<Kept<Connection>>,
) -> Result<Received, ConnectionError> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}

/// A link, connected or not.
struct Running<'a> {
    task: &'a LinkTask,
    params: FrontEndParams,
    workers: Workers<'a>,
    link: FrontEndLink,
    search: Option<Search<'a>>,
    connected: Option<Box<Connected>>,
    /// For what the back-end gives, read or not.
    closer: Closer,
    /// How soon the next message is taken.
    pace: Pace,
    next_turn: Instant,
}

impl<'a> Running<'a> {
    fn new(task: &'a LinkTask, netdev: Option<&'a mut Netdev>) -> Self {
        let unfit = netdev.as_ref().map_or(Features::NONE, |netdev| netdev.unfit());
        let features_off = task.features_off.union(unfit);
        let params = FrontEndParams { features_off, pairs: task.config.queues };
        let now = Instant::now();
        Self {
            task,
            params,
            workers: Workers::new(task, netdev),
            link: FrontEndLink::new(now, params),
            search: None,
            connected: None,
            closer: Closer::default(),
            pace: Pace::new(now, MOST_TURNS, TURN_INTERVAL),
            next_turn: now,
        }
    }

    async fn run(&mut self) -> Ended {
        loop {
            if let Err(why) = self.drain().await {
                self.task.log.warn(&why);
                return self.end(Ended::NetdevLost).await;
            }
            let input = self.input().await;
            let now = Instant::now();
            match input {
                Input::Workers(input) => {
                    if let Some(ended) = self.workers_input(input).await {
                        return self.end(ended).await;
                    }
                }
                Input::Searched(found) => {
                    self.search = None;
                    match found {
                        Ok((connected, memory)) => {
                            self.connected = Some(connected);
                            self.link.handle_connected(now, memory);
                        }
                        Err(Refusal { why, pause }) => self.link.handle_refused(now, why, pause),
                    }
                }
                Input::Message(Received { header, payload, fds }) => {
                    self.next_turn = self.pace.count(now).unwrap_or(self.next_turn);
                    self.link.handle_message(now, header, &payload, self.refuse(fds));
                }
                Input::Request(Received { header, payload, fds }) => {
                    self.next_turn = self.pace.count(now).unwrap_or(self.next_turn);
                    self.link.handle_backend_request(now, header, &payload, self.refuse(fds));
                }
                Input::Lost(why) => self.link.handle_lost(now, &why),
                Input::Due => self.link.handle_timeout(now),
            }
        }
    }

    /// None of a back-end's descriptors has a use; their number.
    fn refuse(&self, fds: Vec<OwnedFd>) -> usize {
        let n = fds.len();
        fds.into_iter().for_each(|fd| self.closer.close(fd));
        n
    }

    /// Leaves the connection, and comes to this end.
    async fn end(&mut self, ended: Ended) -> Ended {
        self.link.shutdown(Instant::now());
        // What cannot be done to the netdev any more was said.
        let _ = self.drain().await;
        ended
    }

    async fn input(&mut self) -> Input {
        let now = Instant::now();
        let closes = self.closer.left() > MOST_LEFT;
        let reads = now >= self.next_turn && !closes;
        let turn = if closes { now + CLOSE_LOOK } else { self.next_turn };
        let turn = (!reads).then_some(turn);
        let due = self.link.poll_timeout().into_iter().chain(turn).min();
        let due = due.unwrap_or_else(|| now + RETRY);
        tokio::select! {
            input = self.workers.input() => Input::Workers(input),
            found = found(&mut self.search) => Input::Searched(found),
            input = next(&mut self.connected), if reads => input,
            () = tokio::time::sleep_until(due.into()) => Input::Due,
        }
    }

    /// Something about the workers or the netdev; why the link has to end, if it has to.
    async fn workers_input(&mut self, input: workers::Input) -> Option<Ended> {
        match input {
            workers::Input::Order => {
                return self.workers.obey(None).await.then_some(Ended::Stopping);
            }
            workers::Input::Netdev => match self.workers.heal_netdev(None).await {
                Healed::Gone => return Some(Ended::NetdevLost),
                Healed::Here => {}
                Healed::Moved => self.workers.announce_anew().await,
            },
            workers::Input::Broken(reason, true) => {
                self.task.log.warn(&reason);
                return Some(Ended::NetdevLost);
            }
            workers::Input::Broken(reason, false) => {
                self.link.handle_broken(Instant::now(), &reason);
            }
            // No worker is told to leave but with all others.
            workers::Input::Left(..) | workers::Input::Nothing => {}
        }
        None
    }

    /// Does all that the link asks for. An error is one of the netdev's.
    async fn drain(&mut self) -> Result<(), String> {
        while let Some(event) = self.link.poll_event() {
            match event {
                Event::State(state, reason) => self.workers.state(state, reason),
                Event::Connect => {
                    self.search =
                        Some(Box::pin(search(self.task, self.params, self.closer.clone())))
                }
                Event::Disconnect => (self.search, self.connected) = (None, None),
                Event::Send(message) => {
                    let Some(connected) = &mut self.connected else { continue };
                    if let Err(why) = connected.send(&message).await {
                        self.link.handle_lost(Instant::now(), &why);
                    }
                }
                Event::Answer(octets) => {
                    let requests = self.connected.as_mut().and_then(|c| c.requests.as_mut());
                    // One that reads no answers gets none, until it is given up for all those that wait.
                    if let Some(Err(e)) = requests.map(|requests| requests.send(&octets, &[])) {
                        self.link.handle_lost(Instant::now(), &e.to_string());
                    }
                }
                Event::Start(start) => self.start(&start).await?,
                Event::StartPair(start) => self.start_pair(start).await?,
                Event::Stop => {
                    self.workers.stop_all().await;
                    self.link.handle_stopped(Instant::now());
                }
                Event::Carrier(up) => self.workers.carrier(up),
            }
        }
        self.workers.close_queues();
        Ok(())
    }

    async fn start(&mut self, start: &Start) -> Result<(), String> {
        if start.features.has(F_MAC) {
            // The driver's address is the device's to give (virtio 1.4 §5.1.5).
            self.workers.take_mac(start.config.mac).await;
        }
        self.workers.start(start, None).await
    }

    async fn start_pair(&mut self, start: StartPair) -> Result<(), String> {
        let StartPair { pair, path, mem } = start;
        let connected = self.connected.as_ref();
        let place = usize::from(pair);
        let doorbells = connected.and_then(|c| {
            Some((c.calls.get(place)?, c.kicks.get(2 * place)?, c.kicks.get(2 * place + 1)?))
        });
        // A data path comes before the end of its connection.
        let Some((call, receiveq, transmitq)) = doorbells else { return Ok(()) };
        let pair = Pair {
            number: pair,
            path,
            engine_mem: mem.clone(),
            mem,
            doorbells: vec![call.clone()],
            // Frames go out by the transmitq.
            peers: [transmitq, receiveq].map(|kick| Some(kick.clone().into())),
            settings: None,
        };
        self.workers.start_pair(pair).await
    }
}

async fn found(search: &mut Option<Search<'_>>) -> Result<Found, Refusal> {
    match search {
        Some(search) => search.await,
        None => std::future::pending().await,
    }
}

async fn next(connected: &mut Option<Box<Connected>>) -> Input {
    match connected {
        Some(connected) => connected.next().await,
        None => std::future::pending().await,
    }
}

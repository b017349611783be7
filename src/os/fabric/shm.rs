//! The transport `shm:PATH`: the client of a backplane's slot.
//!
//! [`ShmLink::connect`] gives the slot's memory, this client's doorbells and those of the clients
//! that are there; [`ShmLink::next`] tells who comes and goes. When the server is gone, memory and
//! doorbells still work: they are held by those who have them.
//!
//! A doorbell is an eventfd. To ring, add 1 to it. Whoever waits for it waits edge-triggered and
//! never reads it: each client has all doorbells, so another can make any of them blocking, fill it,
//! or empty it. For the same reason ringing may block.
//!
//! The protocol marks the last vector neither of a client that joins nor of this one. Servers give
//! every client as many. So this client's count is that of another that was there before, or it ends
//! where messages pause for `PAUSE`; and another has joined once it has as many vectors as this
//! client, or once messages pause or go on with something else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::wire::{Inbox, Message, ReceiveError};
use super::{
    FabricError, Fault, MAX_CLIENTS, MAX_VECTORS, MemoryFault, connect, is_doorbell, memfd,
};
use crate::memory::{Mapping, ReadOnly};
use crate::spec::ivshmem::{SHARED_MEMORY, VERSION};

/// How long a server may take to set up a connection.
const SETUP_LIMIT: Duration = Duration::from_secs(5);
/// The pause in messages that ends a client's list of vectors: longer than a busy machine takes a
/// server away from the middle of one.
const PAUSE: Duration = Duration::from_millis(250);

/// What a client of a slot has, with or without its server.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The slot's memory, whole.
    pub memory: Arc<Mapping>,
    /// Its length in bytes, a power of two; [`super::regions`] says what is where in it.
    pub len: u64,
    /// This client's id, unlike that of any other client now.
    pub id: u16,
    /// This client's doorbells, one per vector, at least one. Waited for, never read.
    pub doorbells: Vec<Arc<OwnedFd>>,
}

/// Another client of the slot.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its doorbells, one per vector. Written to ring it.
    pub vectors: Vec<Arc<OwnedFd>>,
}

/// What happened among the other clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A client with this id has come, and is in [`ShmLink::peers`] now.
    Joined(u16),
    /// The client with this id has gone, and is no longer in [`ShmLink::peers`].
    Left(u16),
}

/// A connection to a slot's server.
#[derive(Debug)]
pub struct ShmLink {
    path: PathBuf,
    stream: UnixStream,
    inbox: Inbox,
    slot: Slot,
    roster: Roster,
    /// When the peer that is being announced counts as whole.
    whole_at: Option<Instant>,
    /// The server is gone, or what it says does not count any more.
    over: bool,
}

impl ShmLink {
    /// Connects to the slot whose socket is at `path`; takes five seconds at most. Needs a tokio
    /// runtime with I/O and time.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, FabricError> {
        Self::connect_within(path.as_ref(), SETUP_LIMIT).await
    }

    pub(super) async fn connect_within(path: &Path, limit: Duration) -> Result<Self, FabricError> {
        Self::over_within(path, dial(path)?, limit).await
    }

    /// As [`connect`](Self::connect), on a connection that is there already: `socket` is what [`dial`]
    /// gave for `path`.
    pub async fn over(path: &Path, socket: OwnedFd) -> Result<Self, FabricError> {
        Self::over_within(path, socket, SETUP_LIMIT).await
    }

    async fn over_within(
        path: &Path,
        socket: OwnedFd,
        limit: Duration,
    ) -> Result<Self, FabricError> {
        let Greeted { stream, inbox, roster, memory, len } =
            greet(path, socket, limit, memfd::map).await?;
        let slot = Slot { memory, len, id: roster.id, doorbells: roster.doorbells.clone() };
        Ok(Self { path: path.to_owned(), stream, inbox, slot, roster, whole_at: None, over: false })
    }

    /// This client's part of the slot.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The other clients, by id: first those that were there before, then as [`Self::next`] tells.
    pub fn peers(&self) -> &BTreeMap<u16, Peer> {
        &self.roster.peers
    }

    /// Waits for the next change among the other clients. Nothing is lost if it is dropped early.
    ///
    /// # Errors
    /// When the server is gone or breaks the protocol; there will be no more news then, and the same
    /// or a similar error if asked again. The slot and the peers stay usable.
    pub async fn next(&mut self) -> Result<PeerEvent, FabricError> {
        if self.over {
            return Err(FabricError::Closed { path: self.path.clone() });
        }
        let news = self.news().await;
        self.over = news.is_err();
        news
    }

    async fn news(&mut self) -> Result<PeerEvent, FabricError> {
        loop {
            if let Some(event) = self.roster.events.pop_front() {
                return Ok(event);
            }
            let message = receive(&self.path, &self.stream, &mut self.inbox);
            let message = if self.roster.forming.is_none() {
                message.await?
            } else {
                let at = *self.whole_at.get_or_insert_with(|| Instant::now() + PAUSE);
                match timeout_at(at, message).await {
                    Ok(message) => message?,
                    Err(_) => {
                        self.whole_at = None;
                        self.roster.complete();
                        continue;
                    }
                }
            };
            self.whole_at = None;
            self.roster
                .take(message)
                .map_err(|fault| FabricError::Protocol { path: self.path.clone(), fault })?;
        }
    }
}

/// A connection on which the server has told all about the time before.
struct Greeted<M> {
    stream: UnixStream,
    inbox: Inbox,
    roster: Roster,
    /// The slot's memory, and its length in bytes.
    memory: M,
    len: u64,
}

/// Joins the slot by this connection, and maps its memory by `map`.
async fn greet<M>(
    path: &Path,
    socket: OwnedFd,
    limit: Duration,
    map: fn(OwnedFd) -> Result<(M, u64), MemoryFault>,
) -> Result<Greeted<M>, FabricError> {
    let stream = UnixStream::from_std(socket.into())
        .map_err(|error| FabricError::Os { path: path.to_owned(), error })?;
    match timeout(limit, set_up(path, stream, map)).await {
        Err(_) => Err(FabricError::Silent { path: path.to_owned() }),
        Ok(Err(FabricError::Closed { path })) => Err(FabricError::Refused { path }),
        Ok(done) => done,
    }
}

async fn set_up<M>(
    path: &Path,
    stream: UnixStream,
    map: fn(OwnedFd) -> Result<(M, u64), MemoryFault>,
) -> Result<Greeted<M>, FabricError> {
    let mut inbox = Inbox::default();
    let wrong = |fault| FabricError::Protocol { path: path.to_owned(), fault };
    match receive(path, &stream, &mut inbox).await? {
        Message { number: VERSION, fd: None } => {}
        Message { number: VERSION, .. } => {
            return Err(wrong(Fault::UnexpectedDescriptor(VERSION)));
        }
        Message { number, .. } => return Err(wrong(Fault::Version(number))),
    }
    let Message { number, fd } = receive(path, &stream, &mut inbox).await?;
    let id = u16::try_from(number).map_err(|_| wrong(Fault::Number(number)))?;
    if fd.is_some() {
        return Err(wrong(Fault::UnexpectedDescriptor(number)));
    }
    let memory = match receive(path, &stream, &mut inbox).await? {
        Message { number: SHARED_MEMORY, fd: Some(fd) } => fd,
        Message { number: SHARED_MEMORY, fd: None } => {
            return Err(wrong(Fault::NoDescriptor(SHARED_MEMORY)));
        }
        Message { number, .. } => return Err(wrong(Fault::Number(number))),
    };
    let (memory, len) =
        map(memory).map_err(|fault| FabricError::Memory { path: path.to_owned(), fault })?;
    let mut roster = Roster::new(id);
    while !roster.settled {
        let message = receive(path, &stream, &mut inbox);
        let message = if roster.doorbells.is_empty() {
            message.await?
        } else if let Ok(message) = timeout(PAUSE, message).await {
            message?
        } else {
            roster.settled = true;
            break;
        };
        roster.take(message).map_err(wrong)?;
    }
    Ok(Greeted { stream, inbox, roster, memory, len })
}

/// A look at a slot: all that its server tells a client, and its memory to be read only. As long as it
/// lasts the others see a client more, which nobody rings.
#[derive(Debug)]
pub struct Peek {
    /// The connection, by which the others see a client.
    pub stream: UnixStream,
    /// The slot's memory, whole.
    pub memory: ReadOnly,
    /// Its length in bytes, a power of two.
    pub len: u64,
    /// The other clients that are there.
    pub others: BTreeSet<u16>,
}

/// Looks at the slot whose socket is at `path`, as [`ShmLink::connect`] joins it.
pub async fn peek(path: &Path) -> Result<Peek, FabricError> {
    let Greeted { stream, roster, memory, len, .. } =
        greet(path, dial(path)?, SETUP_LIMIT, memfd::map_read_only).await?;
    Ok(Peek { stream, memory, len, others: roster.peers.into_keys().collect() })
}

/// Waits for a message; what has come of it stays in `inbox` if this is dropped early.
async fn receive(
    path: &Path,
    stream: &UnixStream,
    inbox: &mut Inbox,
) -> Result<Message, FabricError> {
    loop {
        let os = |error| FabricError::Os { path: path.to_owned(), error };
        stream.readable().await.map_err(os)?;
        // Only an error that says so clears the socket's readiness, so the others go around it.
        let mut outcome = None;
        let polled = stream.try_io(Interest::READABLE, || match inbox.receive(stream.as_fd()) {
            Err(ReceiveError::Os(e)) => Err(e),
            other => {
                outcome = Some(other);
                Ok(())
            }
        });
        match (polled, outcome) {
            (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => {}
            (Err(e), _) => return Err(os(e)),
            (Ok(()), Some(Ok(message))) => return Ok(message),
            (Ok(()), Some(Err(ReceiveError::Fault(fault)))) => {
                return Err(FabricError::Protocol { path: path.to_owned(), fault });
            }
            (Ok(()), _) => return Err(FabricError::Closed { path: path.to_owned() }),
        }
    }
}

/// Connects to the slot whose socket is at `path`, without waiting: a server that is busy is an error.
pub fn dial(path: &Path) -> Result<OwnedFd, FabricError> {
    connect(path).map_err(|e| connect_error(path, e))
}

/// Tells apart why a connection cannot be made.
fn connect_error(path: &Path, error: io::Error) -> FabricError {
    let is_socket = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let path = path.to_owned();
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR) => FabricError::NoSocket { path },
        Some(Errno::CONNREFUSED) if is_socket => FabricError::NobodyListens { path },
        Some(Errno::CONNREFUSED | Errno::PROTOTYPE) => FabricError::NotASocket { path },
        Some(Errno::ACCESS | Errno::PERM) => FabricError::NoPermission { path },
        Some(Errno::AGAIN) => FabricError::Busy { path },
        None if error.kind() == io::ErrorKind::InvalidInput => FabricError::BadPath { path },
        _ => FabricError::Os { path, error },
    }
}

/// Who is in the slot, as far as the server has told.
#[derive(Debug)]
struct Roster {
    id: u16,
    /// Our own; complete once `settled`.
    doorbells: Vec<Arc<OwnedFd>>,
    /// Whether the server has told all about the time before we came: from then on there are events.
    settled: bool,
    peers: BTreeMap<u16, Peer>,
    /// The peer whose vectors are being told.
    forming: Option<(u16, Peer)>,
    /// At most two: a message completes one peer and removes another.
    events: VecDeque<PeerEvent>,
}

impl Roster {
    fn new(id: u16) -> Self {
        Self {
            id,
            doorbells: Vec::new(),
            settled: false,
            peers: BTreeMap::new(),
            forming: None,
            events: VecDeque::new(),
        }
    }

    /// Takes a message that came after the shared memory.
    fn take(&mut self, Message { number, fd }: Message) -> Result<(), Fault> {
        let id = u16::try_from(number).map_err(|_| Fault::Number(number))?;
        if self.forming.as_ref().is_some_and(|(forming, _)| *forming != id) {
            self.complete();
        }
        if fd.as_ref().is_some_and(|fd| !is_doorbell(fd)) {
            return Err(Fault::NotADoorbell(id));
        }
        let own = id == self.id;
        self.settled |= !own && !self.doorbells.is_empty();
        match fd {
            Some(fd) if own => self.own_vector(fd),
            Some(fd) => self.vector(id, fd),
            None if own => Err(Fault::OwnDeparture),
            None => self.departed(id),
        }
    }

    fn own_vector(&mut self, fd: OwnedFd) -> Result<(), Fault> {
        if self.settled {
            // Too late to be used: what waits for doorbells has been set up.
            return Ok(());
        }
        push_vector(self.id, &mut self.doorbells, fd)?;
        let expected = self.peers.values().map(|p| p.vectors.len()).max();
        self.settled = expected == Some(self.doorbells.len());
        Ok(())
    }

    fn vector(&mut self, id: u16, fd: OwnedFd) -> Result<(), Fault> {
        if let Some(peer) = self.peers.get_mut(&id) {
            return push_vector(id, &mut peer.vectors, fd);
        }
        if self.peers.len() >= MAX_CLIENTS - 1 {
            return Err(Fault::TooManyPeers);
        }
        let (_, peer) = self.forming.get_or_insert_with(|| (id, Peer::default()));
        push_vector(id, &mut peer.vectors, fd)?;
        if self.settled && peer.vectors.len() == self.doorbells.len() {
            self.complete();
        }
        Ok(())
    }

    fn departed(&mut self, id: u16) -> Result<(), Fault> {
        if self.forming.take_if(|(forming, _)| *forming == id).is_some() {
            return Ok(());
        }
        self.peers.remove(&id).ok_or(Fault::UnknownPeer(id))?;
        if self.settled {
            self.events.push_back(PeerEvent::Left(id));
        }
        Ok(())
    }

    /// The peer that is being told is whole.
    fn complete(&mut self) {
        if let Some((id, peer)) = self.forming.take() {
            self.peers.insert(id, peer);
            if self.settled {
                self.events.push_back(PeerEvent::Joined(id));
            }
        }
    }
}

fn push_vector(id: u16, vectors: &mut Vec<Arc<OwnedFd>>, fd: OwnedFd) -> Result<(), Fault> {
    if vectors.len() >= usize::from(MAX_VECTORS) {
        return Err(Fault::TooManyVectors(id));
    }
    vectors.push(Arc::new(fd));
    Ok(())
}

#[cfg(test)]
mod roster_tests;

//! The broker's end: does what the config says, for links that it names, and nothing else.

mod netdev;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

use super::functions::Functions;
use super::protocol::{Refused, Reply, Request, What};
use crate::daemon::Role;
use crate::daemon::config::{Config, LinkConfig, Pump, SocketSide, Transport};
use crate::daemon::metrics;
use crate::os::broker::{ReceiveError, receive, send};
use crate::os::close::{Closer, Kept};
#[cfg(feature = "uio")]
use crate::os::fabric::uio;
use crate::os::fabric::{shm, vhost_user};
use crate::os::socket_file::SocketFile;
use crate::os::vhost_net;

/// What a request brought.
#[derive(Debug)]
pub(super) struct Granted {
    /// The netdev's index, 0 where there is none.
    pub(super) index: u32,
    /// What there is to say beside.
    pub(super) note: String,
    pub(super) fds: Vec<OwnedFd>,
}

impl Granted {
    fn new(index: u32, fds: Vec<OwnedFd>) -> Self {
        Self { index, note: String::new(), fds }
    }
}

impl From<OwnedFd> for Granted {
    fn from(fd: OwnedFd) -> Self {
        Self::new(0, vec![fd])
    }
}

/// What opens things for the links of a config.
#[derive(Debug)]
pub(super) struct Server {
    role: Role,
    file: PathBuf,
    /// What was adopted last.
    config: Option<Config>,
    links: BTreeMap<String, Served>,
    /// What was read last, if it was right and has not been adopted.
    read: Option<Config>,
    /// This is a process of its own.
    apart: bool,
    /// Why the config is not read again, if it is not.
    sealed: Option<String>,
    /// For sockets by which peers can have sent what lingers in its closing.
    closer: Closer,
    pub(super) functions: Functions,
    /// Where metrics are to be had, if that is a file.
    metrics: Option<SocketFile>,
}

#[derive(Debug)]
struct Served {
    config: LinkConfig,
    /// Its TAP, once that has been opened.
    netdev: Option<netdev::Opened>,
    listening: Option<Listening>,
}

/// A socket that a link listens on. It is here as long as the link is in the config: the daemon's end of a
/// link may begin anew, and whoever has connected meanwhile still waits.
#[derive(Debug)]
struct Listening {
    file: SocketFile,
    listener: Kept<UnixListener>,
}

impl Server {
    /// For the config in `file`, which is read when it is asked for.
    pub(super) fn new(role: Role, file: PathBuf) -> Self {
        Self {
            role,
            file,
            config: None,
            links: BTreeMap::new(),
            read: None,
            apart: false,
            sealed: None,
            closer: Closer::default(),
            functions: Functions::default(),
            metrics: None,
        }
    }

    /// Serves the other end of `socket` until it is closed.
    ///
    /// # Errors
    /// The socket fails.
    pub(super) fn serve(&mut self, socket: &OwnedFd) -> std::io::Result<()> {
        self.apart = true;
        let served = self.serve_all(socket);
        // The daemon may have had no time to say so.
        self.functions.release_all();
        served
    }

    fn serve_all(&mut self, socket: &OwnedFd) -> std::io::Result<()> {
        loop {
            let (number, what, granted) = match receive(socket) {
                Ok(message) => {
                    let number = Request::number_of(&message.octets);
                    let what = Request::parse(&message.octets).map(|request| request.what);
                    (number, what, self.answer(&message.octets, message.fds))
                }
                Err(ReceiveError::Bad) => (0, None, Err("no request has this form".into())),
                Err(ReceiveError::Closed) => return Ok(()),
                Err(ReceiveError::Os(e)) => return Err(e),
            };
            let (outcome, note, fds) = match granted {
                Ok(Granted { index, note, fds }) => (Ok(index), note, fds),
                Err(refused) => (Err(refused), String::new(), Vec::new()),
            };
            let lent: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let sent = match send(socket, &Reply { number, outcome, note }.octets(), &lent) {
                // Too many descriptors are under way, or there is no memory: another try may do.
                Err(e) if !fds.is_empty() && e.kind() != std::io::ErrorKind::BrokenPipe => {
                    let outcome = Err(format!("what was opened cannot be sent: {e}").into());
                    let reply = Reply { number, outcome, note: String::new() };
                    send(socket, &reply.octets(), &[])
                }
                sent => sent,
            };
            // Who took a connection may have closed it before we do.
            if matches!(what, Some(What::Slot | What::VhostUser)) {
                fds.into_iter().for_each(|fd| self.closer.close(fd));
            }
            match sent {
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                done => done?,
            }
        }
    }

    fn answer(&mut self, octets: &[u8], fds: Vec<OwnedFd>) -> Result<Granted, Refused> {
        match Request::parse(octets) {
            Some(request) => self.handle(&request, fds),
            None => Err("no request has this form".into()),
        }
    }

    /// Does what is asked for.
    pub(super) fn handle(
        &mut self,
        request: &Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Granted, Refused> {
        if fds.len() != request.what.fds_given() {
            return Err("no request has such descriptors".into());
        }
        match request.what {
            What::Config => return self.config(),
            What::Adopt => return self.adopt(),
            What::Close => return Ok(self.close()),
            What::Alive => return Ok(Granted::new(0, Vec::new())),
            What::Function => return self.function(&request.link),
            What::Release => return self.release(&request.link),
            What::Functions => return self.functions(),
            What::Strays => return self.strays(),
            What::Uevents => return self.uevents(),
            What::Metrics => return self.metrics(),
            _ => {}
        }
        self.serve_link(&request.link)?;
        let link = self.links.get_mut(&request.link).ok_or("it has no link")?;
        match request.what {
            What::Netdev => link.netdev(),
            What::Home => link.home(fds.pop().ok_or("no TAP has come with it")?),
            What::Queue => link.queue(fds.pop().ok_or("no TAP has come with it")?),
            What::Slot => link.slot(),
            What::Announcer => link.announcer(),
            What::VhostUser => link.vhost_user(&self.closer),
            What::VhostNet => link.vhost_net(),
            What::Uio => link.uio(),
            What::ForwardOn => link.forward(true),
            What::ForwardOff => link.forward(false),
            _ => Err("it is not for this".into()),
        }
    }

    /// Sees that the link with this name is among those that are served. One of a pattern is from the first
    /// request on, if its function is there.
    fn serve_link(&mut self, name: &str) -> Result<(), String> {
        if self.links.contains_key(name) {
            return Ok(());
        }
        let link = self.config.as_ref().and_then(|config| config.link_named(name));
        let link = link.ok_or_else(|| format!("the config has no link {name:?}"))?;
        if !self.functions.is_there(&link.transport) {
            return Err(format!("there is no function for {name}: {}", link.transport));
        }
        self.links.insert(link.name.clone(), Served::after(None, link));
        Ok(())
    }

    /// The file's text, so that both ends judge the same one.
    fn config(&mut self) -> Result<Granted, Refused> {
        if let Some(why) = &self.sealed {
            return Err(why.as_str().into());
        }
        let octets = Config::read(&self.file).map_err(|e| e.to_string())?;
        let copy = copy(&octets).map_err(|e| e.to_string())?;
        self.read = Config::from_octets(&self.file, octets, self.role).ok();
        Ok(copy.into())
    }

    fn adopt(&mut self) -> Result<Granted, Refused> {
        let config = self.read.take().ok_or("there is no config to adopt")?;
        if self.apart && lies_in(&self.file, config.control.parent()) {
            let why = "the config lies in the directory of the control socket, to which this daemon can \
                write: it takes a restart to read it again";
            tracing::warn!("{}: {why}", self.file.display());
            self.sealed = Some(why.to_owned());
        }
        let mut before = std::mem::take(&mut self.links);
        for link in &config.links {
            let served = Served::after(before.remove(&link.name), link.clone());
            self.links.insert(link.name.clone(), served);
        }
        // Of patterns.
        for (name, served) in before {
            if let Some(link) = config.link_named(&name) {
                self.links.insert(name, Served::after(Some(served), link));
            }
        }
        if self.config.as_ref().is_some_and(|was| was.metrics != config.metrics) {
            self.metrics = None;
        }
        self.config = Some(config);
        Ok(Granted::new(0, Vec::new()))
    }

    /// Listens where metrics are to be had, perhaps another time.
    fn metrics(&mut self) -> Result<Granted, Refused> {
        // Its own lock must not keep it out.
        self.metrics = None;
        let config = self.config.as_ref().ok_or("there is no config yet")?;
        let place = config.metrics.as_ref().ok_or("the config has no place for metrics")?;
        let (file, socket) = metrics::listen(place, &config.access)?;
        self.metrics = file;
        Ok(socket.into())
    }

    /// The functions of known kinds, none if the config has to do with none. Links of patterns without theirs
    /// are not served any more.
    fn functions(&mut self) -> Result<Granted, Refused> {
        let mut list = String::new();
        if let Some(config) = self.config.as_ref().filter(|config| config.has_functions()) {
            list = self.functions.list()?;
            let own = |name: &String| config.links.iter().any(|link| link.name == *name);
            let there = |link: &Served| self.functions.is_there(&link.config.transport);
            self.links.retain(|name, link| own(name) || there(link));
        }
        Ok(copy(list.as_bytes()).map_err(|e| e.to_string())?.into())
    }

    fn strays(&self) -> Result<Granted, Refused> {
        let strays = self.links.iter().filter(|(_, link)| link.is_stray());
        let list: String = strays.map(|(name, _)| format!("{name}\n")).collect();
        Ok(copy(list.as_bytes()).map_err(|e| e.to_string())?.into())
    }

    fn uevents(&self) -> Result<Granted, Refused> {
        let config = self.config.as_ref().filter(|config| config.has_functions());
        config.ok_or("the config has to do with no PCI function")?;
        Functions::uevents()
    }

    /// Takes a link's PCI function, or takes it again.
    fn function(&mut self, name: &str) -> Result<Granted, Refused> {
        self.serve_link(name)?;
        let link = self.links.get(name).ok_or("it has no link")?;
        let others = self.links.iter().filter(|(other, _)| *other != name);
        let others = others.map(|(_, link)| &link.config.transport);
        if self.apart {
            self.functions.outlive_daemon(true);
        }
        let granted = self.functions.take(name, &link.config.transport, others);
        if self.apart {
            self.functions.outlive_daemon(false);
        }
        granted
    }

    /// A link that the config does not have any more gives its function back as it ends.
    fn release(&mut self, name: &str) -> Result<Granted, Refused> {
        let released = self.functions.release(name);
        if self.apart {
            self.functions.outlive_daemon(false);
        }
        Ok(released.map(|()| Granted::new(0, Vec::new()))?)
    }

    /// Removes the sockets that are listened on, and gives back PCI functions.
    fn close(&mut self) -> Granted {
        self.functions.release_all();
        self.metrics = None;
        self.links.values_mut().for_each(|link| link.listening = None);
        Granted::new(0, Vec::new())
    }
}

/// A text as a file, at its start.
fn copy(octets: &[u8]) -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("boardlane-text", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(octets)?;
    file.rewind()?;
    Ok(file.into())
}

/// Whether a file lies in a directory, however deep.
fn lies_in(file: &Path, dir: Option<&Path>) -> bool {
    let dir = dir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (file.canonicalize(), dir.canonicalize()) {
        (Ok(file), Ok(dir)) => file.starts_with(dir),
        // The control socket's directory may not have been made yet: then nothing lies there.
        _ => false,
    }
}

impl Served {
    /// The link by a new config: a TAP that stays where it is stays open, and so does a socket.
    fn after(before: Option<Self>, config: LinkConfig) -> Self {
        let Some(Self { config: was, netdev, listening }) = before else {
            return Self { config, netdev: None, listening: None };
        };
        let netdev = netdev.filter(|_| was.netns == config.netns);
        let same = was.transport == config.transport && was.socket == config.socket;
        Self { config, netdev, listening: listening.filter(|_| same) }
    }

    fn slot(&self) -> Result<Granted, Refused> {
        match &self.config.transport {
            Transport::Shm(path) => match shm::dial(path) {
                Ok(socket) => Ok(socket.into()),
                Err(e) => Err(Refused { text: e.to_string(), absent: e.is_absence() }),
            },
            other => Err(format!("transport {other} has no slot").into()),
        }
    }

    fn vhost_user(&mut self, closer: &Closer) -> Result<Granted, Refused> {
        let Transport::VhostUser { path, how, .. } = &self.config.transport else {
            return Err(format!("transport {} is not vhost-user", self.config.transport).into());
        };
        match how {
            SocketSide::Client => match vhost_user::dial(path) {
                Ok(socket) => Ok(socket.into()),
                Err(e) => Err(Refused { text: e.to_string(), absent: e.is_absence() }),
            },
            SocketSide::Server => {
                let failed = |e: &dyn Display| format!("listening on {}: {e}", path.display());
                // Somebody may have removed it, or put another in its place.
                let there = self.listening.take_if(|listening| listening.file.is_there());
                // The lock of one that is gone must not keep this one out.
                self.listening = None;
                let listening = match there {
                    Some(listening) => listening,
                    None => {
                        let bound = SocketFile::bind(path, &self.config.socket);
                        let (file, listener) = bound.map_err(|e| failed(&e))?;
                        Listening { file, listener: closer.keep(listener) }
                    }
                };
                let Listening { listener, .. } = self.listening.insert(listening);
                let socket = listener.as_fd().try_clone_to_owned();
                Ok(socket.map_err(|e| failed(&e))?.into())
            }
        }
    }

    fn vhost_net(&self) -> Result<Granted, Refused> {
        if self.config.pump != Pump::VhostNet {
            return Err("the config does not have this link pumped by vhost-net".into());
        }
        Ok(vhost_net::open().map_err(|e| e.to_string())?.into())
    }

    #[cfg(feature = "uio")]
    fn uio(&self) -> Result<Granted, Refused> {
        let Transport::Uio { path, description } = &self.config.transport else {
            return Err(format!("transport {} has no UIO device", self.config.transport).into());
        };
        match uio::open(Path::new(uio::SYS), path, description) {
            Ok((file, layout)) => {
                Ok(Granted { index: 0, note: layout.to_string(), fds: vec![file] })
            }
            Err(e) => Err(Refused { text: e.to_string(), absent: e.is_absence() }),
        }
    }

    #[cfg(not(feature = "uio"))]
    fn uio(&self) -> Result<Granted, Refused> {
        Err("this program is built without UIO".into())
    }
}

//! The broker: a small process that keeps what a daemon gives up, and opens things for it.
//!
//! Theory of operation. Before a daemon has a second thread or has seen an octet of a peer, it starts
//! this program again as its broker, at the other end of a socket pair. Then it confines itself
//! ([`crate::os::confine`]) to what a taken-over daemon may have. What it cannot do any more, the
//! broker does: open TAPs and sockets in network namespaces, vhost-net, and the config file, connect to slots,
//! take PCI functions from their drivers. Results come back as descriptors.
//!
//! Invariants. A request names a link and one of a few things to be had of it (`protocol`), never a
//! path or a namespace: those the broker has from the config, which it reads itself; a link that the
//! config does not have is refused, and so is one of a pattern whose function is not there. A config that is
//! read again counts once the daemon, having looked at the same text, says so; so one that it refuses
//! changes nothing here either. One that the daemon could write itself, as it lies in the directory that it
//! is left, is read once. The broker looks at each message's form, and answers one at a time. What can linger in its closing, as peers have sent something
//! by it, is closed by threads that are there only for so long.
//!
//! It ends when the daemon does: its socket is closed then, and it asks to be killed, unless it has a PCI
//! function to give back first. Signals that end
//! a daemon are the daemon's to obey, so it ignores them. If it ends first, the daemon cannot heal its
//! links any more, and stops in an orderly way.
//!
//! Without the process, for debugging, the same is done within the daemon.

mod client;
#[cfg_attr(not(feature = "pci"), path = "functions/none.rs")]
mod functions;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use tokio::time::timeout;
use tracing::level_filters::LevelFilter;

#[cfg(feature = "pci")]
use super::config::Address;
use super::config::{Config, ConfigError};
use super::{Confine, Role};
use crate::os::confine::{Part, process};
#[cfg(feature = "pci")]
use crate::os::fabric::pci;
#[cfg(feature = "uio")]
use crate::os::fabric::uio;
use crate::os::netlink::{Netlink, Watch};
use crate::os::tap::{Owner, Tap};
use crate::os::{broker, child};
use client::{Client, LIMIT};
pub use protocol::Refused;
use protocol::{Request, What};
use server::{Granted, Server};

/// This program, also where its file has been replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A broker that nobody asks yet.
#[derive(Debug)]
pub struct Started {
    file: PathBuf,
    role: Role,
    /// Of the process, if it is one.
    socket: Option<OwnedFd>,
}

impl Started {
    /// Starts the broker for the config in `file`. The calling thread must be the process's only one,
    /// and live as long as it: the broker ends with it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn new(role: Role, file: &Path, confine: Confine) -> io::Result<Self> {
        let socket = confine.broker.then(|| start(role, file, confine)).transpose()?;
        Ok(Self { file: file.to_owned(), role, socket })
    }

    /// Makes it the broker that is asked; within a `LocalSet`.
    ///
    /// # Errors
    /// Its socket cannot be watched.
    pub fn attend(self) -> io::Result<Broker> {
        let how = match self.socket {
            Some(socket) => How::Process(Client::new(socket)?),
            None => How::Within(Rc::new(RefCell::new(Server::new(self.role, self.file.clone())))),
        };
        Ok(Broker { file: self.file, role: self.role, how })
    }
}

fn start(role: Role, file: &Path, confine: Confine) -> io::Result<OwnedFd> {
    let (ours, theirs) = broker::pair()?;
    let mut command = Command::new(THIS_PROGRAM);
    // To people it is the program that they have started.
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "boardlane".into()));
    command.arg("broker").arg(role.to_string()).arg("--config").arg(file);
    command.args(["--log", &LevelFilter::current().to_string().to_lowercase()]);
    let off = confine.off();
    if !off.is_empty() {
        command.args(["--no-confine", &off.join(",")]);
    }
    child::spawn(command.stdin(theirs), None)?;
    Ok(ours)
}

/// Is the broker of the daemon at the other end of standard input, until that ends.
///
/// # Errors
/// Standard input is no such thing, or fails.
pub fn serve(role: Role, file: &Path, confine: Confine) -> io::Result<()> {
    child::ignore_stops();
    // Started by way of a link, it bears the link's name; without another it works as well.
    let _ = rustix::thread::set_name(c"bl-broker");
    let confined = process(Part::Broker, None, confine.walls);
    for lack in confined.lacks {
        tracing::warn!("the broker is confined without {lack}");
    }
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    Server::new(role, file.to_owned()).serve(&socket)
}

/// What opens things for the links of a daemon. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Broker {
    file: PathBuf,
    role: Role,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Process(Rc<Client>),
    Within(Rc<RefCell<Server>>),
}

/// What a link's netdev is worked with.
#[derive(Debug)]
pub struct Opened {
    /// Nobody else's as long as this lives.
    pub owner: Owner,
    /// Its TAP, without carrier and offloads.
    pub tap: Tap,
    /// rtnetlink in its network namespace.
    pub netlink: Netlink,
    /// Notices from there.
    pub watch: Watch,
}

impl Broker {
    /// One within this process, whose PCI bus is made up.
    #[cfg(all(test, feature = "pci"))]
    pub fn with_bus(role: Role, file: &Path, bus: pci::Tree) -> Self {
        let mut server = Server::new(role, file.to_owned());
        server.functions.tree = bus;
        Self { file: file.to_owned(), role, how: How::Within(Rc::new(RefCell::new(server))) }
    }

    /// Reads the config file as it is now. The broker goes by it once it is [adopted](Self::adopt).
    ///
    /// # Errors
    /// It cannot be read, or all that is wrong in it.
    pub async fn config(&self) -> Result<Config, ConfigError> {
        let file = self.file.display().to_string();
        let unread = |error| ConfigError::Read { file: file.clone(), error };
        let granted = self.ask(What::Config, "", &[]).await.and_then(one);
        let mut octets = Vec::new();
        File::from(granted.map_err(|e| unread(io::Error::other(e.text)))?)
            .read_to_end(&mut octets)
            .map_err(unread)?;
        Config::from_octets(&self.file, octets, self.role)
    }

    /// The config that was read last is the one to go by. When no answer has come in time, the broker may
    /// still do it later; the next config that is read and adopted then sets both right.
    ///
    /// # Errors
    /// There is none, the broker is gone, or it has not answered in time.
    pub async fn adopt(&self) -> Result<(), String> {
        self.ask(What::Adopt, "", &[]).await.map(drop).map_err(|e| e.text)
    }

    /// Makes or adopts a link's TAP.
    pub async fn netdev(&self, link: &str) -> Result<Opened, String> {
        let granted = self.ask(What::Netdev, link, &[]).await;
        let Granted { index, mut fds, .. } = granted.map_err(|e| e.text)?;
        let right = (fds.len() > 3).then(|| fds.pop()).flatten();
        let owner = Owner::from_fd(right).map_err(|e| format!("the netdev's name: {e}"))?;
        let [tap, route, watch] = fds.try_into().map_err(|_| "three descriptors are missing")?;
        Ok(Opened {
            owner,
            tap: Tap::from_parts(tap, link, index),
            netlink: Netlink::over(route).map_err(|e| e.to_string())?,
            watch: Watch::over(watch).map_err(|e| e.to_string())?,
        })
    }

    /// Opens another queue of a link's TAP.
    pub async fn queue(&self, link: &str, tap: &Tap) -> Result<Tap, String> {
        let granted = self.ask(What::Queue, link, &[tap.as_fd()]).await.map_err(|e| e.text)?;
        let index = granted.index;
        Ok(Tap::from_parts(one(granted).map_err(|e| e.text)?, link, index))
    }

    /// Has the netdev of a link's TAP be in its network namespace again, by its name: its index there; `None`
    /// if the kernel does not tell where it is.
    pub async fn home(&self, link: &str, tap: &Tap) -> Result<Option<u32>, String> {
        let granted = self.ask(What::Home, link, &[tap.as_fd()]).await.map_err(|e| e.text)?;
        Ok(Some(granted.index).filter(|index| *index != 0))
    }

    /// The links whose network namespace has gone, or is another one now.
    pub async fn strays(&self) -> Result<Vec<String>, Refused> {
        let text = text(self.ask(What::Strays, "", &[]).await?)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Connects to a link's slot.
    pub async fn slot(&self, link: &str) -> Result<OwnedFd, Refused> {
        one(self.ask(What::Slot, link, &[]).await?)
    }

    /// The socket of a vhost-user link: one that listens
    /// ([`Listener`](crate::os::fabric::vhost_user::connection::Listener)), or is connected
    /// ([`Connection`](crate::os::fabric::vhost_user::connection::Connection)), as the config has it.
    pub async fn vhost_user(&self, link: &str) -> Result<OwnedFd, Refused> {
        one(self.ask(What::VhostUser, link, &[]).await?)
    }

    /// Removes the sockets that links listen on, as the daemon stops in an orderly way. Those of a daemon
    /// that was killed are replaced by the next one.
    pub async fn close(&self) {
        // Without a broker nobody is left to do it, and one that hangs may have others' requests before it.
        let _ = timeout(LIMIT, self.ask(What::Close, "", &[])).await;
    }

    /// A socket that sends by netdevs of a link's network namespace.
    pub async fn announcer(&self, link: &str) -> Result<socket2::Socket, String> {
        let granted = self.ask(What::Announcer, link, &[]).await.and_then(one);
        granted.map(Into::into).map_err(|e| e.text)
    }

    /// Has packets that come by a link's netdev forwarded by IPv6, or not; `false` if nothing had to be
    /// done for that.
    pub async fn forward(&self, link: &str, on: bool) -> Result<bool, String> {
        let what = if on { What::ForwardOn } else { What::ForwardOff };
        let granted = self.ask(what, link, &[]).await.map_err(|e| e.text)?;
        Ok(!granted.note.is_empty())
    }

    /// Opens a device of the kernel's vhost-net for a queue pair of a link.
    pub async fn vhost_net(&self, link: &str) -> Result<OwnedFd, String> {
        self.ask(What::VhostNet, link, &[]).await.and_then(one).map_err(|e| e.text)
    }

    /// Opens a link's UIO device: its file, which nobody else has as long as that is open, and what lies
    /// where in it.
    #[cfg(feature = "uio")]
    pub async fn uio(&self, link: &str) -> Result<(OwnedFd, uio::Layout), Refused> {
        let granted = self.ask(What::Uio, link, &[]).await?;
        let layout = granted.note.parse().map_err(|e: uio::UioError| e.to_string())?;
        Ok((one(granted)?, layout))
    }

    /// Makes a link's PCI function usable and opens it: what it is, and its descriptors.
    #[cfg(feature = "pci")]
    pub async fn function(&self, link: &str) -> Result<pci::Opened, Refused> {
        let Granted { note, fds, .. } = self.ask(What::Function, link, &[]).await?;
        Ok(pci::Opened { told: note.parse().map_err(|e: pci::PciError| e.to_string())?, fds })
    }

    /// Has the PCI function that a link had be as it was before, once the link has closed it.
    #[cfg(feature = "pci")]
    pub async fn release(&self, link: &str) -> Result<(), String> {
        self.ask(What::Release, link, &[]).await.map(drop).map_err(|e| e.text)
    }

    /// The PCI functions of known kinds that are there, lowest first.
    #[cfg(feature = "pci")]
    pub async fn functions(&self) -> Result<Vec<Address>, Refused> {
        let text = text(self.ask(What::Functions, "", &[]).await?)?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// A socket that hears of functions that come and go
    /// ([`Uevents`](crate::os::uevent::Uevents)).
    #[cfg(feature = "pci")]
    pub async fn uevents(&self) -> Result<OwnedFd, Refused> {
        one(self.ask(What::Uevents, "", &[]).await?)
    }

    /// Whether it answers what it is asked.
    ///
    /// # Errors
    /// Not in time, or it is gone.
    pub async fn answers(&self) -> Result<(), String> {
        self.ask(What::Alive, "", &[]).await.map(drop).map_err(|e| e.text)
    }

    /// The socket that listens where the config has metrics.
    #[cfg(feature = "metrics")]
    pub async fn metrics(&self) -> Result<OwnedFd, Refused> {
        one(self.ask(What::Metrics, "", &[]).await?)
    }

    /// Waits until there is no broker any more.
    pub async fn lost(&self) {
        match &self.how {
            How::Process(client) => client.lost().await,
            How::Within(_) => std::future::pending().await,
        }
    }

    async fn ask(
        &self,
        what: What,
        link: &str,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Granted, Refused> {
        match &self.how {
            How::Process(client) => client.ask(what, link, fds).await,
            How::Within(server) => {
                let request = Request { number: 0, what, link: link.to_owned() };
                let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>();
                server.borrow_mut().handle(&request, fds.map_err(|e: io::Error| e.to_string())?)
            }
        }
    }
}

fn one(granted: Granted) -> Result<OwnedFd, Refused> {
    let [fd] = granted.fds.try_into().map_err(|_| "one descriptor is missing")?;
    Ok(fd)
}

/// A text that has come as a file.
fn text(granted: Granted) -> Result<String, Refused> {
    let mut text = String::new();
    File::from(one(granted)?).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

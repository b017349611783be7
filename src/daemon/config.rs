//! The config file: `agent.toml` and `master.toml` have the same keys.
//!
//! The file is read into a tree in which each key and value knows where it stands; a walk over the
//! tree takes each value once, checks it, and notes each problem with its place and its remedy. A
//! [`Config`] exists only if there was no problem, so who has one need not check again. Nothing here
//! looks at the system, but for the numbers of users and groups: otherwise the same file gives the
//! same answer everywhere.
//!
//! A key that this version does not work on yet is refused, never ignored.

mod cpu;
mod defaults;
mod expand;
mod ip;
mod layout;
mod limits;
mod link;
mod metrics;
mod netdev;
#[cfg_attr(not(feature = "pci"), path = "config/pattern/none.rs")]
mod pattern;
mod pool;
mod problem;
mod pump;
mod reader;
mod slots;
#[cfg(test)]
mod tests;
mod transport;
#[cfg_attr(not(feature = "uio"), path = "config/uio/none.rs")]
mod uio;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::Role;
use crate::os::access::{Access, Owner};
pub use crate::plan::{IpPrefix, Route};
use crate::tunnel::message::Dialect;
use crate::tunnel::part::Layout;
pub use metrics::{Metrics, SOCKET_END as METRICS_END};
pub use netdev::{NetdevKeys, VlanConfig};
pub use pattern::{Address, Pattern};
pub use problem::{ConfigError, Problem};
use reader::Reader;

/// Least MTU of a link, in bytes (IPv4's, RFC 791).
pub const MTU_MIN: u16 = 68;
/// Greatest MTU of a link, in bytes: with the Ethernet header it stays below 64 KiB.
pub const MTU_MAX: u16 = 65521;
/// Least MTU that IPv6 works with, in bytes (RFC 8200 §5).
pub const MTU_MIN_IPV6: u16 = 1280;
/// Default of `heartbeat_ms`, in milliseconds.
pub const HEARTBEAT_MS: u32 = 250;
/// Default of `busy_poll_us`, in microseconds: a round trip between two machines that look, and to spare.
const BUSY_POLL_US: u32 = 50;
/// Where the daemons of this machine have their sockets.
pub const RUN_DIR: &str = "/run/boardlane";

/// A larger file is no config.
const FILE_MAX: u64 = 1 << 20;

/// A checked config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Path of the daemon's control socket.
    pub control: PathBuf,
    /// Who may connect to it.
    pub access: Access,
    /// Where the daemon's metrics are to be had, if anywhere.
    pub metrics: Option<Metrics>,
    /// The links with an entry of their own, in the file's order.
    pub links: Vec<LinkConfig>,
    /// Entries that stand for many links; with the links, at least one.
    pub patterns: Vec<Pattern>,
}

/// One link, as `[[link]]` asks for it. `None` means that the file does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Name of the netdev: 1 to 15 bytes, unique in the file.
    pub name: String,
    /// How the other end is reached; unique in the file.
    pub transport: Transport,
    /// Who may connect to the socket that the transport has this end make.
    pub socket: Access,
    /// The netdev's addresses; unique within a network namespace.
    pub addresses: Vec<crate::plan::Address>,
    /// Routes through the netdev.
    pub routes: Vec<Route>,
    /// What else the netdev is to be.
    pub netdev: NetdevKeys,
    /// Number of the slot; otherwise the transport gives it.
    pub slot: Option<u32>,
    /// The netdev's MAC address; otherwise it is derived.
    pub mac: Option<[u8; 6]>,
    /// The netdev's MTU, in bytes, [`MTU_MIN`] to [`MTU_MAX`]; otherwise the operator's.
    pub mtu: Option<u16>,
    /// Its admin state; without it the operator's, and up when it is made.
    pub up: Option<bool>,
    /// Most queue pairs, 1 to [`QUEUES_MAX`].
    pub queues: u16,
    /// The network namespace that the netdev lives in; otherwise the daemon's.
    pub netns: Option<Netns>,
    /// Where frames go and come from.
    pub port: Port,
    /// The CPUs that workers run on, each up to [`CPU_MAX`](crate::os::affinity::CPU_MAX): that of a queue
    /// pair on the entry of its number, from the start again after the last. None: on any.
    pub cpu: Vec<u32>,
    /// Who copies the payload.
    pub dma: Dma,
    /// Who moves frames between rings and netdev.
    pub pump: Pump,
    /// What the engine is like, where one copies.
    pub engine: EngineConfig,
    /// How the two ends of the link lay out the window.
    pub layout: Layout,
    /// What they speak; "v1" with the layout "amp-pci".
    pub dialect: Dialect,
    /// Feature names that are neither offered nor accepted.
    pub features_off: Vec<String>,
    /// Whether the netdev stays when the daemon stops.
    pub keep: bool,
    /// Interval of the heartbeat, in milliseconds.
    pub heartbeat_ms: u32,
    /// Longest look for an answer before a worker sleeps, in microseconds.
    pub busy_poll_us: u32,
    /// MAC addresses that the other end may have; any if empty. At most [`ALLOW_MAX`].
    pub allow_mac: Vec<[u8; 6]>,
    /// Addresses and networks that the other end may have; any if empty. At most [`ALLOW_MAX`].
    pub allow_ip: Vec<IpPrefix>,
    /// How much the other end may send.
    pub rate: Option<RateConfig>,
}

impl LinkConfig {
    /// The slot's number: what the config says, or the socket's name such as `slot7.sock`, or where on
    /// the bus its function is, or the link's place among the file's, from 0.
    pub fn slot_at(&self, place: usize) -> u32 {
        self.known_slot().unwrap_or_else(|| u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// The slot's number, if the link itself tells it.
    pub fn known_slot(&self) -> Option<u32> {
        self.slot.or_else(|| match &self.transport {
            Transport::Shm(path) => slot_of_socket(path),
            other => pattern::slot(other),
        })
    }
}

/// The number of the slot that has this socket, such as `slot7.sock`.
fn slot_of_socket(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.strip_prefix("slot")?.parse().ok()
}

/// What the other end may send in a second, with one limit at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateConfig {
    /// Bits, within [`rate::BITS`](crate::net::rate::BITS).
    pub bits: Option<u64>,
    /// Frames, within [`rate::FRAMES`](crate::net::rate::FRAMES).
    pub frames: Option<u32>,
}

/// Most entries of `allow_mac` and of `allow_ip`.
pub const ALLOW_MAX: usize = 1024;

/// Greatest number of queue pairs.
pub const QUEUES_MAX: u16 = 16;

/// How the other end of a link is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A slot socket of a backplane on this machine.
    Shm(PathBuf),
    /// A board's function on a PCI bus.
    #[cfg(feature = "pci")]
    Pci(crate::os::fabric::pci::Wanted),
    /// A UIO device of this machine's kernel.
    #[cfg(feature = "uio")]
    Uio {
        /// The device's file.
        path: PathBuf,
        /// What its maps and registers are.
        description: crate::os::fabric::uio::Description,
    },
    /// A vhost-user socket: an agent is the back-end, a master the front-end.
    VhostUser {
        /// The socket's path.
        path: PathBuf,
        /// What this end does with it.
        how: SocketSide,
        /// Without the feature there is no such link.
        built: VhostUser,
    },
}

/// That this program has the transport vhost-user:. Without the feature nothing is of this type, and the
/// compiler leaves out what would need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg(feature = "vhost-user")]
pub struct VhostUser;
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg(not(feature = "vhost-user"))]
pub enum VhostUser {}

/// What an end of a connection does with the socket by which both meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketSide {
    /// It makes the socket, and waits for one who connects; a second one waits until that one is gone.
    Server,
    /// It connects.
    Client,
}

impl fmt::Display for SocketSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shm(path) => write!(f, "shm:{}", path.display()),
            #[cfg(feature = "pci")]
            Self::Pci(wanted) => write!(f, "pci:{wanted}"),
            #[cfg(feature = "uio")]
            Self::Uio { path, .. } => write!(f, "uio:{}", path.display()),
            Self::VhostUser { path, how, .. } => write!(f, "vhost-user:{}?{how}", path.display()),
        }
    }
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Netns {
    /// Its name, as in `ip netns`.
    Name(String),
    /// A file that stands for it.
    Path(PathBuf),
    /// A process that lives in it.
    Pid(u32),
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "{pid}"),
        }
    }
}

/// Where a link's frames go at this end, and where its own come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Port {
    /// To and from a netdev.
    #[default]
    Tap,
    /// Nowhere: they are counted. None come.
    Discard,
    /// Back to the other end.
    Echo,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Discard => "discard",
            Self::Echo => "echo",
        })
    }
}

/// Who copies a link's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dma {
    /// The best way that the transport has.
    #[default]
    Auto,
    /// System calls straight to and from shared memory.
    Direct,
    /// The board's DMA engine, for which a part of this program stands. The master never copies.
    Engine,
}

impl fmt::Display for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Engine => "engine",
        })
    }
}

/// Who moves a link's frames between its rings and its netdev.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pump {
    /// A thread of this program.
    #[default]
    Builtin,
    /// The kernel's vhost-net, where it is there; at an agent.
    VhostNet,
}

impl fmt::Display for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Builtin => "builtin",
            Self::VhostNet => "vhost-net",
        })
    }
}

/// What the built-in DMA engine is like, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Transfers that may be under way at once.
    pub depth: u16,
    /// Time that a transfer takes beyond its copy, in microseconds.
    pub latency_us: u32,
    /// Megabytes (10⁶ bytes) per second; 0: as fast as the CPU copies.
    pub bandwidth_mb_s: u32,
    /// Of a million transfers, how many fail.
    pub error_ppm: u32,
    /// Frames shorter than this many bytes, virtio-net header included, are copied by the CPU.
    pub cpu_below: u32,
    /// The engine alone reaches driver memory: its frames are never copied by the CPU, and rings and
    /// messages to the master lie in the window.
    pub dma_only: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            depth: 32,
            latency_us: 0,
            bandwidth_mb_s: 0,
            error_ppm: 0,
            cpu_below: 256,
            dma_only: false,
        }
    }
}

impl Role {
    /// Where a daemon of this role has its control socket, if the config does not say.
    pub fn default_control(self) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{self}.sock"))
    }

    /// The role that a config file's name speaks of: an agent's has "agent" in it.
    pub fn of_file(file: &Path) -> Self {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.contains("agent") { Self::Agent } else { Self::Master }
    }
}

impl Config {
    /// Reads and checks the config in `file`.
    ///
    /// # Errors
    /// The file cannot be read, or all that is wrong in it.
    pub fn load(file: &Path, role: Role) -> Result<Self, ConfigError> {
        let unread = |error| ConfigError::Read { file: file.display().to_string(), error };
        Self::from_octets(file, Self::read(file).map_err(unread)?, role)
    }

    /// What is in `file`, as far as a config may be long, and somewhat more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &Path) -> std::io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        std::fs::File::open(file)?.take(FILE_MAX + 1).read_to_end(&mut octets)?;
        Ok(octets)
    }

    /// Checks what was [read](Self::read) from `file`.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn from_octets(file: &Path, octets: Vec<u8>, role: Role) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        if u64::try_from(octets.len()).is_ok_and(|len| len > FILE_MAX) {
            return Err(ConfigError::TooLarge { file: name });
        }
        match String::from_utf8(octets) {
            Ok(text) => Self::parse(&name, &text, role),
            Err(error) => Err(ConfigError::not_utf8(&name, &error)),
        }
    }

    /// Checks the config `text`; `file` is its name in messages.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(file: &str, text: &str, role: Role) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                reader.syntax(&error);
            }
            return Err(reader.into_error(file));
        }
        let root = root.get_ref();
        reader.known_keys(root, reader::TOP);
        let control = reader.string(root, "control").and_then(|(value, span)| {
            let path = PathBuf::from(value);
            reader.socket_path(&path, &span).then_some(path)
        });
        let access = transport::read_access(&mut reader, root, "control_mode", "control_owner");
        let control = control.unwrap_or_else(|| role.default_control());
        let metrics = metrics::read(&mut reader, root, &control);
        let (links, patterns) = slots::read_links(&mut reader, root, role);
        if reader.problems() > 0 {
            return Err(reader.into_error(file));
        }
        Ok(Self { control, access, metrics, links, patterns })
    }
}

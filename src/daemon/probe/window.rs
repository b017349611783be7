//! What a window says, as `boardlane probe` shows it and as a daemon answers it.
//!
//! The JSON is a contract: names and types stay, later versions only add.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::spec::window as w;
use crate::tunnel::inspect::{self, Header};
use crate::tunnel::part::{MemoryEntry, Role};

/// What a link's daemon says of its window and queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkProbe {
    /// Its window, where it has one and is attached to it.
    pub window: Option<Window>,
    /// The queues that the driver has set up, by index.
    pub queues: Vec<Queue>,
}

/// What the first line of a window comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A header of this program's layout.
    Good,
    /// No agent has written here.
    Empty,
    /// All ones.
    Dead,
    /// A header of another layout version.
    Version,
    /// No window of ours.
    Other,
}

/// A window's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Whether the rest means anything.
    pub content: Content,
    /// Its first word.
    pub magic: u64,
    /// The layout version.
    pub layout: u32,
    /// The header's length in bytes.
    pub header_len: u32,
    /// The window's length in bytes.
    pub len: u64,
    /// Names of the flags that are set; one without a name is `bitN`.
    pub flags: Vec<String>,
    /// The slot's number, as the master says.
    pub slot: Option<u32>,
    /// The board's end.
    pub board: Option<Part>,
    /// The master's end.
    pub master: Option<Part>,
    /// Whether both ends run with each other.
    pub up: bool,
    /// The messages to the board, while both ends run with each other.
    pub to_board: Option<Fill>,
    /// The messages to the master, likewise.
    pub to_master: Option<Fill>,
    /// The memory table.
    pub memory: Vec<Memory>,
}

/// Whether an owner is on the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is.
    Attached,
    /// It is not.
    Gone,
    /// This transport does not tell.
    Unknown,
}

/// One end's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// "init", "ready", "run", "shutdown", or a number that means nothing.
    pub state: String,
    /// Its epoch.
    pub epoch: u32,
    /// The epoch of the other end that it runs with, or 0.
    pub echo: u32,
    /// Its heartbeats, modulo 2^32.
    pub heartbeat: u32,
    /// Whether the heartbeat moved between two looks, if there were two.
    pub moves: Option<bool>,
    /// Its id on the transport.
    pub owner: u32,
    /// Whether that is there.
    pub presence: Presence,
    /// Whether the part has an owner: the nonce is not 0.
    pub held: bool,
    /// Vectors that it listens on; 0: it polls.
    pub vectors: u32,
    /// Where messages to it go.
    pub mailbox: Place,
    /// How many messages that holds.
    pub slots: u32,
    /// Names of its flags that are set: "mute", it can ring nobody; one without a name is `bitN`.
    pub flags: Vec<String>,
}

/// Where something lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its bus address.
    pub addr: u64,
    /// "window" or "driver memory"; null if it is neither.
    pub memory: Option<String>,
}

/// The messages one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Put in so far, modulo 2^32.
    pub put: u32,
    /// Taken out so far, modulo 2^32.
    pub taken: u32,
    /// How many wait; null if the counts do not fit each other.
    pub waiting: Option<u32>,
}

/// An entry of the memory table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// "window" or "driver memory", or a number that means nothing.
    pub kind: String,
    /// Its first bus address.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// "receiveq0", "transmitq0", .., "controlq".
    pub name: String,
    /// Its index.
    pub index: u16,
    /// Its size in entries.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub enabled: bool,
    /// Its descriptors.
    pub descriptors: Place,
    /// The driver area: the available ring, or the driver's event suppression.
    pub driver_area: Place,
    /// The device area: the used ring, or the device's event suppression.
    pub device_area: Place,
}

/// The memories of a link, as bus addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memories {
    /// The window.
    pub window: Range<u64>,
    /// Driver memory.
    pub driver: Range<u64>,
}

impl Memories {
    /// Where a bus address lies.
    pub fn place(&self, addr: u64) -> Place {
        let both = [(&self.window, w::MEMORY_WINDOW), (&self.driver, w::MEMORY_DRIVER)];
        let found = both.into_iter().find(|(range, _)| range.contains(&addr));
        Place { addr, memory: found.map(|(_, kind)| memory_name(kind)) }
    }
}

impl Window {
    /// What `header` says; `presence` tells of an end's owner whether it is there.
    pub fn new(
        header: &Header,
        memories: &Memories,
        presence: &dyn Fn(Role, u32) -> Presence,
    ) -> Self {
        let ends = header.ends.as_ref();
        let part = |role, part: &inspect::Part| Part {
            state: state_name(part.state),
            epoch: part.epoch,
            echo: part.echo,
            heartbeat: part.heartbeat,
            moves: None,
            owner: part.owner,
            presence: presence(role, part.owner),
            held: part.held,
            vectors: part.vectors,
            mailbox: memories.place(part.mailbox),
            slots: part.slots,
            flags: flag_names(part.flags, w::PART_MUTE, "mute"),
        };
        let fill = |fill: inspect::Fill| Fill {
            put: fill.put,
            taken: fill.taken,
            waiting: fill.waiting(),
        };
        let [to_board, to_master] =
            ends.map_or([None; 2], inspect::Ends::fills).map(|way| way.map(fill));
        let memory = |entry: &MemoryEntry| Memory {
            kind: memory_name(entry.kind),
            addr: entry.bus_addr,
            len: entry.len,
        };
        Self {
            content: header.content().into(),
            magic: header.magic,
            layout: header.version,
            header_len: header.header_len,
            len: header.window_len,
            flags: flag_names(header.flags, w::FLAG_DMA_ONLY, "dma_only"),
            slot: ends.filter(|ends| ends.driver.held).map(|ends| ends.slot),
            board: ends.map(|ends| part(Role::Device, &ends.device)),
            master: ends.map(|ends| part(Role::Driver, &ends.driver)),
            up: ends.is_some_and(inspect::Ends::are_up),
            to_board,
            to_master,
            memory: ends.map(|ends| ends.memory.iter().map(memory).collect()).unwrap_or_default(),
        }
    }

    /// Both ends, the board's first.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.board.iter().chain(&self.master)
    }

    /// Takes an earlier look into account. An end whose heartbeat moves is there, though the transport has
    /// not told of it yet.
    pub fn compare(&mut self, earlier: &Self) {
        let pairs = [(&mut self.board, &earlier.board), (&mut self.master, &earlier.master)];
        for (now, then) in pairs {
            if let (Some(now), Some(then)) = (now, then) {
                let moves = (now.epoch, now.heartbeat) != (then.epoch, then.heartbeat);
                now.moves = Some(moves);
                if moves && now.beats() {
                    now.presence = Presence::Attached;
                }
            }
        }
    }
}

impl Part {
    /// Whether its heartbeat is to move.
    pub fn beats(&self) -> bool {
        self.held && ["ready", "run"].contains(&&*self.state)
    }
}

impl From<inspect::Content> for Content {
    fn from(content: inspect::Content) -> Self {
        match content {
            inspect::Content::Good => Self::Good,
            inspect::Content::Empty => Self::Empty,
            inspect::Content::Dead => Self::Dead,
            inspect::Content::Version(_) => Self::Version,
            inspect::Content::Other(_) => Self::Other,
        }
    }
}

fn state_name(state: u32) -> String {
    match state {
        w::STATE_INIT => "init".into(),
        w::STATE_READY => "ready".into(),
        w::STATE_RUN => "run".into(),
        w::STATE_SHUTDOWN => "shutdown".into(),
        other => other.to_string(),
    }
}

fn memory_name(kind: u32) -> String {
    match kind {
        w::MEMORY_WINDOW => "window".into(),
        w::MEMORY_DRIVER => "driver memory".into(),
        other => other.to_string(),
    }
}

/// The flags that are set, of which one has a name.
fn flag_names(flags: u32, known: u32, name: &str) -> Vec<String> {
    let name = |bit: u32| if 1 << bit == known { name.to_owned() } else { format!("bit{bit}") };
    (0..u32::BITS).filter(|bit| flags & 1 << bit != 0).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORIES: Memories = Memories { window: 0..0x4000, driver: 0x4000..0x1_0000 };

    #[test]
    fn an_address_lies_in_one_memory_or_in_none() {
        let memory = |addr| MEMORIES.place(addr).memory;
        assert_eq!(memory(0x3fff).as_deref(), Some("window"));
        assert_eq!(memory(0x4000).as_deref(), Some("driver memory"));
        assert_eq!(memory(0x1_0000), None);
    }

    #[test]
    fn a_heartbeat_that_moves_is_that_of_an_end_that_is_there() {
        let window = crate::daemon::probe::tests::window();
        for (held, beats, presence) in
            [(true, 1, Presence::Attached), (true, 0, Presence::Gone), (false, 1, Presence::Gone)]
        {
            let mut later = window.clone();
            let board = later.board.as_mut().unwrap();
            (board.held, board.presence) = (held, Presence::Gone);
            board.heartbeat += beats;
            later.compare(&window);
            let board = later.board.unwrap();
            assert_eq!((board.moves, board.presence), (Some(beats > 0), presence));
            assert_eq!(later.master.unwrap().moves, Some(false));
        }
    }

    #[test]
    fn flags_states_and_kinds_without_a_name_are_shown_as_they_are() {
        assert_eq!(flag_names(0, 1, "mute"), [""; 0]);
        assert_eq!(flag_names(1 << 31 | 2, 2, "mute"), ["mute", "bit31"]);
        assert_eq!([state_name(2), state_name(77)], ["run", "77"]);
        assert_eq!([memory_name(2), memory_name(9)], ["driver memory", "9"]);
    }
}

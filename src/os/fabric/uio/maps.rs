//! What sysfs tells of a UIO device, and what follows for a link.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{fstat, major, minor};

use super::{Description, UioError};
use crate::os::fabric::mapped::page_size;
#[cfg(feature = "pci")]
use crate::os::fabric::pci::{BoardKind, KINDS};
use crate::os::fabric::{MAX_SLOT_LEN, MIN_SLOT_LEN};

/// Most maps of a device. Linux has 5.
pub const MAPS_MAX: u8 = 16;

/// A map of a UIO device, as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its number.
    pub number: u8,
    /// Its name, which may be empty.
    pub name: String,
    /// Where it is on the board's bus.
    pub addr: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where in its first page it begins, in bytes.
    pub offset: u64,
}

impl Map {
    /// Bytes that can be mapped: the kernel maps whole pages of it.
    pub fn len(&self) -> u64 {
        let pages = self.size - self.size % page();
        pages.saturating_sub(self.offset)
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "map {} (without a name)", self.number),
            name => write!(f, "map {} ({name:?})", self.number),
        }
    }
}

/// How a config names a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKey {
    /// By its name.
    Name(String),
    /// By its number.
    Number(u8),
}

impl fmt::Display for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// A part of what the device's file maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where in the file it begins, in bytes, at the start of a page.
    pub offset: u64,
    /// Its length in bytes, whole pages.
    pub len: u64,
}

/// What is written to a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingValue {
    /// This for the first vector, and so much more for each further one, whoever is rung.
    Steps(u32, u32),
    /// What the kind at this place of the table of kinds says.
    OfKind(u32),
}

/// The registers by which this end rings, and by which it says that it has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The map that they are in.
    pub place: Place,
    /// Where in it the doorbell is, in bytes.
    pub doorbell: u32,
    /// What rings.
    pub value: RingValue,
    /// Where the register is that takes the interrupt back, and what is written to it; it is read if
    /// that is `None`.
    pub clear: Option<(u32, Option<u32>)>,
}

/// What lies where in a device's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The window; with driver memory behind it if that has no place of its own.
    pub window: Place,
    /// Driver memory.
    pub driver_memory: Option<Place>,
    /// Registers; without them the other end has to poll.
    pub registers: Option<Registers>,
}

/// Stands for what is not there.
const NONE: u64 = u64::MAX;

impl Layout {
    /// What the device with this open file has for a link, as sysfs below `sys` tells. `device` is its path.
    ///
    /// # Errors
    /// It is no UIO device; it does not have what the link needs.
    pub(super) fn read(
        sys: &Path,
        device: &Path,
        file: impl AsFd,
        wanted: &Description,
    ) -> Result<Self, UioError> {
        let not_uio = || UioError::NotUio(device.to_owned());
        let node = device.canonicalize().map_err(|e| UioError::Os(device.to_owned(), e))?;
        let name = node.file_name().filter(|name| is_uio(&name.to_string_lossy()));
        let home = sys.join("class/uio").join(name.ok_or_else(not_uio)?);
        let number = match text(&home.join("dev")) {
            Err(UioError::Unreadable(_, e)) if e.kind() == ErrorKind::NotFound => {
                return Err(not_uio());
            }
            number => number?,
        };
        let node = fstat(file).map_err(|e| UioError::Os(device.to_owned(), e.into()))?.st_rdev;
        if number != format!("{}:{}", major(node), minor(node)) {
            return Err(not_uio());
        }
        let maps = read_maps(&home)?;
        // Who names maps knows better.
        #[cfg(feature = "pci")]
        if wanted.window.is_none() {
            if let Some(layout) = of_kind(&home.join("device"), &maps)? {
                return Ok(layout);
            }
        }
        Self::described(&maps, wanted)
    }

    /// By what the config says, and the names that it need not say.
    fn described(maps: &[Map], wanted: &Description) -> Result<Self, UioError> {
        let needed = |key, asked: &Option<MapKey>, name: &str| {
            let by_name = || MapKey::Name(name.to_owned());
            let wanted = asked.clone().unwrap_or_else(by_name);
            find(maps, &wanted)?.ok_or(UioError::NoMap { key, wanted, there: maps.to_vec() })
        };
        // Whoever has not asked for a map need not have it.
        let optional = |key, asked: &Option<MapKey>, name: &str| match needed(key, asked, name) {
            Err(UioError::NoMap { .. }) if asked.is_none() => Ok(None),
            found => found.map(Some),
        };
        let window = needed("window", &wanted.window, "window")?;
        let driver_memory = optional("driver_memory", &wanted.driver_memory, "driver-memory")?;
        let doorbell = optional("doorbell", &wanted.doorbell, "doorbell")?;
        // A part alone has a length of 32 bits.
        let (least, most) = match driver_memory {
            Some(_) => (MIN_SLOT_LEN / 4, MAX_SLOT_LEN - 1),
            None => (MIN_SLOT_LEN, MAX_SLOT_LEN),
        };
        let registers = doorbell.map(|map| {
            let clear = wanted.clear_offset.map(|at| register(map, "clear_offset", at));
            Ok(Registers {
                place: whole(map),
                doorbell: register(map, "doorbell_offset", wanted.doorbell_offset)?,
                value: RingValue::Steps(wanted.doorbell_value, wanted.doorbell_step),
                clear: clear.transpose()?.map(|at| (at, wanted.clear_value)),
            })
        });
        Ok(Self {
            window: place(window, "window", (least, most))?,
            driver_memory: driver_memory
                .map(|map| place(map, "driver_memory", (MIN_SLOT_LEN / 4, most)))
                .transpose()?,
            registers: registers.transpose()?,
        })
    }
}

/// For another process of this program: numbers.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |place: Option<Place>| place.map_or([NONE, NONE], |p| [p.offset, p.len]);
        let ring = self.registers.map_or([NONE; 3], |r| {
            let [value, step] = match r.value {
                RingValue::Steps(value, step) => [value, step].map(u64::from),
                RingValue::OfKind(kind) => [u64::from(kind), NONE],
            };
            [u64::from(r.doorbell), value, step]
        });
        let clear = self.registers.and_then(|r| r.clear);
        let clear =
            clear.map_or([NONE; 2], |(at, value)| [at.into(), value.map_or(NONE, u64::from)]);
        let Place { offset, len } = self.window;
        write!(f, "{offset} {len}")?;
        let places = [place(self.driver_memory), place(self.registers.map(|r| r.place))];
        let rest = places.as_flattened().iter().chain(&ring).chain(&clear);
        rest.into_iter().try_for_each(|number| write!(f, " {number}"))
    }
}

impl FromStr for Layout {
    type Err = UioError;

    fn from_str(text: &str) -> Result<Self, UioError> {
        let numbers: Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
        let numbers = numbers.ok().and_then(|numbers| numbers.try_into().ok());
        numbers.and_then(Self::of_numbers).ok_or(UioError::BadLayout)
    }
}

impl Layout {
    fn of_numbers(numbers: [u64; 11]) -> Option<Self> {
        let place = |at: usize| {
            let (offset, len) = (numbers[at], numbers[at + 1]);
            (offset != NONE).then_some(Place { offset, len })
        };
        let half = |number: u64| u32::try_from(number).ok();
        let registers = |place| {
            let value = half(numbers[7])?;
            let value = match half(numbers[8]) {
                Some(step) => RingValue::Steps(value, step),
                None => RingValue::OfKind(value),
            };
            let clear = half(numbers[9]).map(|at| (at, half(numbers[10])));
            Some(Registers { place, doorbell: half(numbers[6])?, value, clear })
        };
        let registers = match place(4) {
            Some(place) => Some(registers(place)?),
            None => None,
        };
        Some(Self { window: place(0)?, driver_memory: place(2), registers })
    }
}

/// By what is known of a PCI function that the device stands for, if there is one and it is known: a map
/// is a BAR if it begins where that does.
#[cfg(feature = "pci")]
fn of_kind(function: &Path, maps: &[Map]) -> Result<Option<Layout>, UioError> {
    let id = |name| {
        let file = function.join(name);
        match text(&file) {
            Ok(text) => number(&file, &text).map(|number| u16::try_from(number).ok()),
            Err(_) => Ok(None),
        }
    };
    let (Some(vendor), Some(device)) = (id("vendor")?, id("device")?) else { return Ok(None) };
    let of_ids = |kind: &BoardKind| (kind.vendor, kind.device) == (vendor, device);
    let Some(at) = KINDS.iter().position(of_ids) else { return Ok(None) };
    let kind = &KINDS[at];
    let file = function.join("resource");
    let bars = text(&file)?;
    let starts: Vec<u64> = bars
        .lines()
        .map(|line| number(&file, line.split(' ').next().unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    let bar = |bar: usize| {
        let start = starts.get(bar).copied().filter(|start| *start != 0)?;
        maps.iter().find(|map| map.addr == start)
    };
    let no_memory = || UioError::NoMap {
        key: kind.name,
        wanted: MapKey::Name(format!("of BAR {}", kind.memory)),
        there: maps.to_vec(),
    };
    let memory = bar(kind.memory).ok_or_else(no_memory)?;
    let window = place(memory, kind.name, (MIN_SLOT_LEN, MAX_SLOT_LEN))?;
    let value = RingValue::OfKind(u32::try_from(at).unwrap_or(u32::MAX));
    // Registers of less than a page cannot be mapped.
    let registers = kind.doorbell.and_then(|doorbell| {
        let map = bar(doorbell.register.bar)?;
        let at = u32::try_from(doorbell.register.offset).ok()?;
        let doorbell = register(map, kind.name, at).ok()?;
        Some(Registers { place: whole(map), doorbell, value, clear: None })
    });
    Ok(Some(Layout { window, driver_memory: None, registers }))
}

/// The size in bytes of a page.
fn page() -> u64 {
    page_size() as u64
}

/// All of a map that can be mapped, from the start of its first page.
fn whole(map: &Map) -> Place {
    Place { offset: u64::from(map.number) * page(), len: map.size - map.size % page() }
}

/// A map for memory of this length, which is used from the start of a page.
fn place(map: &Map, key: &'static str, wanted: (u64, u64)) -> Result<Place, UioError> {
    if map.offset != 0 || map.addr % page() != 0 {
        return Err(UioError::Misaligned(map.clone()));
    }
    if !(wanted.0..=wanted.1).contains(&map.len()) {
        return Err(UioError::Length { map: map.clone(), key, wanted });
    }
    Ok(whole(map))
}

/// Where in what is mapped a register is that lies `offset` bytes in its map.
fn register(map: &Map, key: &'static str, offset: u32) -> Result<u32, UioError> {
    if map.addr % page() != 0 {
        return Err(UioError::Misaligned(map.clone()));
    }
    let at = map.offset.checked_add(offset.into()).filter(|at| at % 4 == 0);
    let at = at.filter(|_| u64::from(offset) + 4 <= map.len());
    at.and_then(|at| u32::try_from(at).ok()).ok_or(UioError::Register {
        map: map.clone(),
        key,
        offset,
    })
}

/// The map that is meant, if there is one.
fn find<'m>(maps: &'m [Map], key: &MapKey) -> Result<Option<&'m Map>, UioError> {
    let is_meant = |map: &&Map| match key {
        MapKey::Name(name) => map.name == *name,
        MapKey::Number(number) => map.number == *number,
    };
    let mut found = maps.iter().filter(is_meant);
    match (found.next(), found.next(), key) {
        (Some(_), Some(_), MapKey::Name(name)) => Err(UioError::SameName(name.clone())),
        (first, ..) => Ok(first),
    }
}

fn is_uio(name: &str) -> bool {
    let number = name.strip_prefix("uio").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit())
}

fn read_maps(home: &Path) -> Result<Vec<Map>, UioError> {
    let mut maps = Vec::new();
    for map in 0..MAPS_MAX {
        let dir = home.join(format!("maps/map{map}"));
        let name = match text(&dir.join("name")) {
            Err(UioError::Unreadable(_, e)) if e.kind() == ErrorKind::NotFound => break,
            name => name?,
        };
        let read = |what: &str| {
            let file = dir.join(what);
            number(&file, &text(&file)?)
        };
        let (addr, size, offset) = (read("addr")?, read("size")?, read("offset")?);
        maps.push(Map { number: map, name, addr, size, offset });
    }
    Ok(maps)
}

fn text(file: &Path) -> Result<String, UioError> {
    let text: io::Result<String> = std::fs::read_to_string(file);
    let text = text.map_err(|e| UioError::Unreadable(file.to_owned(), e))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

fn number(file: &Path, text: &str) -> Result<u64, UioError> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.ok_or_else(|| UioError::BadNumber(PathBuf::from(file), text.to_owned()))
}

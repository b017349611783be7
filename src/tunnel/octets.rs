//! Taking a message's octets apart and putting them together, whatever the dialect.
//!
//! The reader takes fields from front to back and fails where the message ends too early; no offset
//! is ever computed from what a peer wrote.

use std::fmt;

use super::message::{Blocks, Body, Hello, MAX_BLOCKS, MAX_VERSION, Version};
use crate::spec::msg::{self, TYPE_BUS, TYPE_RESPONSE};

/// Why octets are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// There are fewer bytes than a header has.
    NoHeader {
        /// How many there are.
        len: usize,
    },
    /// The header's size is less than a header, more than there is, or more than the bus carries.
    MsgSize {
        /// The size it names.
        msg_size: u16,
        /// The greatest that it could be.
        most: usize,
    },
    /// A message of the bus names a device.
    BusDevice {
        /// The message.
        message: &'static str,
        /// The device number that should be 0.
        dev_num: u16,
    },
    /// No such message; an event sent as a response is none either.
    Unknown {
        /// The header's type.
        kind: u8,
        /// The header's message id.
        id: u8,
    },
    /// The message's size is not the one that its fields call for.
    WrongSize {
        /// The message.
        message: &'static str,
        /// Its size.
        size: usize,
        /// The size that it should have, or at least have.
        needed: usize,
    },
    /// The message carries, or asks for, more than one message can hold.
    TooMany {
        /// The message.
        message: &'static str,
        /// What it has too many of.
        what: &'static str,
        /// How many.
        count: u32,
        /// The most that one message holds.
        most: usize,
    },
    /// Dialect v1: a number of devices is no multiple of 8.
    NotEights {
        /// The message.
        message: &'static str,
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHeader { len } => {
                write!(f, "{len} bytes are no message: its header has {}", msg::HEADER_LEN)
            }
            Self::MsgSize { msg_size, most } => {
                write!(f, "message size {msg_size} is not within {} to {most}", msg::HEADER_LEN)
            }
            Self::BusDevice { message, dev_num } => {
                write!(f, "{message} is the bus's, but names device {dev_num}")
            }
            Self::Unknown { kind, id } => {
                let space = if kind & TYPE_BUS != 0 { "bus" } else { "transport" };
                let way = if kind & TYPE_RESPONSE != 0 { "response" } else { "request or event" };
                write!(f, "there is no {space} {way} with id {id:#04x}")
            }
            Self::WrongSize { message, size, needed } => {
                write!(f, "{message} of {size} bytes should have {needed}")
            }
            Self::TooMany { message, what, count, most } => {
                write!(f, "{message} with {count} {what}; one message holds {most}")
            }
            Self::NotEights { message, what, value } => {
                write!(f, "{message} with {what} {value}, which in dialect v1 is a multiple of 8")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Appends to a message; what does not fit is its maker's error, and panics.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut [u8; msg::MAX_LEN],
    pub(super) at: usize,
}

impl Writer<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn le16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn le32s(&mut self, values: &[u32]) {
        for value in values {
            self.bytes(&value.to_le_bytes());
        }
    }

    pub(super) fn le64s(&mut self, values: &[u64]) {
        for value in values {
            self.bytes(&value.to_le_bytes());
        }
    }
}

/// Takes a message apart from front to back.
pub(super) struct Reader<'a> {
    pub(super) message: &'static str,
    pub(super) size: usize,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.wrong_size(self.size - self.rest.len() + n));
        };
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(self.wrong_size(self.size - self.rest.len() + N));
        };
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn le16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn le32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn le64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of which one message holds `most`.
    pub(super) fn count(&mut self, what: &'static str, most: usize) -> Result<u32, DecodeError> {
        let count = self.le32()?;
        if count > len32(most) { Err(self.too_many(what, count, most)) } else { Ok(count) }
    }

    /// A length and so many bytes.
    pub(super) fn data(&mut self, most: usize) -> Result<Vec<u8>, DecodeError> {
        let length = self.count("bytes", most)?;
        Ok(self.bytes(usize::try_from(length).unwrap_or(usize::MAX))?.to_vec())
    }

    pub(super) fn blocks(&mut self) -> Result<Blocks, DecodeError> {
        let index = self.le32()?;
        let count = self.count("feature blocks", MAX_BLOCKS)?;
        let blocks = (0..count).map(|_| self.le32()).collect::<Result<_, _>>()?;
        Ok(Blocks { index, blocks })
    }

    pub(super) fn hello(&mut self) -> Result<Hello, DecodeError> {
        let (revision, max_len, transport_features) = (self.le32()?, self.le32()?, self.le64()?);
        let (epoch, layout, mac) = (self.le32()?, self.le32()?, self.array()?);
        self.le16()?;
        let version = Version::from_bytes(self.bytes(MAX_VERSION)?);
        Ok(Hello { revision, max_len, transport_features, epoch, layout, mac, version })
    }

    /// Nothing may follow the last field, except in HELLO and `EVENT_LINK`.
    pub(super) fn end(&self, body: &Body) -> Result<(), DecodeError> {
        let ours = matches!(body, Body::Hello(_) | Body::HelloBack(_) | Body::EventLink(_));
        if self.rest.is_empty() || ours {
            return Ok(());
        }
        Err(self.wrong_size(self.size - self.rest.len()))
    }

    fn wrong_size(&self, needed: usize) -> DecodeError {
        DecodeError::WrongSize { message: self.message, size: self.size, needed }
    }

    pub(super) fn not_eights(&self, what: &'static str, value: u16) -> DecodeError {
        DecodeError::NotEights { message: self.message, what, value }
    }

    pub(super) fn too_many(&self, what: &'static str, count: u32, most: usize) -> DecodeError {
        DecodeError::TooMany { message: self.message, what, count, most }
    }
}

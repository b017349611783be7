//! What a daemon and its broker say to each other: requests of a fixed form, and their replies.
//!
//! A request is its number (4 bytes, little-endian), what is asked for (1 byte), and the name of a link
//! in the config, or none. A reply is the number of its request, 0, a netdev's index (4 bytes), and what
//! there is to say as text; or why not, as text after a 1, or after a 2 if somebody is absent who may come at
//! any moment. Descriptors come beside them.

use std::fmt;
use std::ops::RangeInclusive;

use crate::os::broker::MESSAGE_MAX;
use crate::os::tap::NAME_MAX;

/// Longest text of a reply, in bytes.
const TEXT_MAX: usize = 1024;
const _: () = assert!(TEXT_MAX + 9 <= MESSAGE_MAX);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The text of the config file as it is now.
    Config,
    /// To go by the config that was read last.
    Adopt,
    /// A link's TAP, made or adopted, and two rtnetlink sockets in its network namespace: for requests,
    /// and for notices; mostly also the right to the netdev's name.
    Netdev,
    /// To have the netdev of that TAP be in its network namespace again, by its name; its index there, or
    /// 0 if the kernel does not tell where it is.
    Home,
    /// The links whose network namespace is not the one any more that their TAP was made in, as a text of
    /// lines.
    Strays,
    /// Another queue of that TAP.
    Queue,
    /// A connection to a link's slot.
    Slot,
    /// A packet socket in a link's network namespace.
    Announcer,
    /// The socket of a vhost-user link: one that listens, or is connected, as the config has it.
    VhostUser,
    /// A device of the kernel's vhost-net, for a link that the config has pumped by it.
    VhostNet,
    /// A link's PCI function, made usable and opened, with a line that says what it is.
    Function,
    /// A link's UIO device, locked, with a line that says what lies where in it.
    Uio,
    /// To have the link's PCI function be as it was before; the link has closed it.
    Release,
    /// The addresses of the PCI functions that are there and of known kinds, as a text of lines.
    Functions,
    /// A socket that hears of functions that come and go.
    Uevents,
    /// To remove the sockets that are listened on: the daemon stops.
    Close,
    /// Nothing but an answer.
    Alive,
    /// The socket that listens where metrics are to be had.
    Metrics,
    /// To have packets that come by the link's netdev and its VLANs forwarded by IPv6; with a word if
    /// that took something.
    ForwardOn,
    /// The opposite.
    ForwardOff,
}

impl What {
    const ALL: [Self; 20] = [
        Self::Config,
        Self::Adopt,
        Self::Netdev,
        Self::Queue,
        Self::Slot,
        Self::Announcer,
        Self::VhostUser,
        Self::VhostNet,
        Self::Function,
        Self::Uio,
        Self::Release,
        Self::Functions,
        Self::Uevents,
        Self::Close,
        Self::Alive,
        Self::Metrics,
        Self::Home,
        Self::Strays,
        Self::ForwardOn,
        Self::ForwardOff,
    ];

    /// Whether it is for one link.
    fn is_of_a_link(self) -> bool {
        !matches!(
            self,
            Self::Config
                | Self::Adopt
                | Self::Functions
                | Self::Uevents
                | Self::Close
                | Self::Alive
                | Self::Metrics
                | Self::Strays
        )
    }

    /// How many descriptors it brings.
    pub(super) fn fds(self) -> RangeInclusive<usize> {
        match self {
            Self::Adopt
            | Self::Release
            | Self::Close
            | Self::Alive
            | Self::Home
            | Self::ForwardOn
            | Self::ForwardOff => 0..=0,
            Self::Config
            | Self::Queue
            | Self::Slot
            | Self::Announcer
            | Self::VhostUser
            | Self::VhostNet
            | Self::Uio
            | Self::Functions
            | Self::Uevents
            | Self::Metrics
            | Self::Strays => 1..=1,
            Self::Netdev => 3..=4,
            Self::Function => 2..=3,
        }
    }

    /// How many descriptors it comes with: of the TAP that it is about.
    pub(super) fn fds_given(self) -> usize {
        usize::from(matches!(self, Self::Queue | Self::Home))
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) number: u32,
    pub(super) what: What,
    /// The link's name; empty where none is meant.
    pub(super) link: String,
}

impl Request {
    pub(super) fn octets(&self) -> Vec<u8> {
        let what = What::ALL.iter().position(|what| *what == self.what);
        let what = what.and_then(|what| u8::try_from(what).ok()).unwrap_or(u8::MAX);
        let mut octets = self.number.to_le_bytes().to_vec();
        octets.push(what);
        octets.extend_from_slice(self.link.as_bytes());
        octets
    }

    /// `None` if it is no request; then its number, if it has one, is all that can be told of it.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let (number, rest) = octets.split_first_chunk()?;
        let (what, link) = rest.split_first()?;
        let what = *What::ALL.get(usize::from(*what))?;
        if link.len() > NAME_MAX || what.is_of_a_link() == link.is_empty() {
            return None;
        }
        let link = std::str::from_utf8(link).ok()?.to_owned();
        Some(Self { number: u32::from_le_bytes(*number), what, link })
    }

    /// The number of what may be no request.
    pub(super) fn number_of(octets: &[u8]) -> u32 {
        octets.first_chunk().map_or(0, |number| u32::from_le_bytes(*number))
    }
}

/// Why something is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// One line for people.
    pub text: String,
    /// There is nobody at the other end: he may come at any moment, and looking costs nobody anything.
    pub absent: bool,
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self { text, absent: false }
    }
}

impl From<&str> for Refused {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A reply, without its descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) number: u32,
    /// The index of the netdev, 0 where there is none; or why not.
    pub(super) outcome: Result<u32, Refused>,
    /// What there is to say beside what was opened; none with a refusal.
    pub(super) note: String,
}

impl Reply {
    pub(super) fn octets(&self) -> Vec<u8> {
        let mut octets = self.number.to_le_bytes().to_vec();
        match &self.outcome {
            Ok(index) => {
                octets.push(0);
                octets.extend_from_slice(&index.to_le_bytes());
                octets.extend_from_slice(cut(&self.note));
            }
            Err(Refused { text, absent }) => {
                octets.push(1 + u8::from(*absent));
                octets.extend_from_slice(cut(text));
            }
        }
        octets
    }

    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let (number, rest) = octets.split_first_chunk()?;
        let (how, rest) = rest.split_first()?;
        let (index, text) = if *how == 0 { rest.split_first_chunk()? } else { (&[0; 4], rest) };
        if text.len() > TEXT_MAX {
            return None;
        }
        let text = String::from_utf8(text.to_vec()).ok()?;
        let (outcome, note) = match how {
            0 => (Ok(u32::from_le_bytes(*index)), text),
            1 | 2 => (Err(Refused { text, absent: *how == 2 }), String::new()),
            _ => return None,
        };
        Some(Self { number: u32::from_le_bytes(*number), outcome, note })
    }
}

/// As much of a text as a reply has room for, in whole characters.
fn cut(text: &str) -> &[u8] {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    &text.as_bytes()[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for what in What::ALL {
            let link = if what.is_of_a_link() { "bl0" } else { "" };
            let request = Request { number: 0x0403_0201, what, link: link.to_owned() };
            assert_eq!(Request::parse(&request.octets()), Some(request));
        }
        let netdev = Request { number: 7, what: What::Netdev, link: "bl0".to_owned() };
        assert_eq!(netdev.octets(), [7, 0, 0, 0, 2, b'b', b'l', b'0']);
    }

    #[test]
    fn what_is_no_request_is_none() {
        for octets in [
            &b""[..],
            b"1234",
            // Nothing that there is, by a link's name or without.
            b"1234\x40",
            b"1234\xffbl0",
            // A link that is missing, too many, too long, or no text.
            b"1234\x02",
            b"1234\x00bl0",
            b"1234\x02sixteen-bytes-xx",
            b"1234\x02\xff\xfe",
        ] {
            assert_eq!(Request::parse(octets), None, "{octets:?}");
        }
    }

    #[test]
    fn a_long_refusal_is_cut_between_characters() {
        let refusal =
            |text: String| Reply { number: 1, outcome: Err(text.into()), note: String::new() };
        let reply = refusal("ü".repeat(2000));
        let read = Reply::parse(&reply.octets()).unwrap();
        assert_eq!(read.outcome, Err("ü".repeat(TEXT_MAX / 2).into()));
        let odd = refusal(format!("x{}", "ü".repeat(2000)));
        assert!(Reply::parse(&odd.octets()).unwrap().outcome.unwrap_err().text.ends_with('ü'));
    }

    #[test]
    fn what_is_said_beside_a_grant_comes_with_it() {
        let reply = Reply { number: 1, outcome: Ok(7), note: "0000:00:03.0".to_owned() };
        assert_eq!(Reply::parse(&reply.octets()), Some(reply));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(request) = Request::parse(&octets) {
                prop_assert_eq!(request.octets(), octets.clone());
            }
            if let Some(reply) = Reply::parse(&octets) {
                prop_assert_eq!(reply.octets(), octets);
            }
        }
    }
}

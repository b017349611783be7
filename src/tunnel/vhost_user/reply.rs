//! What a back-end answers: octets to meaning and back.

use super::message::{Fault, Inflight, Payload, encode};
use crate::spec::vhost_user::{flags, request};

/// What a back-end answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A number; to a request that asked for a reply where there is none by itself, 0 says that it was
    /// done.
    Number(u64),
    /// A ring's index and its base.
    VringBase {
        /// The ring's index.
        index: u32,
        /// Where it goes on.
        base: u32,
    },
    /// A part of config space.
    Config {
        /// Where in config space it begins.
        offset: u32,
        /// The request's flags.
        flags: u32,
        /// The octets; none says that there is no such part.
        data: Vec<u8>,
    },
    /// A descriptor comes with it.
    Inflight(Inflight),
}

impl Reply {
    /// Its octets as the reply to this request, header included.
    pub fn encode(&self, request: u32) -> Vec<u8> {
        let payload = match self {
            Self::Number(number) => number.to_le_bytes().to_vec(),
            Self::VringBase { index, base } => {
                [*index, *base].into_iter().flat_map(u32::to_le_bytes).collect()
            }
            Self::Config { offset, flags, data } => config(*offset, *flags, data),
            Self::Inflight(inflight) => inflight.octets().to_vec(),
        };
        encode(request, flags::REPLY, &payload)
    }

    /// Reads the payload of the reply to this request.
    pub fn decode(request: u32, octets: &[u8]) -> Result<Self, Fault> {
        let mut p = Payload::new(request, octets);
        let reply = match request {
            request::GET_VRING_BASE => Self::VringBase { index: p.u32()?, base: p.u32()? },
            // An error has no payload.
            request::GET_CONFIG if octets.is_empty() => {
                Self::Config { offset: 0, flags: 0, data: Vec::new() }
            }
            request::GET_CONFIG => {
                let (offset, flags, data) = p.config()?;
                Self::Config { offset, flags, data }
            }
            request::GET_INFLIGHT_FD => Self::Inflight(p.inflight()?),
            _ => Self::Number(p.u64()?),
        };
        p.end().map(|()| reply)
    }
}

/// The payload of a part of config space.
pub(super) fn config(offset: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let words = [offset, len, flags].into_iter().flat_map(u32::to_le_bytes);
    words.chain(data.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::vhost_user::HEADER_LEN;

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let config = Reply::Config { offset: 2, flags: 0, data: vec![1, 2, 3] };
        let inflight = Inflight { len: 1 << 12, offset: 0, queues: 2, queue_size: 256 };
        for (request, reply) in [
            (request::GET_FEATURES, Reply::Number(0x1_0203_0405)),
            (request::GET_VRING_BASE, Reply::VringBase { index: 1, base: 0x8007 }),
            (request::GET_CONFIG, config),
            (request::GET_INFLIGHT_FD, Reply::Inflight(inflight)),
            (request::SET_MEM_TABLE, Reply::Number(1)),
        ] {
            let octets = reply.encode(request);
            assert_eq!(octets[4], 5, "version 1, a reply");
            assert_eq!(Reply::decode(request, &octets[HEADER_LEN..]), Ok(reply));
        }
    }
}

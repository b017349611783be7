//! One frame: the virtio-net header before it, and what of it must hold.
//!
//! A frame from the peer is judged on a private copy of its header and first bytes (the *checked
//! prefix*), and that copy is what goes on to the netdev, followed by the shared rest. A TAP accepts
//! offloads that were never negotiated, so they are refused here.

use zerocopy::FromBytes;

use super::features::Features;
use crate::spec::net::{self, HEADER_LEN, Header};

/// Bytes of the frame itself that are copied and checked.
pub const PREFIX_FRAME: usize = 256;
/// Bytes of header and frame that are copied and checked.
pub const PREFIX_LEN: usize = HEADER_LEN + PREFIX_FRAME;
/// Length of an Ethernet header, the shortest frame.
pub const ETHERNET_LEN: usize = 14;
/// Shortest frame with its header.
const SHORTEST: usize = HEADER_LEN + ETHERNET_LEN;
/// Lengths of the headers of TCP and UDP, without options.
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// Where a checksum may start at the earliest, by Linux's `virtio_net_hdr_to_skb`: not within the
/// shortest header of IPv4, or of IPv6 if the packet is said to be one, counted from the frame's start.
const SHORTEST_IPV4: usize = 20;
const SHORTEST_IPV6: usize = 40;
/// Most datagrams that Linux cuts a packet into.
const MOST_DATAGRAMS: usize = 128;
/// The `gso_size` that in Linux is none.
const GSO_BY_FRAGS: u16 = 0xffff;
/// Greatest frame with its header that a ring may carry: room for the largest segmentation offload
/// packet with VLAN tags (virtio 1.4 §5.1.6.3.1 asks for 65,589 bytes behind the header).
pub const LARGEST: usize = HEADER_LEN + 65_589;

/// Why a frame was dropped. The names are what `status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Drop {
    /// Shorter than an Ethernet header.
    TooShort,
    /// Longer than a frame can be, or than the receiver's buffers can ever hold.
    TooLong,
    /// Header flags that nobody negotiated.
    BadFlags,
    /// A checksum offload that was not negotiated.
    CsumNotNegotiated,
    /// `csum_start` or `csum_offset` lie beyond the frame, or in what its sender's addresses were
    /// found by.
    CsumRange,
    /// A segmentation offload that was not negotiated, or of unknown type.
    GsoNotNegotiated,
    /// A segmentation offload without a size, or with headers that do not fit.
    GsoBad,
    /// `num_buffers` is 0, or more than the queue's receive buffers.
    NumBuffers,
    /// The kernel refused the frame.
    Refused,
    /// The netdev is down.
    NetdevDown,
    /// The kernel had no memory for the frame.
    NoMemory,
    /// It waited in the netdev's queue from before the link came up, or in that of a queue pair that is
    /// not used any more.
    Stale,
    /// The DMA engine reported an error.
    DmaError,
    /// The driver asked for no frames of this address or VLAN.
    Filtered,
    /// It was on its way to or from a queue that the driver reset.
    QueueReset,
    /// It names a MAC address of its sender that the other end may not have.
    ForeignMac,
    /// It names an IP address of its sender that the other end may not have.
    ForeignIp,
    /// Where IP addresses are checked: it is of a kind that has none, or that only routers send.
    ForeignType,
    /// Its checked start does not show whose addresses it names.
    Unclear,
}

impl Drop {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::TooShort,
        Self::TooLong,
        Self::BadFlags,
        Self::CsumNotNegotiated,
        Self::CsumRange,
        Self::GsoNotNegotiated,
        Self::GsoBad,
        Self::NumBuffers,
        Self::Refused,
        Self::NetdevDown,
        Self::NoMemory,
        Self::Stale,
        Self::DmaError,
        Self::Filtered,
        Self::QueueReset,
        Self::ForeignMac,
        Self::ForeignIp,
        Self::ForeignType,
        Self::Unclear,
    ];

    /// Its name in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::BadFlags => "bad_flags",
            Self::CsumNotNegotiated => "csum_not_negotiated",
            Self::CsumRange => "csum_range",
            Self::GsoNotNegotiated => "gso_not_negotiated",
            Self::GsoBad => "gso_bad",
            Self::NumBuffers => "num_buffers",
            Self::Refused => "refused",
            Self::NetdevDown => "netdev_down",
            Self::NoMemory => "no_memory",
            Self::Stale => "stale",
            Self::DmaError => "dma_error",
            Self::Filtered => "filtered",
            Self::QueueReset => "queue_reset",
            Self::ForeignMac => "foreign_mac",
            Self::ForeignIp => "foreign_ip",
            Self::ForeignType => "foreign_type",
            Self::Unclear => "unclear",
        }
    }
}

/// Offloads that frames of one direction may carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be unfinished.
    pub csum: bool,
    /// TCP over IPv4 may be unsegmented.
    pub tso4: bool,
    /// TCP over IPv6 may be unsegmented.
    pub tso6: bool,
    /// Such TCP packets may have ECN set.
    pub ecn: bool,
    /// UDP over IPv4 and IPv6 may be unsegmented.
    pub uso: bool,
}

impl Offloads {
    /// What the driver may send to the device.
    pub fn to_device(f: Features) -> Self {
        Self {
            csum: f.has(net::F_CSUM),
            tso4: f.has(net::F_HOST_TSO4),
            tso6: f.has(net::F_HOST_TSO6),
            ecn: f.has(net::F_HOST_ECN),
            uso: f.has(net::F_HOST_USO),
        }
    }

    /// What the device may send to the driver.
    pub fn to_driver(f: Features) -> Self {
        Self {
            csum: f.has(net::F_GUEST_CSUM),
            tso4: f.has(net::F_GUEST_TSO4),
            tso6: f.has(net::F_GUEST_TSO6),
            ecn: f.has(net::F_GUEST_ECN),
            uso: f.has(net::F_GUEST_USO4) && f.has(net::F_GUEST_USO6),
        }
    }
}

impl Offloads {
    /// Whether packets of this GSO type may come; ECN is for TCP.
    fn has_gso(self, gso_type: u8) -> bool {
        let ecn = gso_type & net::GSO_ECN != 0;
        match gso_type & !net::GSO_ECN {
            net::GSO_TCPV4 => self.tso4 && (self.ecn || !ecn),
            net::GSO_TCPV6 => self.tso6 && (self.ecn || !ecn),
            net::GSO_UDP_L4 => self.uso && !ecn,
            _ => false,
        }
    }
}

/// What is wrong with `total` bytes, header included, if no frame has as many.
pub fn wrong_length(total: usize) -> Option<Drop> {
    match total {
        0..SHORTEST => Some(Drop::TooShort),
        SHORTEST..=LARGEST => None,
        _ => Some(Drop::TooLong),
    }
}

/// Judges a frame of `total` bytes, header included, by its private `prefix`.
pub fn check(prefix: &[u8], total: usize, allowed: Offloads) -> Result<(), Drop> {
    if let Some(reason) = wrong_length(total) {
        return Err(reason);
    }
    let (header, _) = Header::ref_from_prefix(prefix).map_err(|_| Drop::TooShort)?;
    let frame_len = total - HEADER_LEN;
    if header.flags & !(net::HDR_F_NEEDS_CSUM | net::HDR_F_DATA_VALID) != 0 {
        return Err(Drop::BadFlags);
    }
    let needs_csum = header.flags & net::HDR_F_NEEDS_CSUM != 0;
    if needs_csum {
        check_csum(header, frame_len, allowed)?;
    }
    check_hdr_len(header, frame_len, needs_csum)?;
    if header.gso_type == net::GSO_NONE {
        return Ok(());
    }
    if !allowed.has_gso(header.gso_type) {
        return Err(Drop::GsoNotNegotiated);
    }
    check_gso(header, frame_len, needs_csum)
}

/// Judges the header of a frame that our own kernel handed to us: it may have been made before the
/// other end asked for fewer offloads.
pub fn check_own(prefix: &[u8], allowed: Offloads) -> Result<(), Drop> {
    let (header, _) = Header::ref_from_prefix(prefix).map_err(|_| Drop::TooShort)?;
    if header.flags & net::HDR_F_NEEDS_CSUM != 0 && !allowed.csum {
        return Err(Drop::CsumNotNegotiated);
    }
    match header.gso_type {
        net::GSO_NONE => Ok(()),
        gso_type if allowed.has_gso(gso_type) => Ok(()),
        _ => Err(Drop::GsoNotNegotiated),
    }
}

fn check_csum(header: &Header, frame_len: usize, allowed: Offloads) -> Result<(), Drop> {
    if !allowed.csum {
        return Err(Drop::CsumNotNegotiated);
    }
    let start = usize::from(header.csum_start.get());
    let field_end = start + usize::from(header.csum_offset.get()) + 2;
    let in_headers = start >= SHORTEST_IPV4 && field_end <= PREFIX_FRAME;
    if in_headers && field_end <= frame_len { Ok(()) } else { Err(Drop::CsumRange) }
}

/// `hdr_len` is a hint, but a TAP refuses one beyond the frame, and, where no checksum says that there
/// are more headers, one within the Ethernet header.
fn check_hdr_len(header: &Header, frame_len: usize, needs_csum: bool) -> Result<(), Drop> {
    let hdr_len = usize::from(header.hdr_len.get());
    let good = hdr_len <= frame_len && (needs_csum || hdr_len == 0 || hdr_len >= ETHERNET_LEN);
    if good { Ok(()) } else { Err(Drop::GsoBad) }
}

/// virtio 1.4 §5.1.6.2: a segmentation offload needs NEEDS_CSUM and a `gso_size` above zero. A TAP also
/// refuses one whose checksum is not where its transport has it, whose headers do not fit, or which a
/// kernel would not cut: into too many datagrams, or with the one size that means something else there.
fn check_gso(header: &Header, frame_len: usize, needs_csum: bool) -> Result<(), Drop> {
    let (start, size) = (usize::from(header.csum_start.get()), header.gso_size.get());
    let udp = header.gso_type == net::GSO_UDP_L4;
    let (csum_offset, transport_len) = if udp { (6, UDP_LEN) } else { (16, TCP_LEN) };
    let ipv6 = header.gso_type & !net::GSO_ECN == net::GSO_TCPV6;
    let Some(payload) = frame_len.checked_sub(start + transport_len) else {
        return Err(Drop::GsoBad);
    };
    let good = needs_csum
        && header.csum_offset.get() == csum_offset
        && (!ipv6 || start >= SHORTEST_IPV6)
        && ![0, GSO_BY_FRAGS].contains(&size)
        && (!udp || payload <= usize::from(size) * MOST_DATAGRAMS);
    if good { Ok(()) } else { Err(Drop::GsoBad) }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    const ALL: Offloads = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: true };

    fn header(flags: u8, gso_type: u8, fields: [u16; 4]) -> [u8; HEADER_LEN] {
        let [hdr_len, gso_size, csum_start, csum_offset] = fields.map(Into::into);
        let h = Header {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            num_buffers: 0.into(),
        };
        h.as_bytes().try_into().unwrap()
    }

    #[test]
    fn the_header_s_octets_are_the_standard_s() {
        let h = header(1, 4, [0x0203, 0x0405, 0x0607, 0x0809]);
        assert_eq!(h, [1, 4, 3, 2, 5, 4, 7, 6, 9, 8, 0, 0]);
    }

    #[test]
    fn plain_frames_pass_and_impossible_lengths_do_not() {
        let h = header(0, 0, [0; 4]);
        assert_eq!(check(&h, 12 + 60, Offloads::default()), Ok(()));
        assert_eq!(check(&h, 12 + 13, ALL), Err(Drop::TooShort));
        assert_eq!(check(&h[..11], 12 + 60, ALL), Err(Drop::TooShort));
        assert_eq!(check(&h, LARGEST + 1, ALL), Err(Drop::TooLong));
        assert_eq!(check(&h, LARGEST, ALL), Ok(()));
    }

    #[test]
    fn an_offload_that_was_not_negotiated_is_dropped() {
        let csum = header(1, 0, [0, 0, 34, 16]);
        let tso4 = header(1, 1, [66, 1448, 34, 16]);
        let tso6 = header(1, 4, [86, 1428, 54, 16]);
        for h in [&csum, &tso4, &tso6] {
            assert_eq!(check(h, 3000, ALL), Ok(()));
        }
        let none = Offloads::default();
        assert_eq!(check(&csum, 3000, none), Err(Drop::CsumNotNegotiated));
        let only_csum = Offloads { csum: true, ..none };
        assert_eq!(check(&tso4, 3000, only_csum), Err(Drop::GsoNotNegotiated));
        let no_v6 = Offloads { tso6: false, ..ALL };
        assert_eq!(check(&tso6, 3000, no_v6), Err(Drop::GsoNotNegotiated));
        for (gso_type, csum, without) in [
            (0x81, [34, 16], Offloads { ecn: false, ..ALL }),
            (0x84, [54, 16], Offloads { ecn: false, ..ALL }),
            (5, [34, 6], Offloads { uso: false, ..ALL }),
        ] {
            let h = header(1, gso_type, [66, 1448, csum[0], csum[1]]);
            assert_eq!(check(&h, 3000, ALL), Ok(()), "{gso_type:#x}");
            assert_eq!(check(&h, 3000, without), Err(Drop::GsoNotNegotiated), "{gso_type:#x}");
            assert_eq!(check_own(&h, ALL), Ok(()));
            assert_eq!(check_own(&h, without), Err(Drop::GsoNotNegotiated));
        }
        assert_eq!(check_own(&csum, none), Err(Drop::CsumNotNegotiated));
        for gso_type in [2, 3, 6, 0x21, 0x41, 0x85, 0x80, 0xff] {
            let h = header(1, gso_type, [66, 1448, 34, 16]);
            assert_eq!(check(&h, 3000, ALL), Err(Drop::GsoNotNegotiated), "{gso_type:#x}");
        }
        assert_eq!(check(&header(4, 0, [0; 4]), 3000, ALL), Err(Drop::BadFlags));
        assert_eq!(check(&header(0x80, 0, [0; 4]), 3000, ALL), Err(Drop::BadFlags));
    }

    #[test]
    fn offsets_beyond_the_frame_are_dropped() {
        for (start, offset) in [(60, 16), (59, 0), (0xffff, 0xffff), (34, 0xffff), (0, 0), (13, 0)]
        {
            let h = header(1, 0, [0, 0, start, offset]);
            assert_eq!(check(&h, 12 + 60, ALL), Err(Drop::CsumRange), "{start}+{offset}");
        }
        // Beyond the checked prefix, however long the frame is.
        assert_eq!(check(&header(1, 0, [0, 0, 250, 6]), 3000, ALL), Err(Drop::CsumRange));
        assert_eq!(check(&header(1, 0, [0, 0, 58, 0]), 12 + 60, ALL), Ok(()));
    }

    #[test]
    fn a_segmentation_offload_needs_a_size_and_a_checksum() {
        assert_eq!(check(&header(1, 1, [66, 0, 34, 16]), 3000, ALL), Err(Drop::GsoBad));
        assert_eq!(check(&header(0, 1, [66, 1448, 34, 16]), 3000, ALL), Err(Drop::GsoBad));
        assert_eq!(check(&header(1, 1, [3000, 1448, 34, 16]), 2000, ALL), Err(Drop::GsoBad));
    }

    #[test]
    fn what_a_tap_refuses_is_dropped_with_a_reason() {
        let bad = Err(Drop::GsoBad);
        // `hdr_len`, of a frame without an offload too.
        for (hdr_len, verdict) in [(1, bad), (13, bad), (14, Ok(())), (60, Ok(())), (61, bad)] {
            let h = header(0, 0, [hdr_len, 0, 0, 0]);
            assert_eq!(check(&h, 12 + 60, ALL), verdict, "hdr_len {hdr_len}");
        }
        assert_eq!(check(&header(1, 0, [1, 0, 34, 16]), 12 + 60, ALL), Ok(()));
        // A checksum that starts within the network header.
        assert_eq!(check(&header(1, 0, [0, 0, 19, 6]), 12 + 60, ALL), Err(Drop::CsumRange));
        assert_eq!(check(&header(1, 0, [0, 0, 20, 6]), 12 + 60, ALL), Ok(()));
        for (gso_type, size, csum, frame_len, verdict) in [
            (1, 1448, [20, 16], 40, Ok(())),
            (1, 1448, [20, 16], 39, bad),
            (1, 1448, [34, 6], 3000, bad),
            (1, 0xffff, [34, 16], 3000, bad),
            (4, 1428, [39, 16], 3000, bad),
            (4, 1428, [40, 16], 3000, Ok(())),
            (5, 1472, [34, 16], 3000, bad),
            (5, 10, [34, 6], 42 + 1280, Ok(())),
            (5, 10, [34, 6], 42 + 1281, bad),
        ] {
            let h = header(1, gso_type, [0, size, csum[0], csum[1]]);
            assert_eq!(check(&h, 12 + frame_len, ALL), verdict, "{gso_type} {size} {csum:?}");
        }
    }
}

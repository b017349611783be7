//! The oracle: the frames that a wire would carry, after all that was left to do has been done.
//!
//! Written from the standards (RFC 9293 and 3168 for TCP, 768 for UDP, 791 and 8200 for IP), and knows
//! nothing of who did the work. What a header says is not put right where segmentation has no part in
//! it: a checksum is completed from what its field holds, so a field that was altered stays wrong.

use super::checksum::{fold, sum};
use super::frame::{
    ETHERNET_LEN, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, IPV4, IPV6, SERVICE_VLAN, VLAN,
    Vnet, put, word,
};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Into how many segments a frame is cut: 1 if into none.
pub(crate) fn count(vnet: &Vnet, bytes: &[u8]) -> usize {
    if vnet.gso_type == GSO_NONE {
        return 1;
    }
    let headers = headers(vnet, bytes).unwrap_or(bytes.len());
    (bytes.len() - headers).div_ceil(vnet.gso_size.max(1).into()).max(1)
}

/// The finished frames, or what makes that impossible.
pub(crate) fn finished(vnet: &Vnet, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if vnet.gso_type == GSO_NONE {
        let mut whole = bytes.to_vec();
        if vnet.needs_csum() {
            complete(vnet, &mut whole)?;
        }
        return Ok(vec![whole]);
    }
    if !vnet.needs_csum() || vnet.gso_size == 0 {
        return Err(format!("{vnet:?} asks for segmentation without size or checksum"));
    }
    let headers = headers(vnet, bytes)?;
    look_at_lengths(vnet, bytes)?;
    let pieces: Vec<_> = bytes[headers..].chunks(vnet.gso_size.into()).collect();
    let last = pieces.len().saturating_sub(1);
    let mut segments = Vec::with_capacity(pieces.len());
    let mut before = 0;
    for (i, piece) in pieces.into_iter().enumerate() {
        let mut segment = Vec::with_capacity(headers + piece.len());
        segment.extend_from_slice(&bytes[..headers]);
        segment.extend_from_slice(piece);
        renumber(vnet, &mut segment, bytes.len(), Place { i, before, last: i == last })?;
        complete(vnet, &mut segment)?;
        segments.push(segment);
        before += piece.len();
    }
    Ok(segments)
}

/// Which of the segments it is, and how many bytes of payload are in those before it.
struct Place {
    i: usize,
    before: usize,
    last: bool,
}

/// Length of the headers that each segment repeats.
fn headers(vnet: &Vnet, bytes: &[u8]) -> Result<usize, String> {
    let transport = usize::from(vnet.csum_start);
    let len = match vnet.gso_type & !GSO_ECN {
        GSO_TCPV4 | GSO_TCPV6 => bytes.get(transport + 12).map(|octet| usize::from(octet >> 4) * 4),
        GSO_UDP => Some(8),
        other => return Err(format!("there is no segmentation of type {other}")),
    };
    let end = len.map(|len| transport + len).filter(|end| *end <= bytes.len());
    end.ok_or_else(|| format!("{vnet:?}: headers beyond the frame's {} bytes", bytes.len()))
}

/// Where the IP header begins, and its version's ethertype.
fn net(bytes: &[u8]) -> Result<(usize, u16), String> {
    let mut at = ETHERNET_LEN;
    while bytes.len() > at && matches!(word(bytes, at - 2), VLAN | SERVICE_VLAN) {
        at += 4;
    }
    match word(bytes, at - 2) {
        ethertype @ (IPV4 | IPV6) if bytes.len() >= at + 20 => Ok((at, ethertype)),
        other => Err(format!("segmentation of ethertype {other:#06x}")),
    }
}

/// Sees that what segmentation overwrites was right: lengths, and the checksum over IPv4's header.
fn look_at_lengths(vnet: &Vnet, bytes: &[u8]) -> Result<(), String> {
    let (net, ethertype) = net(bytes)?;
    let transport = usize::from(vnet.csum_start);
    let same = |what, at, len| match usize::from(word(bytes, at)) {
        found if found == len => Ok(()),
        found => Err(format!("{what} says {found} bytes, there are {len}")),
    };
    if ethertype == IPV6 {
        same("IPv6", net + 4, bytes.len() - net - 40)?;
    } else {
        same("IPv4", net + 2, bytes.len() - net)?;
        let header = bytes.get(net..net + usize::from(bytes[net] & 0xf) * 4).unwrap_or_default();
        if fold(sum(header)) != 0xffff {
            return Err("IPv4's header has a wrong checksum".to_owned());
        }
    }
    let udp = vnet.gso_type == GSO_UDP;
    if udp { same("UDP", transport + 4, bytes.len() - transport) } else { Ok(()) }
}

/// Makes of a copy of the headers those of one segment.
fn renumber(vnet: &Vnet, segment: &mut [u8], whole: usize, place: Place) -> Result<(), String> {
    let (net, ethertype) = net(segment)?;
    let len = segment.len();
    let short = |n: usize| u16::try_from(n).map_err(|e| e.to_string());
    if ethertype == IPV4 {
        put(segment, net + 2, short(len - net)?);
        let id = word(segment, net + 4).wrapping_add(short(place.i)?);
        put(segment, net + 4, id);
        put(segment, net + 10, 0);
        let check = !fold(sum(&segment[net..net + usize::from(segment[net] & 0xf) * 4]));
        put(segment, net + 10, check);
    } else {
        put(segment, net + 4, short(len - net - 40)?);
    }
    let transport = usize::from(vnet.csum_start);
    if vnet.gso_type == GSO_UDP {
        put(segment, transport + 4, short(len - transport)?);
    } else {
        let at = transport + 4..transport + 8;
        let seq = u32::from_be_bytes(segment[at.clone()].try_into().unwrap());
        let seq = seq.wrapping_add(u32::try_from(place.before).unwrap());
        segment[at].copy_from_slice(&seq.to_be_bytes());
        let flags = &mut segment[transport + 13];
        if !place.last {
            *flags &= !(FIN | PSH);
        }
        if place.i > 0 {
            *flags &= !CWR;
        }
    }
    // The field holds the sum of the pseudo-header of the whole, and the pseudo-header has a length.
    let field = transport + usize::from(vnet.csum_offset);
    let difference = u64::from(!short(whole - transport)?) + (len - transport) as u64;
    let partial = fold(u64::from(word(segment, field)) + difference);
    put(segment, field, partial);
    Ok(())
}

/// Completes the checksum. The sum of none is all ones, as UDP has it: zero means that there is none.
fn complete(vnet: &Vnet, bytes: &mut [u8]) -> Result<(), String> {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > bytes.len() {
        return Err(format!("{vnet:?}: a checksum beyond the frame's {} bytes", bytes.len()));
    }
    let check = !fold(sum(&bytes[start..]));
    put(bytes, field, if check == 0 { 0xffff } else { check });
    Ok(())
}

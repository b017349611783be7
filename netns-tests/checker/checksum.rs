//! The internet checksum (RFC 1071) and the pseudo-headers that it covers.

use zerocopy::FromBytes;
use zerocopy::big_endian::U128;

/// The sum of 16-bit words in network order; an odd last byte counts as the upper half of a word.
///
/// Long words will do: 2¹⁶ is 1 in this arithmetic. Shorter ones would take most of a test's time where
/// nothing is optimized.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    const WORD: usize = size_of::<U128>();
    let count = bytes.len() / WORD;
    let (words, rest) = <[U128]>::ref_from_prefix_with_elems(bytes, count).expect("so many");
    let mut last = [0; WORD];
    last[..rest.len()].copy_from_slice(rest);
    let mut total = halves(u128::from_be_bytes(last));
    for word in words {
        total += halves(word.get());
    }
    u64::from(fold(total))
}

fn halves(word: u128) -> u128 {
    (word >> 64) + (word & u128::from(u64::MAX))
}

/// A sum in 16 bits.
pub(crate) fn fold(sum: impl Into<u128>) -> u16 {
    let mut sum = sum.into();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// The sum of a pseudo-header: addresses, both of one family, as they stand in the header.
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + len as u64
}

//! The internet checksum (RFC 1071) and the pseudo-headers that it covers.

/// The sum of 16-bit words in network order; an odd last byte counts as the upper half of a word.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    let both = |word: [u8; 8]| {
        let word = u64::from_be_bytes(word);
        (word >> 32) + (word & 0xffff_ffff)
    };
    let mut total = both(rest);
    for word in words {
        total += both(word.try_into().unwrap());
    }
    total
}

/// A sum in 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// The sum of a pseudo-header: addresses, both of one family, as they stand in the header.
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + len as u64
}

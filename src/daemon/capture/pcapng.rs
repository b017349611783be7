//! Blocks of a pcapng file (draft-ietf-opsawg-pcapng), each as octets. All numbers are little-endian.
//!
//! A block is its type, its length, its body, and its length again, in whole words of 4 octets. Options are
//! at its end, each a code, a length and a value that is filled up to a word; of their list the last is 0.

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// By which a reader tells the order of octets.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
/// `if_tsresol`: 10^-9 s.
const NANOSECONDS: u8 = 9;
/// More than any text here has.
const TEXT_MAX: usize = 4096;

/// What a frame is told as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// ns since the epoch.
    pub time: u64,
    /// Length of the frame before it was cut.
    pub len: u32,
    /// Whether the netdev sent it, and did not receive it.
    pub outbound: bool,
    /// Its queue pair.
    pub queue: u32,
    /// Frames that the capture has lost since the last one.
    pub lost: u64,
    /// For people.
    pub comments: &'a [String],
}

/// Totals of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When it began and ended, in ns since the epoch.
    pub start: u64,
    /// See `start`.
    pub end: u64,
    /// Frames that were to be captured.
    pub seen: u64,
    /// Those that found no room.
    pub lost: u64,
    /// Those that were written.
    pub written: u64,
}

/// A block that is being put together at the end of a buffer.
struct Block<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
}

impl<'b> Block<'b> {
    fn new(out: &'b mut Vec<u8>, kind: u32) -> Self {
        let start = out.len();
        let mut block = Self { out, start };
        block.u32(kind);
        block.u32(0);
        block
    }

    fn u16(&mut self, value: u16) {
        self.out.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend(value.to_le_bytes());
    }

    /// As times are written: the upper half first.
    fn time(&mut self, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
        self.u32(u32::from_be_bytes([a, b, c, d]));
        self.u32(u32::from_be_bytes([e, f, g, h]));
    }

    /// Octets, filled up to a word.
    fn padded(&mut self, octets: &[u8]) {
        self.out.extend(octets);
        let fill = octets.len().next_multiple_of(4) - octets.len();
        self.out.extend(&[0; 3][..fill]);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.u16(code);
        self.u16(u16::try_from(value.len()).expect("options are short"));
        self.padded(value);
    }

    fn text(&mut self, code: u16, text: &str) {
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.option(code, &text.as_bytes()[..end]);
    }

    fn time_option(&mut self, code: u16, value: u64) {
        self.u16(code);
        self.u16(8);
        self.time(value);
    }

    /// Ends the options and the block.
    fn finish(self) {
        self.out.extend([0; 4]);
        let len = u32::try_from(self.out.len() - self.start + 4).expect("blocks are short");
        self.out[self.start + 4..][..4].copy_from_slice(&len.to_le_bytes());
        self.out.extend(len.to_le_bytes());
    }
}

/// The Section Header Block: of which machine, OS and program a file is.
pub fn section_header(out: &mut Vec<u8>, hardware: &str, os: &str, application: &str) {
    let mut block = Block::new(out, SECTION_HEADER);
    block.u32(BYTE_ORDER);
    block.u16(1);
    block.u16(0);
    // The section's length: not known.
    block.out.extend([0xff; 8]);
    block.text(2, hardware);
    block.text(3, os);
    block.text(4, application);
    block.finish();
}

/// An Interface Description Block, the first of which describes interface 0.
pub fn interface_description(out: &mut Vec<u8>, name: &str, description: &str, snaplen: u32) {
    let mut block = Block::new(out, INTERFACE_DESCRIPTION);
    block.u16(LINKTYPE_ETHERNET);
    block.u16(0);
    block.u32(snaplen);
    block.text(2, name);
    block.text(3, description);
    block.option(9, &[NANOSECONDS]);
    block.finish();
}

/// An Enhanced Packet Block of interface 0: as much as there is of a frame, and what is known of it.
pub fn enhanced_packet(out: &mut Vec<u8>, frame: &[u8], packet: &Packet<'_>) {
    let mut block = Block::new(out, ENHANCED_PACKET);
    block.u32(0);
    block.time(packet.time);
    block.u32(u32::try_from(frame.len()).expect("frames are short"));
    block.u32(packet.len);
    block.padded(frame);
    for comment in packet.comments {
        block.text(1, comment);
    }
    // epb_flags: the direction; how it was received is not known, nor is there a frame check sequence.
    block.option(2, &(if packet.outbound { 2_u32 } else { 1 }).to_le_bytes());
    if packet.lost > 0 {
        // epb_dropcount
        block.option(4, &packet.lost.to_le_bytes());
    }
    // epb_queue
    block.option(6, &packet.queue.to_le_bytes());
    block.finish();
}

/// The Interface Statistics Block of interface 0.
pub fn interface_statistics(out: &mut Vec<u8>, totals: &Statistics) {
    let mut block = Block::new(out, INTERFACE_STATISTICS);
    block.u32(0);
    block.time(totals.end);
    block.time_option(2, totals.start);
    block.time_option(3, totals.end);
    // isb_ifrecv, isb_ifdrop, isb_usrdeliv
    for (code, count) in [(4, totals.seen), (5, totals.lost), (8, totals.written)] {
        block.option(code, &count.to_le_bytes());
    }
    block.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As octets stand in the draft's figures: words, of which the ones in quotes are text.
    fn words(list: &[&[u8]]) -> Vec<u8> {
        list.concat()
    }

    #[test]
    fn a_section_header_has_the_octets_of_the_draft() {
        let mut out = Vec::new();
        section_header(&mut out, "x86_64", "Linux 6", "boardlane");
        let expected = words(&[
            &[0x0a, 0x0d, 0x0d, 0x0a],
            &[72, 0, 0, 0],
            &[0x4d, 0x3c, 0x2b, 0x1a],
            &[1, 0, 0, 0],
            &[0xff; 8],
            &[2, 0, 6, 0],
            b"x86_64\0\0",
            &[3, 0, 7, 0],
            b"Linux 6\0",
            &[4, 0, 9, 0],
            b"boardlane\0\0\0",
            &[0, 0, 0, 0],
            &[72, 0, 0, 0],
        ]);
        assert_eq!(out, expected);
    }

    #[test]
    fn an_interface_description_has_the_octets_of_the_draft() {
        let mut out = vec![9; 4];
        interface_description(&mut out, "bl0", "a link", 0x4_0000);
        let expected = words(&[
            &[9; 4],
            &[1, 0, 0, 0],
            &[52, 0, 0, 0],
            &[1, 0, 0, 0],
            &[0, 0, 4, 0],
            &[2, 0, 3, 0],
            b"bl0\0",
            &[3, 0, 6, 0],
            b"a link\0\0",
            &[9, 0, 1, 0],
            &[9, 0, 0, 0],
            &[0, 0, 0, 0],
            &[52, 0, 0, 0],
        ]);
        assert_eq!(out, expected);
    }

    #[test]
    fn an_enhanced_packet_has_the_octets_of_the_draft() {
        let mut out = Vec::new();
        let comments = ["dropped: stale".to_owned()];
        let packet = Packet {
            time: 0x0102_0304_0506_0708,
            len: 1500,
            outbound: true,
            queue: 3,
            lost: 0x1_0000_0002,
            comments: &comments,
        };
        enhanced_packet(&mut out, &[1, 2, 3, 4, 5], &packet);
        let expected = words(&[
            &[6, 0, 0, 0],
            &[92, 0, 0, 0],
            &[0, 0, 0, 0],
            &[4, 3, 2, 1, 8, 7, 6, 5],
            &[5, 0, 0, 0],
            &[0xdc, 5, 0, 0],
            &[1, 2, 3, 4, 5, 0, 0, 0],
            &[1, 0, 14, 0],
            b"dropped: stale\0\0",
            &[2, 0, 4, 0],
            &[2, 0, 0, 0],
            &[4, 0, 8, 0],
            &[2, 0, 0, 0, 1, 0, 0, 0],
            &[6, 0, 4, 0],
            &[3, 0, 0, 0],
            &[0, 0, 0, 0],
            &[92, 0, 0, 0],
        ]);
        assert_eq!(out, expected);
        out.clear();
        enhanced_packet(&mut out, &[], &Packet::default());
        let expected = words(&[
            &[6, 0, 0, 0],
            &[52, 0, 0, 0],
            &[0; 20],
            &[2, 0, 4, 0],
            &[1, 0, 0, 0],
            &[6, 0, 4, 0],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0],
            &[52, 0, 0, 0],
        ]);
        assert_eq!(out, expected);
    }

    #[test]
    fn interface_statistics_have_the_octets_of_the_draft() {
        let mut out = Vec::new();
        let totals = Statistics {
            start: 0x0100_0000_0200,
            end: 0x0300_0000_0400,
            seen: 0x5_0000_0006,
            lost: 7,
            written: 8,
        };
        interface_statistics(&mut out, &totals);
        let expected = words(&[
            &[5, 0, 0, 0],
            &[88, 0, 0, 0],
            &[0, 0, 0, 0],
            &[0, 3, 0, 0, 0, 4, 0, 0],
            &[2, 0, 8, 0],
            &[0, 1, 0, 0, 0, 2, 0, 0],
            &[3, 0, 8, 0],
            &[0, 3, 0, 0, 0, 4, 0, 0],
            &[4, 0, 8, 0],
            &[6, 0, 0, 0, 5, 0, 0, 0],
            &[5, 0, 8, 0],
            &[7, 0, 0, 0, 0, 0, 0, 0],
            &[8, 0, 8, 0],
            &[8, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0],
            &[88, 0, 0, 0],
        ]);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let mut out = Vec::new();
        section_header(
            &mut out,
            &"\u{e9}".repeat(4000),
            &format!("a{}", "\u{e9}".repeat(4000)),
            "",
        );
        // 2048 and 2047.5 characters of two octets.
        assert_eq!(out[24..28], [2, 0, 0, 0x10]);
        assert_eq!(out[28 + 4096..][..4], [3, 0, 0xff, 0x0f]);
        assert_eq!(out.len() % 4, 0);
    }
}

//! Reads a pcapng file by the draft's words, without the program's own code.

use std::collections::BTreeMap;
use std::path::Path;

/// An Enhanced Packet Block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// ns since the epoch.
    pub(crate) time: u64,
    pub(crate) octets: Vec<u8>,
    /// Its length before it was cut.
    pub(crate) len: usize,
    pub(crate) comments: Vec<String>,
    /// 1: received by the netdev; 2: sent by it.
    pub(crate) direction: u32,
    pub(crate) lost: u64,
    pub(crate) queue: u32,
}

/// A file of one section and one interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture {
    /// Name and description of the interface.
    pub(crate) interface: [String; 2],
    pub(crate) snaplen: u32,
    pub(crate) frames: Vec<Frame>,
    /// isb_ifrecv, isb_ifdrop and isb_usrdeliv, if the file is complete.
    pub(crate) totals: Option<[u64; 3]>,
}

fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(octets[at..at + 4].try_into().unwrap())
}

fn u64_of(octets: &[u8]) -> u64 {
    u64::from_le_bytes(octets.try_into().unwrap())
}

/// The options, by code, in their order.
fn options(mut octets: &[u8]) -> BTreeMap<u16, Vec<&[u8]>> {
    let mut all = BTreeMap::<u16, Vec<&[u8]>>::new();
    while !octets.is_empty() {
        let word = u32_at(octets, 0).to_le_bytes();
        let code = u16::from_le_bytes([word[0], word[1]]);
        let len = usize::from(u16::from_le_bytes([word[2], word[3]]));
        octets = &octets[4..];
        if code == 0 {
            assert_eq!((len, octets.len()), (0, 0), "the last one");
            break;
        }
        all.entry(code).or_default().push(&octets[..len]);
        assert!(octets[len..len.next_multiple_of(4)].iter().all(|octet| *octet == 0));
        octets = &octets[len.next_multiple_of(4)..];
    }
    all
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

impl Capture {
    /// What a file has so far; a last block that is not complete does not count.
    pub(crate) fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap_or_default();
        let (mut octets, mut capture, mut kinds) = (&file[..], Self::default(), Vec::new());
        while octets.len() >= 12 {
            let (kind, len) = (u32_at(octets, 0), u32_at(octets, 4) as usize);
            assert!(len >= 12 && len % 4 == 0, "a block of {len} octets");
            if len > octets.len() {
                break;
            }
            assert_eq!(u32_at(octets, len - 4) as usize, len, "the length at the end");
            let body = &octets[8..len - 4];
            capture.block(kind, body);
            kinds.push(kind);
            octets = &octets[len..];
        }
        assert!(kinds.iter().skip(2).rev().skip(1).all(|kind| *kind == 6), "{kinds:?}");
        if let [first, ..] = *kinds {
            assert_eq!((first, kinds.get(1)), (0x0a0d_0d0a, Some(&1)));
        }
        capture
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        match kind {
            0x0a0d_0d0a => {
                assert_eq!(body[..16], [[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0], [0xff; 8]].concat());
                let about = options(&body[16..]);
                assert!(text(about[&3][0]).starts_with("Linux "), "{about:?}");
                assert!(text(about[&4][0]).starts_with("boardlane "), "{about:?}");
            }
            1 => {
                assert_eq!(body[..4], [1, 0, 0, 0], "Ethernet");
                self.snaplen = u32_at(body, 4);
                let about = options(&body[8..]);
                assert_eq!(about[&9], [[9]], "nanoseconds");
                self.interface = [2, 3].map(|code| text(about[&code][0]));
            }
            6 => {
                assert_eq!(u32_at(body, 0), 0);
                let [high, low, captured, len] = [4, 8, 12, 16].map(|at| u32_at(body, at));
                let captured = captured as usize;
                let about = options(&body[20 + captured.next_multiple_of(4)..]);
                let comments = about.get(&1).map_or(&[][..], |comments| comments);
                self.frames.push(Frame {
                    time: u64::from(high) << 32 | u64::from(low),
                    octets: body[20..20 + captured].to_vec(),
                    len: len as usize,
                    comments: comments.iter().copied().map(text).collect(),
                    direction: u32_at(about[&2][0], 0),
                    lost: about.get(&4).map_or(0, |lost| u64_of(lost[0])),
                    queue: u32_at(about[&6][0], 0),
                });
            }
            5 => {
                let about = options(&body[12..]);
                self.totals = Some([4, 5, 8].map(|code| u64_of(about[&code][0])));
            }
            kind => panic!("a block of type {kind}"),
        }
    }
}

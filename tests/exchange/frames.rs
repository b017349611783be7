//! Frames both ways through the data paths, with a virtio-net header that says something.

use boardlane::memory::BusMemory;
use boardlane::net::device_path::DevicePath;
use boardlane::net::driver_path::{Buffers, DriverPath, MIN_ARENA, RECEIVE_BUFFER};
use boardlane::net::features::Features;
use boardlane::net::path::{Inward, Path};
use boardlane::spec::net::{self, HEADER_LEN, Header};
use boardlane::spec::virtio;
use zerocopy::{FromBytes, IntoBytes};

use super::{Board, DRIVER_MEMORY, LEN, Master, Stage, WINDOW, rings};

const ARENA: u64 = WINDOW + 0x1_0000;
const RECEIVE: u64 = DRIVER_MEMORY + 0x1_0000;
const POSTED: u64 = 2;

const _: () = assert!(0x1_0000 + MIN_ARENA <= LEN && 0x1_0000 + 2 * RECEIVE_BUFFER <= LEN);

/// A plain frame, and one that is to be segmented and is longer than what is checked of it.
fn frames() -> [Vec<u8>; 2] {
    let plain = Header::default();
    let segmented = Header {
        flags: net::HDR_F_NEEDS_CSUM,
        gso_type: net::GSO_TCPV6,
        hdr_len: 74.into(),
        gso_size: 0x0102.into(),
        csum_start: 54.into(),
        csum_offset: 16.into(),
        num_buffers: 0.into(),
    };
    [(plain, 60u16), (segmented, 0x0142)].map(|(header, len)| {
        let payload = (0..len).map(|i| u8::try_from(i % 251).unwrap());
        header.as_bytes().iter().copied().chain(payload).collect()
    })
}

fn send(path: &mut impl Path, mem: &BusMemory, frame: &[u8]) {
    assert!(path.room(mem).unwrap().fill(mem, frame), "there is no room");
    assert_eq!(path.sent(mem, frame.len()), Ok(None));
    path.flush(mem);
}

/// Takes the next frame: its header, and what follows.
fn receive(path: &mut impl Path, mem: &BusMemory) -> (Header, Vec<u8>) {
    let Inward::Frame { prefix, tail, .. } = path.receive(mem).unwrap() else {
        panic!("no frame, or one that was dropped");
    };
    let mut frame = prefix.to_vec();
    for span in tail {
        let at = frame.len();
        frame.resize(at + span.len(), 0);
        mem.view(*span).unwrap().copy_to(0, &mut frame[at..]);
    }
    path.received(mem).unwrap();
    path.release(mem);
    assert!(!path.arm(mem, false).unwrap());
    let (header, payload) = Header::read_from_prefix(&frame).unwrap();
    (header, payload.to_vec())
}

fn check(path: &mut impl Path, mem: &BusMemory, frame: &[u8], num_buffers: u16) {
    let (header, payload) = receive(path, mem);
    let (sent, _) = Header::read_from_prefix(frame).unwrap();
    assert_eq!(header, Header { num_buffers: num_buffers.into(), ..sent });
    assert_eq!(payload, &frame[HEADER_LEN..]);
}

pub(super) fn play(
    stage: &mut Stage,
    master: &mut Option<Master>,
    board: &mut Option<Board>,
    packed: bool,
) {
    let off = [virtio::F_IN_ORDER, virtio::F_INDIRECT_DESC, virtio::F_RING_PACKED];
    let features = Features::OFFER.without(Features::of(&off[..if packed { 2 } else { 3 }]));
    let place = if packed { 4 } else { 2 };
    let [rx, tx] = [place, place + 1].map(|place| rings::config(place, 4, packed));
    let buffers = Buffers {
        receive: RECEIVE..RECEIVE + POSTED * u64::from(RECEIVE_BUFFER),
        transmit: ARENA..ARENA + u64::from(MIN_ARENA),
    };
    stage.step(master, "master posts receive buffers", |end, mem, _| {
        end.path = Some(DriverPath::new(mem, features, &rx, &tx, &buffers).unwrap());
    });
    stage.step(board, "board starts", |end, mem, _| {
        end.path = Some(DevicePath::new(mem, features, &rx, &tx).unwrap());
    });
    for frame in frames() {
        stage.step(master, "master sends a frame", |end, mem, _| {
            send(end.path.as_mut().unwrap(), mem, &frame);
        });
        stage.step(board, "board takes it and sends one", |end, mem, _| {
            check(end.path.as_mut().unwrap(), mem, &frame, 0);
            send(end.path.as_mut().unwrap(), mem, &frame);
        });
        stage.step(master, "master takes it", |end, mem, _| {
            check(end.path.as_mut().unwrap(), mem, &frame, 1);
        });
    }
}

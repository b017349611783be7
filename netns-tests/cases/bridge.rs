//! A TAP that is not ours, in a bridge with our netdev at each end: what it is given comes out of the
//! other one as it was.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use tun_tap::{Iface, Mode};

use crate::traffic::Random;
use crate::world::{World, wait};

/// IEEE 802: local experimental ethertype 1, which nothing else here sends.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Frames under way at once: fewer than any queue between the ends holds.
const WINDOW: usize = 32;

/// A TAP without packet information or virtio-net header.
struct PlainTap {
    iface: Arc<Iface>,
    /// Frames of ours that came out of it.
    came: Receiver<Vec<u8>>,
}

impl PlainTap {
    /// One in a bridge with the machine's `bl0`.
    fn beside_bl0(world: &World, machine: &str) -> Self {
        let iface = world.inside(machine, || Iface::without_packet_info("plain0", Mode::Tap));
        let iface = Arc::new(iface.unwrap());
        world.ip(machine, "link add br0 type bridge");
        for port in ["bl0", "plain0"] {
            world.ip(machine, &format!("link set {port} master br0 up"));
        }
        world.ip(machine, "link set br0 up");
        let (found, came) = mpsc::channel();
        let reader = iface.clone();
        // It ends with the process: there is always another frame to wait for.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = reader.recv(&mut buffer) {
                let frame = &buffer[..len];
                if frame.get(12..14) == Some(&ETHERTYPE) && found.send(frame.to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { iface, came }
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(self.iface.send(frame).unwrap(), frame.len());
    }
}

/// A frame of random octets, to everyone or to a station that no bridge knows.
fn frame(random: &mut Random, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|_| random.octet()).collect();
    let everyone = random.next() % 2 == 0;
    frame[..6].copy_from_slice(&if everyone { [0xff; 6] } else { [2, 0, 0, 0, 0xee, 0xee] });
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, u8::from(everyone)]);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame
}

pub(crate) fn frames_of_a_plain_tap_come_out_of_another_intact() {
    let world = World::running(1, |_, _| "address = []".to_owned());
    let [master, board] = ["master", "board0"].map(|machine| PlainTap::beside_bl0(&world, machine));
    let mut random = Random(3);
    for (from, to, what) in
        [(&master, &board, "master to board"), (&board, &master, "board to master")]
    {
        let first = frame(&mut random, 60);
        wait(&format!("{what}: bridges forward"), || {
            from.send(&first);
            to.came.recv_timeout(Duration::from_millis(20)).map_err(|e| e.to_string())
        });
        // Of the first frame there may be several.
        while to.came.recv_timeout(Duration::from_millis(300)).is_ok() {}
        let frames: Vec<_> = (60..=1514).map(|len| frame(&mut random, len)).collect();
        for some in frames.chunks(WINDOW) {
            some.iter().for_each(|frame| from.send(frame));
            for sent in some {
                let came = to.came.recv_timeout(Duration::from_secs(10));
                let came = came.unwrap_or_else(|_| panic!("{what}: {} octets lost", sent.len()));
                assert!(came == *sent, "{what}: {} octets, came as {came:02x?}", sent.len());
            }
        }
        eprintln!("{what}: {} frames of 60 to 1514 octets intact", frames.len());
        let more = to.came.recv_timeout(Duration::from_millis(50));
        assert!(more.is_err(), "a frame came twice: {more:02x?}");
    }
}

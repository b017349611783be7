//! Peers that meet each other, without boardlane.

use std::path::PathBuf;

use crate::guest::{self, Guest, Qemu};
use crate::lane::FRONT_ENDS;
use crate::testpmd::{Plan, Testpmd, device, driver};
use crate::world::World;

/// Enough to fill every ring several times.
const FRAMES: u64 = 100_000;

/// One machine, and a socket on it.
fn ground() -> (World, PathBuf) {
    let world = World::new(0, |_, _| String::new());
    let socket = world.directory("master").join("vhost.sock");
    (world, socket)
}

fn pair(keys: &str, modes: [&str; 2]) -> (World, Testpmd, Testpmd) {
    let (mut world, socket) = ground();
    let back = Plan { devices: vec![device(&socket, 1)], mode: modes[1], ..Plan::default() };
    let back = Testpmd::start(&mut world, "back", &back);
    let front = Plan {
        devices: vec![driver(&socket, keys)],
        mode: modes[0],
        processor: 1,
        ..Plan::default()
    };
    let front = Testpmd::start(&mut world, "front", &front);
    front.introduce(&world);
    back.introduce(&world);
    let shared = front.features(&world).minus(FRONT_ENDS);
    assert_eq!(shared, back.features(&world).minus(FRONT_ENDS));
    (world, front, back)
}

/// All that the driver sent the device has received.
fn sends_all(keys: &str) {
    let (mut world, mut front, mut back) = pair(keys, ["txonly", "rxonly"]);
    back.forward("rxonly");
    front.forward("txonly");
    front.wait_for(|stats| stats.tx_packets, FRAMES);
    let sent = front.stop();
    back.stats(0);
    let received = back.stop();
    eprintln!("sent {sent:?}, received {received:?}");
    assert_eq!(sent.tx, received.rx);
    front.quit(&mut world);
    back.quit(&mut world);
}

pub(super) fn testpmd_drives_testpmd_with_split_rings() {
    sends_all("packed_vq=0");
}

pub(super) fn testpmd_drives_testpmd_with_packed_rings() {
    sends_all("packed_vq=1");
}

pub(super) fn frames_that_testpmd_sends_back_are_received_again() {
    let (mut world, mut front, mut back) = pair("", ["io", "io"]);
    back.forward("io");
    front.tell("set fwd io");
    front.tell("start tx_first 4");
    front.wait_for(|stats| stats.rx_packets, FRAMES);
    let (front_had, back_had) = (front.stop(), back.stop());
    eprintln!("driver {front_had:?}, device {back_had:?}");
    assert!(back_had.rx >= FRAMES);
    front.quit(&mut world);
    back.quit(&mut world);
}

/// A guest, and testpmd that forwards between it and a TAP.
fn through_testpmd(qemu: Qemu, keys: &str) {
    let (mut world, socket) = ground();
    let devices = vec![device(&socket, 1), "net_tap0,iface=tap0".to_owned()];
    let mut back = Testpmd::start(&mut world, "back", &Plan { devices, ..Plan::default() });
    back.forward("io");
    world.ip("master", "addr add 10.77.0.2/30 dev tap0");
    world.ip("master", "link set tap0 up");
    let network = guest::vhost_user(&socket, 1, keys);
    let mut guest = Guest::start(
        &mut world,
        "guest",
        "master",
        &guest::Plan { qemu, network, ..guest::Plan::default() },
    );
    guest.introduce();
    back.introduce(&world);
    guest.set_up("eth0", "10.77.0.1/30");
    guest.pings("10.77.0.2");
    // A TAP is another port: stop() reads the guest's.
    let had = back.stop();
    eprintln!("{had:?}");
    assert!(had.rx >= 5 && had.tx >= 5);
    let shared = guest.features().minus(FRONT_ENDS);
    assert_eq!(shared, back.features(&world).minus(FRONT_ENDS));
    guest.kill(&mut world);
    back.quit(&mut world);
}

pub(super) fn a_guest_reaches_a_tap_through_testpmd() {
    through_testpmd(Qemu::Later, "packed=on");
}

pub(super) fn a_guest_of_the_systems_qemu_reaches_a_tap_through_testpmd() {
    through_testpmd(Qemu::System, "vectors=0");
}

fn with_own_tap() -> (World, Guest) {
    let (mut world, _) = ground();
    let network = guest::own_tap("tap0", "");
    let plan = guest::Plan { network, ..guest::Plan::default() };
    let mut guest = Guest::start(&mut world, "guest", "master", &plan);
    world.ip("master", "addr add 10.77.0.2/30 dev tap0");
    world.ip("master", "link set tap0 up");
    guest.introduce();
    guest.set_up("eth0", "10.77.0.1/30");
    guest.pings("10.77.0.2");
    (world, guest)
}

pub(super) fn a_guest_reaches_a_tap_of_qemus() {
    let (mut world, mut guest) = with_own_tap();
    guest::serve_iperf3(&mut world, "master");
    let rate = guest.iperf3("10.77.0.2", 1, "");
    eprintln!("{rate:.3} Gbit/s");
    assert!(rate > 0.0);
    world.wait_end("iperf3");
    let (status, text) = guest.run("ethtool -k eth0 && cat /no/such/file");
    assert!(text.contains("tcp-segmentation-offload: on") && status == 1, "{text} {status}");
}

pub(super) fn a_guest_that_reboots_is_back() {
    let (_world, mut guest) = with_own_tap();
    guest.reboot();
    guest.set_up("eth0", "10.77.0.1/30");
    guest.pings("10.77.0.2");
}

//! An agent as a back-end, with the stock Linux driver of a guest as its driver.

use boardlane::net::features;

use crate::guest::{self, Guest, Qemu};
use crate::lane::{Lane, Role};
use crate::world::{check, wait};

const AGENT: &str = "10.77.0.2";
const GUEST: &str = "10.77.0.1";
/// Frames that were on their way when a driver went, and those that a TAP holds for the next.
const OF_A_RESET: &[&str] = &["stale", "queue_reset", "netdev_down"];

/// An agent with a TAP, and a guest whose device has these properties.
fn pair(keys: &str, queues: u16, properties: &str) -> (Lane, Guest) {
    let mut lane = Lane::start(Role::Agent, &format!("queues = {queues}\n{keys}"));
    let guest = start(&mut lane, queues, properties);
    (lane, guest)
}

fn start(lane: &mut Lane, queues: u16, properties: &str) -> Guest {
    let network = guest::vhost_user(&lane.socket(), queues, properties);
    start_with(lane, queues, guest::Plan { network, ..guest::Plan::default() })
}

fn start_with(lane: &mut Lane, queues: u16, plan: guest::Plan) -> Guest {
    let plan = guest::Plan { processors: queues, ..plan };
    let machine = lane.peers();
    let mut guest = Guest::start(&mut lane.world, "guest", machine, &plan);
    guest.introduce();
    is_connected(lane, &mut guest, queues);
    guest
}

/// The netdev gets its address, and reaches the agent's TAP.
fn is_connected(lane: &Lane, guest: &mut Guest, queues: u16) {
    guest.set_up("eth0", &format!("{GUEST}/30"));
    lane.wait_up(queues.into());
    lane.agrees_on(guest.features());
    guest.pings(AGENT);
}

/// TCP both ways, in Gbit/s: to the agent's TAP, and from it.
fn streams(lane: &mut Lane, guest: &mut Guest, words: &str) -> [f64; 2] {
    ["", "-R"].map(|way| {
        let machine = lane.daemon();
        guest::serve_iperf3(&mut lane.world, machine);
        let rate = guest.iperf3(AGENT, 1, &format!("{way} {words}"));
        lane.world.wait_end("iperf3");
        eprintln!("iperf3 {way} {words}: {rate:.3} Gbit/s");
        assert!(rate > 0.0);
        rate
    })
}

fn carries(queues: u16, properties: &str, has: &[&str], lacks: &[&str]) {
    let (mut lane, mut guest) = pair("", queues, properties);
    let negotiated = guest.features();
    let bit = |name: &&str| features::bit(name).unwrap();
    assert!(has.iter().all(|name| negotiated.has(bit(name))), "{has:?} in {negotiated}");
    assert!(!lacks.iter().any(|name| negotiated.has(bit(name))), "no {lacks:?} in {negotiated}");
    streams(&mut lane, &mut guest, "");
    lane.is_well(&[]);
    guest.kill(&mut lane.world);
    lane.wait_not_up();
    lane.is_well(OF_A_RESET);
}

pub(super) fn split_rings_carry_tcp_both_ways() {
    carries(1, "packed=off", &["MRG_RXBUF", "EVENT_IDX"], &["RING_PACKED"]);
}

pub(super) fn packed_rings_carry_tcp_both_ways() {
    carries(1, "packed=on", &["MRG_RXBUF", "RING_PACKED"], &[]);
}

pub(super) fn split_rings_without_mergeable_buffers_carry_tcp_both_ways() {
    carries(1, "packed=off,mrg_rxbuf=off", &[], &["MRG_RXBUF", "RING_PACKED"]);
}

pub(super) fn packed_rings_without_mergeable_buffers_carry_tcp_both_ways() {
    carries(1, "packed=on,mrg_rxbuf=off", &["RING_PACKED"], &["MRG_RXBUF"]);
}

pub(super) fn plain_rings_without_offloads_carry_tcp_both_ways() {
    let lacks = ["EVENT_IDX", "INDIRECT_DESC", "CSUM", "GUEST_CSUM", "HOST_TSO4", "GUEST_TSO4"];
    let off = "event_idx indirect_desc csum guest_csum gso host_tso4 host_tso6 host_ecn host_ufo \
               guest_tso4 guest_tso6 guest_ecn guest_ufo";
    let off: Vec<_> = off.split(' ').map(|name| format!("{name}=off")).collect();
    carries(1, &format!("packed=off,{}", off.join(",")), &["MRG_RXBUF"], &lacks);
}

pub(super) fn a_guest_of_the_systems_qemu_carries_tcp_both_ways() {
    let mut lane = Lane::start(Role::Agent, "");
    let network = guest::vhost_user(&lane.socket(), 1, "vectors=0");
    let plan = guest::Plan { qemu: Qemu::System, network, ..guest::Plan::default() };
    let mut guest = start_with(&mut lane, 1, plan);
    streams(&mut lane, &mut guest, "");
    lane.is_well(&[]);
}

/// Several streams over as many queue pairs as are in use; each must carry some of it.
fn spreads(packed: &str) {
    let (mut lane, mut guest) = pair("", 2, packed);
    streams(&mut lane, &mut guest, "-P 8");
    let each = lane.status().queues;
    assert!(each.iter().all(|queue| queue.rx.frames > 0 && queue.tx.frames > 0), "{each:?}");
    for count in [1, 2] {
        guest.run_well(&format!("ethtool -L eth0 combined {count}"));
        guest.pings(AGENT);
    }
    streams(&mut lane, &mut guest, "-P 4");
    lane.is_well(OF_A_RESET);
}

pub(super) fn two_pairs_of_split_rings_share_the_streams() {
    spreads("packed=off");
}

pub(super) fn two_pairs_of_packed_rings_share_the_streams() {
    spreads("packed=on");
}

/// Octets of an average frame from the guest during a stream from it.
fn average_frame(lane: &mut Lane, guest: &mut Guest) -> u64 {
    let before = lane.counts().rx;
    streams(lane, guest, "");
    let after = lane.counts().rx;
    (after.bytes - before.bytes) / (after.frames - before.frames)
}

pub(super) fn offloads_go_off_and_on_again() {
    let (mut lane, mut guest) = pair("", 1, "packed=on");
    for (state, lengths) in [("off", 60..=1514), ("on", 2000..=65_535)] {
        let all = ["tx", "sg", "tso", "gso", "gro"].map(|name| format!("{name} {state}"));
        guest.run_well(&format!("ethtool -K eth0 {}", all.join(" ")));
        guest.pings(AGENT);
        let average = average_frame(&mut lane, &mut guest);
        assert!(lengths.contains(&average), "{average} octets with offloads {state}");
    }
    lane.is_well(&[]);
}

/// QEMU would let it reset single queues if the back-end offered that, and not tell the back-end.
pub(super) fn a_driver_that_wants_rings_of_another_size_is_refused() {
    let (mut lane, mut guest) = pair("", 1, "packed=on");
    let (status, text) = guest.run("ethtool -G eth0 rx 64 tx 64");
    assert!(status != 0, "{text}");
    guest.pings(AGENT);
    lane.is_well(&[]);
    streams(&mut lane, &mut guest, "");
}

pub(super) fn frames_of_a_large_mtu_pass() {
    let (mut lane, mut guest) = pair("mtu = 9000\n", 1, "packed=on");
    guest.run_well("ip link set eth0 mtu 9000");
    let text = guest.run_well(&format!("ping -c 5 -i 0.1 -W 2 -s 8972 -q {AGENT}"));
    assert!(text.contains("5 packets received"), "{text}");
    streams(&mut lane, &mut guest, "");
    lane.is_well(&[]);
}

pub(super) fn a_driver_that_is_unbound_and_bound_is_back() {
    let (mut lane, mut guest) = pair("", 1, "packed=on");
    for _ in 0..3 {
        let device = guest.run_well("basename $(readlink -f /sys/class/net/eth0/device)");
        let driver = "/sys/bus/virtio/drivers/virtio_net";
        guest.run_well(&format!("echo {} > {driver}/unbind", device.trim()));
        lane.wait_not_up();
        guest.run_well(&format!("echo {} > {driver}/bind", device.trim()));
        is_connected(&lane, &mut guest, 1);
    }
    streams(&mut lane, &mut guest, "");
    lane.is_well(OF_A_RESET);
}

pub(super) fn a_guest_that_reboots_is_back() {
    let (mut lane, mut guest) = pair("", 1, "packed=off");
    guest.reboot();
    is_connected(&lane, &mut guest, 1);
    streams(&mut lane, &mut guest, "");
    lane.is_well(OF_A_RESET);
}

/// Streams both ways are under way, without an end.
fn under_traffic(lane: &mut Lane, guest: &mut Guest) {
    let machine = lane.daemon();
    guest::serve_iperf3(&mut lane.world, machine);
    guest.run_well(&format!("iperf3 -c {AGENT} --bidir -t 60 >/tmp/iperf3 2>&1 & sleep 1"));
    let before = lane.counts();
    wait("traffic flows both ways", || {
        let now = lane.counts();
        let flows =
            now.rx.frames > before.rx.frames + 1000 && now.tx.frames > before.tx.frames + 100;
        check(flows, (&before, &now))
    });
}

pub(super) fn a_reset_in_the_middle_of_traffic_is_survived() {
    for packed in ["packed=off", "packed=on"] {
        let (mut lane, mut guest) = pair("", 1, packed);
        under_traffic(&mut lane, &mut guest);
        guest.reboot();
        lane.world.kill("iperf3");
        is_connected(&lane, &mut guest, 1);
        streams(&mut lane, &mut guest, "");
        lane.is_well(OF_A_RESET);
    }
}

pub(super) fn a_guest_killed_in_the_middle_of_traffic_makes_room_for_another() {
    let (mut lane, mut guest) = pair("", 1, "packed=on");
    under_traffic(&mut lane, &mut guest);
    guest.kill(&mut lane.world);
    lane.world.kill("iperf3");
    lane.wait_not_up();
    let mut guest = start(&mut lane, 1, "packed=off");
    streams(&mut lane, &mut guest, "");
    lane.is_well(OF_A_RESET);
}

/// QEMU knows where a split ring stands when its back-end has gone without a word; where a packed one
/// does it can only guess.
pub(super) fn an_agent_killed_in_the_middle_of_traffic_is_found_again() {
    let mut lane = Lane::start(Role::Agent, "");
    let mut network = guest::vhost_user(&lane.socket(), 1, "packed=off");
    network[1] += ",reconnect=1";
    let plan = guest::Plan { network, ..guest::Plan::default() };
    let mut guest = start_with(&mut lane, 1, plan);
    for _ in 0..3 {
        under_traffic(&mut lane, &mut guest);
        lane.world.kill("board0");
        lane.world.kill("iperf3");
        lane.world.start("board0");
        lane.wait_up(1);
        guest.pings(AGENT);
        guest.run_well("killall iperf3; true");
        streams(&mut lane, &mut guest, "");
    }
    lane.is_well(OF_A_RESET);
}

//! A big-endian machine as the driver of a link: its stock driver, before an agent of this machine that
//! is a vhost-user back-end. What virtio has in memory is little-endian for both.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;

use boardlane::net::features;

use crate::guest::{self, Guest, Plan, Qemu};
use crate::lane::{Lane, Role};
use crate::world::{check, wait};

const AGENT: [&str; 2] = ["10.77.0.2", "fd77::2"];
const GUEST: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// Properties of a device whose kernel makes and checks all checksums itself.
const PLAIN: &str = "csum=off,guest_csum=off,gso=off,host_tso4=off,host_tso6=off,host_ecn=off,\
    host_ufo=off,host_uso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_uso4=off,\
    guest_uso6=off";
/// Frames that were on their way when a driver went, and those that a TAP holds for the next.
const OF_A_RESET: &[&str] = &["stale", "queue_reset", "netdev_down"];
const TRANSFER_BYTES: usize = 4 << 20;
/// Bytes of a datagram to each address: several frames, and one. (An iperf3 does not understand the
/// datagrams of one of the other octet order.)
const DATAGRAMS: [usize; 2] = [16 << 10, 1400];

/// A guest whose device has these properties, before the agent.
fn start(lane: &mut Lane, properties: &str) -> Guest {
    let network = guest::vhost_user_ccw(&lane.socket(), properties);
    // With one processor QEMU makes the guest's atomic operations plain ones. Its kernel clears one
    // queue's bit in a word in which another thread of QEMU's sets another's, and misses an interrupt, once
    // in 20 to 30 s of TCP, also with QEMU's own device; with two processors it has missed none.
    let plan = Plan { qemu: Qemu::S390x, processors: 2, network, ..Plan::default() };
    let machine = lane.peers();
    let mut guest = Guest::start(&mut lane.world, "guest", machine, &plan);
    guest.introduce();
    let seen = guest.run_well(
        "uname -m; cd /sys/bus/virtio/devices; for d in *; do echo $(basename $(readlink -f $d/..)) $d \
         device $(cat $d/device) status $(cat $d/status) $(basename $(readlink $d/driver)); done",
    );
    eprint!("{seen}");
    assert!(seen.starts_with("s390x\n") && seen.contains("virtio_net"), "{seen}");
    is_connected(lane, &mut guest);
    guest
}

/// The netdev gets its addresses, and each end reaches the other's.
fn is_connected(lane: &Lane, guest: &mut Guest) {
    // An address is to be of use at once.
    guest.run_well("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad");
    guest.set_up("eth0", &format!("{}/30", GUEST[0]));
    guest.run_well(&format!("ip addr add {}/64 dev eth0", GUEST[1]));
    lane.wait_up(1);
    lane.agrees_on(guest.features());
    for (agent, guest_s) in AGENT.iter().zip(GUEST) {
        guest.pings(agent);
        lane.pings(guest_s);
    }
}

/// What the guest sends comes back to it unaltered, by TCP and in datagrams.
fn octets_stay(lane: &Lane, guest: &mut Guest) {
    for (address, size) in AGENT.iter().zip(DATAGRAMS) {
        let listener = lane.world.inside(lane.daemon(), || TcpListener::bind("[::]:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = thread::spawn(move || {
            let (mut stream, mut octets) = (listener.accept().unwrap().0, Vec::new());
            stream.read_to_end(&mut octets).unwrap();
            stream.write_all(&octets).unwrap();
        });
        come_back(guest, TRANSFER_BYTES, &format!("-N {address} {port}"));
        other.join().unwrap();
        let socket = lane.world.inside(lane.daemon(), || UdpSocket::bind("[::]:0")).unwrap();
        let port = socket.local_addr().unwrap().port();
        let other = thread::spawn(move || {
            let mut octets = vec![0; size];
            let (length, from) = socket.recv_from(&mut octets).unwrap();
            socket.send_to(&octets[..length], from).unwrap();
        });
        come_back(guest, size, &format!("-u -w 1 {address} {port}"));
        other.join().unwrap();
    }
}

fn come_back(guest: &mut Guest, bytes: usize, words: &str) {
    guest.run_well(&format!("head -c {bytes} /dev/urandom >/tmp/sent"));
    guest.run_well(&format!("nc.openbsd {words} </tmp/sent >/tmp/back"));
    guest.run_well("cmp /tmp/sent /tmp/back");
    eprintln!("{bytes} octets came back: nc {words}");
}

/// TCP to the agent's TAP, and from it.
fn streams(lane: &mut Lane, guest: &mut Guest) {
    for words in ["", "-R"] {
        let machine = lane.daemon();
        guest::serve_iperf3(&mut lane.world, machine);
        let rate = guest.iperf3(AGENT[0], 1, words);
        lane.world.wait_end("iperf3");
        eprintln!("iperf3 {words}: {rate:.3} Gbit/s");
        assert!(rate > 0.0);
    }
}

/// Neither end has seen a checksum that is wrong.
fn checksums_are_right(lane: &Lane, guest: &mut Guest) {
    let command = "cat /proc/net/snmp /proc/net/snmp6";
    let own = lane.world.run_well(lane.daemon(), &["sh", "-c", command]);
    for (end, text) in [("guest", guest.run_well(command)), ("agent", own)] {
        let wrong = wrong_checksums(&text);
        eprintln!("{end}: wrong checksums: {wrong:?}");
        assert!(wrong.len() >= 5 && wrong.iter().all(|(_, count)| count == "0"), "{text}");
    }
}

/// Counters by name, in the kernel's two forms: a line of names above one of values; a line for each.
fn wrong_checksums(text: &str) -> Vec<(String, String)> {
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let tables = rows.windows(2).filter(|pair| pair[0].first() == pair[1].first());
    let cells = tables.flat_map(|pair| {
        let cells = pair[0].iter().zip(&pair[1]).skip(1);
        cells.map(|(name, value)| (format!("{}{name}", pair[0][0]), (*value).to_owned()))
    });
    let lines = rows.iter().filter(|row| row.len() == 2);
    let all = cells.chain(lines.map(|row| (row[0].to_owned(), row[1].to_owned())));
    all.filter(|(name, _)| name.ends_with("CsumErrors")).collect()
}

fn carries(properties: &str, has: &[&str], lacks: &[&str]) {
    let mut lane = Lane::start(Role::Agent, "");
    let mut guest = start(&mut lane, properties);
    let negotiated = guest.features();
    let bit = |name: &&str| features::bit(name).unwrap();
    assert!(has.iter().all(|name| negotiated.has(bit(name))), "{has:?} in {negotiated}");
    assert!(!lacks.iter().any(|name| negotiated.has(bit(name))), "no {lacks:?} in {negotiated}");
    octets_stay(&lane, &mut guest);
    streams(&mut lane, &mut guest);
    checksums_are_right(&lane, &mut guest);
    lane.is_well(&[]);
    guest.kill(&mut lane.world);
    lane.wait_not_up();
    lane.is_well(OF_A_RESET);
}

pub(super) fn split_rings_carry_traffic_both_ways() {
    let has =
        ["VERSION_1", "EVENT_IDX", "MRG_RXBUF", "CSUM", "GUEST_CSUM", "HOST_TSO4", "GUEST_TSO6"];
    carries("packed=off", &has, &["RING_PACKED"]);
}

pub(super) fn packed_rings_carry_traffic_both_ways() {
    carries("packed=on", &["VERSION_1", "RING_PACKED", "CSUM", "GUEST_CSUM", "HOST_TSO6"], &[]);
}

pub(super) fn rings_without_offloads_carry_traffic_both_ways() {
    let properties = format!("packed=on,mrg_rxbuf=off,{PLAIN}");
    let lacks = ["MRG_RXBUF", "CSUM", "GUEST_CSUM", "HOST_TSO4", "HOST_TSO6", "GUEST_TSO4"];
    carries(&properties, &["VERSION_1", "RING_PACKED"], &lacks);
}

/// Streams both ways are under way, without an end.
fn under_traffic(lane: &mut Lane, guest: &mut Guest) {
    let machine = lane.daemon();
    guest::serve_iperf3(&mut lane.world, machine);
    guest.run_well(&format!("iperf3 -c {} --bidir -t 60 >/tmp/iperf3 2>&1 &", AGENT[0]));
    let before = lane.counts();
    wait("traffic flows both ways", || {
        let now = lane.counts();
        let flows =
            now.rx.frames > before.rx.frames + 1000 && now.tx.frames > before.tx.frames + 1000;
        check(flows, (&before, &now))
    });
}

/// A machine of s390x that boots again takes minutes to unpack its kernel, whatever its devices are: QEMU
/// translates the code that does it over and over. So what comes back is another guest.
pub(super) fn resets_in_the_middle_of_traffic_are_survived() {
    let mut lane = Lane::start(Role::Agent, "");
    let mut guest = start(&mut lane, "packed=off");
    let device = guest.run_well("basename $(readlink -f /sys/class/net/eth0/device)");
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    for _ in 0..2 {
        under_traffic(&mut lane, &mut guest);
        guest.run_well(&format!("echo {} > {driver}/unbind", device.trim()));
        lane.world.kill("iperf3");
        lane.wait_not_up();
        guest.run_well(&format!("killall iperf3; echo {} > {driver}/bind", device.trim()));
        is_connected(&lane, &mut guest);
    }
    under_traffic(&mut lane, &mut guest);
    guest.say("reboot -f");
    lane.wait_not_up();
    guest.kill(&mut lane.world);
    lane.world.kill("iperf3");
    let mut guest = start(&mut lane, "packed=on");
    octets_stay(&lane, &mut guest);
    checksums_are_right(&lane, &mut guest);
    lane.is_well(OF_A_RESET);
}

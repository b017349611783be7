//! VLANs and VRFs of a config, in a guest whose kernel has them: made, used, healed, changed, and gone again;
//! and namesakes that are nobody's to touch.

use std::fs;
use std::time::Duration;

use crate::bus;
use crate::guest::{Guest, Plan};
use crate::world::World;

/// What is broken, and what the guest's shell then waits for, on the master.
const BROKEN: [(&str, &str, &str); 6] = [
    (
        "VLAN's address",
        "addr del 10.90.0.1/24 dev bl0.200",
        "addr show bl0.200 | grep -q 10.90.0.1/24",
    ),
    (
        "VLAN's route",
        "route del 10.91.0.0/24 dev bl0.200",
        "route show dev bl0.200 | grep -q '^10.91.0.0/24'",
    ),
    ("VLAN", "link del bl0.200", "route show dev bl0.200 | grep -q '^10.91.0.0/24'"),
    ("VLAN's name", "link set bl0.200 name other", "addr show bl0.200 | grep -q 10.90.0.1/24"),
    ("VLANs' netdev", "link del bl0", "route show dev bl0.200 | grep -q '^10.91.0.0/24'"),
    ("VRF", "link set bl1 nomaster", "link show bl1 | grep -q 'master red'"),
];

struct Machines {
    world: World,
    guest: Guest,
}

fn config(vlans: &str, keep: bool) -> String {
    let head = "control = \"/run/boardlane/master\"\n";
    // Its source is a VLAN's address, which comes after the netdev.
    let route = "route = [{ to = \"10.93.0.0/24\", via = \"10.77.0.2\", source = \"10.90.0.1\" }]";
    let route = if vlans == VLANS { route } else { "" };
    let keys = format!("up = true\nkeep = {keep}\nvlan = [{vlans}]\n{route}");
    let bl0 = link(0, "bl0", 1, &keys);
    format!("{head}{bl0}{}", link(1, "bl1", 1, "vrf = \"red\""))
}

fn link(slot: u8, name: &str, host: u8, keys: &str) -> String {
    format!(
        "[[link]]\nname = \"{name}\"\ntransport = \"shm:/run/boardlane/slot{slot}.sock\"\n\
         heartbeat_ms = 1000\naddress = [\"10.77.{slot}.{host}/30\"]\n{keys}\n"
    )
}

const VLANS: &str = "100, { id = 200, address = [\"10.90.0.1/24\", \"fd90::1/64\"], \
    route = [{ to = \"10.91.0.0/24\", via = \"10.90.0.2\" }] }";

impl Machines {
    fn start() -> Self {
        let mut world = World::new(0, |_, _| String::new());
        let directory = world.directory("master");
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let agent = |slot, keys: &str| {
            let keys = format!("netns = \"board{slot}\"\n{keys}");
            format!("control = \"/run/boardlane/board{slot}\"\n{}", link(slot, "bl0", 2, &keys))
        };
        let vlans = "vlan = [{ id = 200, address = [\"10.90.0.2/24\", \"fd90::2/64\"] }]";
        let plan = Plan {
            processors: 2,
            modules: &["tun", "8021q", "vrf", "dummy"],
            programs: &["ip", "ping"],
            files: vec![
                (bus::program(), "bin/boardlane"),
                (file("master", &config(VLANS, false)), "etc/master"),
                (file("kept", &config(VLANS, true)), "etc/kept"),
                (
                    file("fewer", &config("{ id = 300, address = [\"10.92.0.1/24\"] }", false)),
                    "etc/fewer",
                ),
                (file("board0", &agent(0, vlans)), "etc/board0"),
                (file("board1", &agent(1, "")), "etc/board1"),
            ],
            ..Plan::default()
        };
        let mut guest = Guest::start(&mut world, "guest", "master", &plan);
        guest.run_well(
            "export PATH=/bin
            mkdir -p /run/boardlane /var && ln -s /run /var/run && uname -r
            for board in board0 board1; do /bin/ip netns add $board && /bin/ip -n $board link set lo up; done
            boardlane backplane --dir /run/boardlane --slots 2 </dev/null >/tmp/backplane 2>&1 &
            start() {
                [ $1 = master ] && role=master || role=agent
                boardlane $role --config /etc/$1 </dev/null >>/tmp/$1 2>&1 & echo $! >/tmp/$1.pid
            }
            # Hundredths of a second since the start.
            now() { read up rest </proc/uptime; echo ${up%.*}${up#*.}; }
            healed_by() { n=0; until eval \"$1\"; do n=$((n+1)); [ $n -lt 1000 ] || return 1; usleep 10000; done; }",
        );
        Self { world, guest }
    }

    fn start_daemons(&mut self) {
        self.guest.run_well("for end in master board0 board1; do start $end; done");
        self.wait_up();
    }

    fn wait_up(&mut self) {
        let up = "boardlane status --control /run/boardlane/master | grep -c ' up '";
        self.guest.until(&format!("[ $({up}) = 2 ]"));
    }

    fn ip(&mut self, words: &str) -> String {
        self.guest.run_well(&format!("/bin/ip {words}"))
    }

    fn is_said(&mut self, text: &str) {
        self.guest
            .until(&format!("boardlane status --control /run/boardlane/master | grep '{text}'"));
    }

    fn pings(&mut self) {
        for words in ["10.90.0.2", "-6 fd90::2", "10.77.0.2", "-I red 10.77.1.2"] {
            self.guest.until(&format!("/bin/ping -c 1 -W 1 -q {words}"));
            let full = if words.contains("::") { 1452 } else { 1472 };
            self.guest.run_well(&format!("/bin/ping -c 3 -i 0.1 -w 8 -q -M do -s {full} {words}"));
        }
    }

    fn end(mut self) {
        self.guest.kill(&mut self.world);
    }
}

pub(super) fn vlans_and_vrfs_are_made_healed_and_gone_again() {
    let mut machines = Machines::start();
    // A namesake that was there before, and a VRF that comes later.
    machines.ip("link add bl0.100 type dummy");
    machines.start_daemons();
    machines.is_said("bl0.100: the name is taken by a network interface of kind dummy");
    machines.is_said("VRF red does not exist yet");
    machines.ip("link add red type vrf table 10");
    machines.ip("link set red up");
    machines.guest.until("/bin/ip link show bl1 | grep 'master red'");
    let foreign = machines.ip("-d -o link show bl0.100");
    assert!(!foreign.contains("boardlane"), "{foreign}");
    machines.ip("link del bl0.100");
    machines.guest.until("/bin/ip -d link show bl0.100 | grep 'vlan protocol 802.1Q id 100'");
    machines
        .guest
        .until("[ -z \"$(boardlane status --control /run/boardlane/master | grep taken)\" ]");
    machines.guest.until("/bin/ip route show dev bl0 | grep '^10.93.0.0/24.*src 10.90.0.1'");
    machines.pings();
    eprintln!("{}", machines.ip("-d -br link"));

    // Somebody else's VLAN and address beside them.
    machines.ip("link add link bl0 name mine type vlan id 77");
    machines.ip("addr add 198.51.100.1/24 dev bl0.200");
    eprintln!("{:20} {:>8}", "broken and set again", "ms");
    for (what, broken_by, healed) in BROKEN {
        std::thread::sleep(Duration::from_millis(300));
        let text = machines.guest.run_well(&format!(
            "t=$(now); /bin/ip {broken_by}; healed_by '/bin/ip {healed} 2>/dev/null' && echo $(( ($(now) - t) * 10 ))"
        ));
        let ms: u32 = text.trim().lines().last().unwrap().parse().expect(&text);
        eprintln!("{what:20} {ms:8}");
        assert!(ms < 10_000);
        if what == "VLAN's address" {
            let text = machines.ip("addr show bl0.200");
            assert!(text.contains("198.51.100.1/24"), "{text}");
        }
        machines.wait_up();
    }
    machines.pings();
    machines.ip("link set bl0 mtu 1400");
    machines.guest.until("/bin/ip link show bl0.200 | grep 'mtu 1400'");
    // Once the other end is told, the daemon has seen it. What goes down and up between two looks leaves the
    // VLAN with the lower MTU, by the kernel's doing, and cannot be told from an operator's.
    machines.guest.until("/bin/ip netns exec board0 /bin/ip link show bl0 | grep 'mtu 1400'");
    machines.ip("link set bl0 mtu 1500");
    machines.guest.until("/bin/ip link show bl0.200 | grep 'mtu 1500'");
    machines.pings();

    // The next daemon finds them; another config has others.
    machines.guest.run_well("kill -9 $(cat /tmp/master.pid) && start master");
    machines.wait_up();
    machines.pings();
    machines
        .guest
        .run_well("cp /etc/fewer /etc/master && boardlane reload --control /run/boardlane/master");
    let text = machines.ip("-br link");
    assert!(
        text.contains("bl0.300") && !text.contains("bl0.200") && !text.contains("bl0.100"),
        "{text}"
    );
    // One that a killed daemon left, and its successor has no use for.
    machines
        .guest
        .run_well("kill -9 $(cat /tmp/master.pid) && cp /etc/kept /etc/master && start master");
    machines.wait_up();
    machines.guest.until("! /bin/ip link show bl0.300 2>/dev/null");
    machines.pings();
    // What is kept stays, and what is not goes.
    machines.guest.run_well("kill $(cat /tmp/master.pid) && wait $(cat /tmp/master.pid)");
    assert!(machines.ip("-br addr").contains("10.90.0.1/24"));
    machines.guest.run_well("cp /etc/fewer /etc/master && start master");
    machines.wait_up();
    machines.guest.run_well("kill $(cat /tmp/master.pid) && wait $(cat /tmp/master.pid)");
    let text = machines.ip("-br link");
    assert!(!text.contains("bl0"), "{text}");
    let (_, left) = machines.guest.run("ls /run/boardlane | grep master.*owned");
    assert_eq!(left, "");
    machines.end();
}

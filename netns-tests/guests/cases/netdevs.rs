//! Netdevs of other kinds on and behind links. A guest's kernel has these kinds, so the guest is all of the
//! machines: the master, and as network namespaces two boards. The first one's agent moves its frames
//! itself, for the other one vhost-net does.

use std::fs;
use std::net::Ipv6Addr;

use boardlane::daemon::status::{LinkStatus, Status, Traffic};
use serde_json::Value;

use crate::bus;
use crate::guest::{Guest, Plan};
use crate::world::World;

const BOARDS: [u8; 2] = [0, 1];
/// Echoes of a `ping`.
const ECHOES: u64 = 5;
/// The most bytes that an echo can carry in an MTU of 1500 bytes, by IPv4 and by IPv6.
const FULL: [&str; 2] = ["1472", "1452"];

/// A master's end and each board's, all up.
struct Machines {
    world: World,
    guest: Guest,
}

impl Machines {
    fn start() -> Self {
        let links = BOARDS.map(|board| {
            let route = format!("{{ to = \"10.88.{board}.0/24\", via = \"10.77.{board}.2\" }}");
            link(board, &format!("bl{board}"), 1, &format!("route = [{route}]"))
        });
        let agents = BOARDS.map(|board| {
            let route = format!("{{ to = \"10.0.0.0/8\", via = \"10.77.{board}.1\" }}");
            let pump = ["builtin", "vhost-net"][usize::from(board)];
            let keys = format!("route = [{route}]\nnetns = \"board{board}\"\npump = \"{pump}\"");
            link(board, "bl0", 2, &keys)
        });
        let mut machines = Self::with(&links.concat(), &agents);
        machines.wait_up();
        for (board, pump) in BOARDS.into_iter().zip(["builtin", "vhost-net"]) {
            let link = machines.link(&format!("board{board}"), 0);
            assert_eq!((&*link.pump.mode, &link.pump.reason), (pump, &None));
            eprintln!("board{board}: {pump}, {}", link.features.join(" "));
        }
        machines
    }

    /// With these configs of the master and of both boards' agents.
    fn with(master: &str, agents: &[String; 2]) -> Self {
        let mut world = World::new(0, |_, _| String::new());
        let directory = world.directory("master");
        let config = |name: &str, links: &str| {
            let path = directory.join(name);
            fs::write(&path, format!("control = \"/run/boardlane/{name}\"\n{links}")).unwrap();
            path
        };
        let plan = Plan {
            processors: 2,
            modules: &["tun", "vhost_net", "8021q", "vrf", "dummy"],
            programs: &["ip", "ping"],
            files: vec![
                (bus::program(), "bin/boardlane"),
                (config("master", master), "etc/master"),
                (config("board0", &agents[0]), "etc/board0"),
                (config("board1", &agents[1]), "etc/board1"),
            ],
            ..Plan::default()
        };
        let mut guest = Guest::start(&mut world, "guest", "master", &plan);
        guest.run_well(
            "export PATH=/bin
            mkdir -p /run/boardlane /var && ln -s /run /var/run && uname -r && ls -l /dev/vhost-net
            for board in board0 board1; do /bin/ip netns add $board && /bin/ip -n $board link set lo up; done
            boardlane backplane --dir /run/boardlane --slots 2 </dev/null >/tmp/backplane 2>&1 &
            start() {
                [ $1 = master ] && role=master || role=agent
                boardlane $role --config /etc/$1 </dev/null >>/tmp/$1 2>&1 & echo $! >/tmp/$1.pid
            }
            for end in master board0 board1; do start $end; done",
        );
        Self { world, guest }
    }

    fn wait_up(&mut self) {
        self.guest
            .until("[ $(boardlane status --control /run/boardlane/master | grep -c ' up ') = 2 ]");
    }

    /// What a machine's daemon says of a link.
    fn link(&mut self, machine: &str, number: usize) -> LinkStatus {
        let words = format!("boardlane status --json --control /run/boardlane/{machine}");
        let status: Status = serde_json::from_str(&self.guest.run_well(&words)).expect("a status");
        status.links[number].clone()
    }

    /// Runs a command on a machine.
    fn run(&mut self, machine: &str, command: &str) -> (u8, String) {
        // By its path, as the shell would take busybox's own.
        let on = if machine == "master" { "" } else { &format!("ip netns exec {machine} ") };
        self.guest.run(&format!("/bin/{on}{command}"))
    }

    /// The same, which must succeed.
    fn run_well(&mut self, machine: &str, command: &str) -> String {
        let (status, text) = self.run(machine, command);
        assert_eq!(status, 0, "{machine}: {command}: {text}");
        text
    }

    /// Runs several of `ip`'s commands on a machine, which stand in a row.
    fn ip(&mut self, machine: &str, commands: &str) {
        for command in commands.split("; ") {
            self.run_well(machine, &format!("ip {command}"));
        }
    }

    /// A netdev behind a board's link.
    fn add_dummy(&mut self, board: u8, address: &str) {
        let commands = format!("addr add {address} dev dummy0; link set dummy0 up");
        self.ip(&format!("board{board}"), &format!("link add dummy0 type dummy; {commands}"));
    }

    /// Echoes come back, small ones and those that fill a frame.
    fn pings(&mut self, machine: &str, words: &str) {
        // One to find the way.
        self.run(machine, &format!("ping -c 1 -w 5 -q {words}"));
        for size in ["56", FULL[usize::from(words.contains("::"))]] {
            let command = format!("ping -c {ECHOES} -i 0.05 -w 8 -q -M do -s {size} {words}");
            let text = self.run_well(machine, &command);
            eprintln!("{machine}: {words}: {}", text.lines().find(|l| l.contains("loss")).unwrap());
            assert!(text.contains(" 0% packet loss"), "{text}");
        }
    }

    /// Nothing comes back.
    fn is_not_answered(&mut self, machine: &str, words: &str) {
        let (status, text) = self.run(machine, &format!("ping -c 2 -i 0.2 -W 0.5 -q {words}"));
        assert_ne!(status, 0, "{text}");
    }

    /// TCP from the master to a board's address, and from it.
    fn streams(&mut self, board: u8, address: &str, words: &str) {
        for way in ["", "-R"] {
            self.guest.serve_iperf3(&format!("/bin/ip netns exec board{board}"));
            let rate = self.guest.iperf3(address, 1, &format!("{way} {words}"));
            eprintln!("iperf3 {address} {way} {words}: {rate:.3} Gbit/s");
            assert!(rate > 0.0);
        }
    }

    /// Packets and bytes of a netdev, received and sent.
    fn netdev(&mut self, machine: &str, name: &str) -> [[u64; 2]; 2] {
        let text = self.run_well(machine, &format!("ip -j -s link show dev {name}"));
        let netdev: Value = serde_json::from_str(&text).expect("what ip says");
        ["rx", "tx"].map(|way| {
            ["packets", "bytes"].map(|what| netdev[0]["stats64"][way][what].as_u64().unwrap())
        })
    }

    /// The link's netdevs have counted what went over it, and the daemons have dropped none of it.
    fn is_well(&mut self, board: u8) {
        let other = format!("board{board}");
        for (machine, number, name) in
            [("master", usize::from(board), format!("bl{board}")), (&*other, 0, "bl0".to_owned())]
        {
            let queue = self.link(machine, number).queues.remove(0);
            let netdev = self.netdev(machine, &name);
            eprintln!("{machine}: {name}: {netdev:?}, {:?}, {:?}", queue.rx, queue.tx);
            for (Traffic { frames, drops, .. }, [packets, _]) in
                [queue.rx, queue.tx].iter().zip(netdev)
            {
                // Stale is what a netdev had sent before the link was up.
                assert!(drops.iter().all(|(why, n)| *n == 0 || why == "stale"), "{drops:?}");
                // A daemon on vhost-net looks at the netdev once a second.
                assert!(*frames <= packets && packets - frames < 10_000, "{frames} {packets}");
            }
        }
    }

    fn end(mut self) {
        self.guest.kill(&mut self.world);
    }
}

/// The lines of a link in a config.
fn link(slot: u8, name: &str, host: u8, keys: &str) -> String {
    format!(
        "[[link]]\nname = \"{name}\"\ntransport = \"shm:/run/boardlane/slot{slot}.sock\"\n\
         heartbeat_ms = 1000\naddress = [\"10.77.{slot}.{host}/30\", \"fd77:0:0:{slot}::{host}/64\"]\n{keys}\n"
    )
}

pub(super) fn vlans_on_both_ends_carry_full_frames() {
    let mut machines = Machines::start();
    for board in BOARDS {
        let (other, [vlan, others]) =
            (format!("board{board}"), [format!("bl{board}.10"), "bl0.10".into()]);
        let ends =
            [("master", format!("bl{board}"), &vlan, 1), (&*other, "bl0".to_owned(), &others, 2)];
        for (machine, on, name, host) in &ends {
            let address = format!("addr add 10.80.{board}.{host}/24 dev {name}");
            let vlan = format!("link add link {on} name {name} type vlan id 10");
            machines.ip(machine, &format!("{vlan}; {address}; link set {name} up"));
        }
        let before = ends.each_ref().map(|(machine, _, name, _)| machines.netdev(machine, name));
        machines.pings("master", &format!("10.80.{board}.2"));
        machines.pings(&other, &format!("10.80.{board}.1"));
        for ((machine, _, name, _), before) in ends.iter().zip(before) {
            let text = machines.run_well(machine, &format!("ip -d -br link show dev {name}"));
            let now = machines.netdev(machine, name);
            eprintln!("{machine}: {}: {before:?} before, now {now:?}", text.trim());
            for (before, now) in before.iter().zip(now) {
                // Both machines' echoes, and their answers.
                let [packets, bytes] = [0, 1].map(|i| now[i] - before[i]);
                assert!(packets >= 4 * ECHOES && bytes >= 2 * ECHOES * 1500);
            }
        }
        machines.streams(board, &format!("10.80.{board}.2"), "");
        // What has another tag is for nobody there.
        let vlan = format!("link add link bl{board} name v20 type vlan id 20");
        machines.ip("master", &format!("{vlan}; addr add 10.81.0.1/24 dev v20; link set v20 up"));
        machines.ip(&other, "addr add 10.81.0.2/24 dev bl0.10");
        machines.is_not_answered("master", "10.81.0.2");
        machines.ip("master", "link del v20");
        machines.is_well(board);
    }
    machines.end();
}

pub(super) fn links_in_vrfs_are_reached_by_their_tables_only() {
    let mut machines = Machines::start();
    for board in BOARDS {
        let (bl, vrf, table) =
            (format!("bl{board}"), format!("vrf{board}"), 100 + u32::from(board));
        let add = format!("link add {vrf} type vrf table {table}; link set {vrf} up");
        machines.ip("master", &format!("{add}; link set {bl} master {vrf}"));
        // The same network behind both boards.
        machines.add_dummy(board, "10.99.0.1/24");
        machines.ip("master", &format!("route add 10.99.0.0/24 via 10.77.{board}.2 vrf {vrf}"));
    }
    machines.wait_up();
    for board in BOARDS {
        let (bl, vrf) = (format!("bl{board}"), format!("vrf{board}"));
        // The kernel has taken the address of IPv6 away; the daemon sets it again.
        let address: Ipv6Addr = format!("fd77:0:0:{board}::1").parse().unwrap();
        machines.guest.until(&format!("/bin/ip -br addr show dev {bl} | grep ' {address}/64'"));
        let text = machines.run_well("master", &format!("ip route show vrf {vrf}"));
        eprintln!("{text}");
        assert!(text.contains("10.77.") && text.contains("10.99.0.0/24"), "{text}");
        let text = machines.run_well("master", "ip route");
        assert!(!text.contains(&format!("10.77.{board}.0/30")), "{text}");
        machines.is_not_answered("master", &format!("10.77.{board}.2"));
        machines.pings("master", &format!("-I {vrf} 10.77.{board}.2"));
        machines.pings("master", &format!("-I {vrf} fd77:0:0:{board}::2"));
        let before = machines.netdev("master", &bl);
        machines.pings("master", &format!("-I {vrf} 10.99.0.1"));
        let now = machines.netdev("master", &bl);
        assert!(before.iter().zip(now).all(|(before, now)| now[0] - before[0] >= 2 * ECHOES));
        machines.streams(board, "10.99.0.1", &format!("--bind-dev {vrf}"));
        machines.is_well(board);
    }
    // The next master finds the netdevs where they are.
    machines.guest.run_well("kill -9 $(cat /tmp/master.pid) && start master");
    machines.wait_up();
    for board in BOARDS {
        machines.pings("master", &format!("-I vrf{board} 10.99.0.1"));
        machines.is_well(board);
    }
    machines.end();
}

pub(super) fn networks_behind_boards_are_reached_through_their_links() {
    let mut machines = Machines::start();
    let forward = "sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'";
    machines.run_well("master", forward);
    for board in BOARDS {
        machines.run_well(&format!("board{board}"), forward);
        machines.add_dummy(board, &format!("10.88.{board}.1/24"));
    }
    for board in BOARDS {
        let other = format!("board{board}");
        let text = machines.run_well("master", &format!("ip route get 10.88.{board}.1"));
        eprintln!("master: {}", text.trim());
        machines.pings("master", &format!("10.88.{board}.1"));
        // A dummy takes all, and answers nothing.
        let before = machines.netdev(&other, "dummy0");
        machines.is_not_answered("master", &format!("-c {ECHOES} 10.88.{board}.77"));
        let now = machines.netdev(&other, "dummy0");
        eprintln!("{other}: dummy0: {before:?} before, now {now:?}");
        assert!(now[1][0] - before[1][0] >= ECHOES);
        // From the network behind one board to that behind the other.
        machines.pings(&other, &format!("-I 10.88.{board}.1 10.88.{}.1", 1 - board));
        machines.streams(board, &format!("10.88.{board}.1"), "");
        machines.is_well(board);
    }
    machines.end();
}

/// The example as it stands.
fn example(name: &str) -> String {
    let path = format!("{}/examples/config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(path).unwrap()
}

pub(super) fn the_model_with_a_vrf_keeps_boards_to_its_table() {
    let agents = BOARDS.map(|board| {
        let slot = format!("slot = {board}\nnetns = \"board{board}\"");
        example("agent-crate").replace("slot = 0", &slot)
    });
    let mut machines = Machines::with(&example("master-vrf"), &agents);
    machines.wait_up();
    let text = machines.guest.run_well("boardlane status --control /run/boardlane/master");
    assert!(text.contains("boards"), "the VRF is missing, and nothing says so: {text}");
    machines.ip("master", "link add boards type vrf table 77; link set boards up");
    for name in ["bl0", "bl1"] {
        machines.guest.until(&format!("/bin/ip -br link show master boards | grep {name}"));
    }
    for (board, near, far) in [(0, "10.77.0.1", "10.77.0.2"), (1, "10.77.0.5", "10.77.0.6")] {
        machines.guest.until(&format!("/bin/ip route show vrf boards | grep {near}"));
        machines.is_not_answered("master", far);
        machines.pings("master", &format!("-I boards {far}"));
        machines.guest.until(&format!("/bin/ip -br addr show dev bl{board} | grep fd77"));
        machines.pings("master", &format!("-I boards fd77:0:0:{board}::2"));
    }
    // By the master, in the VRF's table.
    machines.pings("board0", "10.77.0.6");
    let text = machines.run_well("master", "ip route");
    assert!(!text.contains("10.77."), "{text}");
    machines.ip("master", "link set bl0 nomaster");
    machines.guest.until("/bin/ip -br link show master boards | grep bl0");
    machines.pings("master", "-I boards 10.77.0.2");
    machines.end();
}

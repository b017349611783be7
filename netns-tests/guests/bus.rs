//! A backplane, and guests in which its slots are functions on their PCI bus.

use std::path::{Path, PathBuf};

use boardlane::daemon::status::{LinkState, LinkStatus, Status};

use crate::guest::{Guest, Plan, serve_iperf3};
use crate::world::{PROGRAM, World, check, wait};

/// Vendor and device of ivshmem-doorbell.
const KIND: &str = "0x1af4:0x1110";
/// Doorbells of an end, as a backplane gives it by default.
const VECTORS: u16 = 4;
/// The functions' first address.
const FIRST: u8 = 0x10;
/// The addresses of a link's ends.
pub(crate) const MASTER: &str = "10.77.0.1";
pub(crate) const BOARD: &str = "10.77.0.2";

/// Starts the daemon; `/tmp/pid` is its process.
const START: &str = "mkdir -p /run
boardlane $(cat /etc/role) --config /etc/boardlane.toml </dev/null >>/tmp/daemon.log 2>&1 &
echo $! >/tmp/pid
";

/// What a guest's machine has, and what it does.
pub(crate) struct Machine {
    /// Slots of the backplane; each is a function, and the lowest address is the first one's.
    pub(crate) slots: &'static [u8],
    pub(crate) iommu: bool,
    /// Kernel modules.
    pub(crate) modules: &'static [&'static str],
    /// QEMU's arguments for the network.
    pub(crate) network: Vec<String>,
    /// The daemon that is started at each boot, if one is: "master" or "agent".
    pub(crate) role: &'static str,
    /// Its config.
    pub(crate) config: String,
    /// What a shell does before that.
    pub(crate) before: &'static str,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            slots: &[0],
            iommu: true,
            modules: VFIO,
            network: Vec::new(),
            role: "",
            config: String::new(),
            before: "",
        }
    }
}

/// Modules of a guest that has its functions by VFIO, and of one that has them otherwise.
const VFIO: &[&str] = &["tun", "vfio-pci", "vfio_iommu_type1"];
pub(crate) const NO_VFIO: &[&str] = &["tun"];

/// The address that a slot's function has in a guest.
pub(crate) fn address(slot: u8) -> String {
    format!("0000:00:{:02x}.0", FIRST + slot)
}

/// A master with one link, to a board by this transport; `keys` are further lines of it.
pub(crate) fn master(transport: &str, keys: &str) -> Machine {
    Machine { role: "master", config: link("bl0", transport, MASTER, keys), ..Machine::default() }
}

/// A link with an address.
pub(crate) fn link(name: &str, transport: &str, address: &str, keys: &str) -> String {
    format!(
        "[[link]]\nname = \"{name}\"\ntransport = \"{transport}\"\naddress = [\"{address}/30\"]\n{keys}\n"
    )
}

/// A running backplane. Slot i's board is the machine `board<i>`, whose agent does not run yet; see
/// [`World`].
pub(crate) struct Bus {
    pub(crate) world: World,
}

impl Bus {
    pub(crate) fn start(boards: u8) -> Self {
        let mut bus = Self { world: World::new(boards, |_, _| String::new()) };
        bus.start_backplane();
        bus
    }

    pub(crate) fn start_backplane(&mut self) {
        self.world.start("backplane");
        wait("the backplane listens", || check(self.world.slot(0).exists(), "no socket"));
    }

    /// As [`Bus::start`] with a board whose agent runs, and a guest.
    pub(crate) fn with(machine: &Machine) -> (Self, End) {
        let mut bus = Self::start(1);
        bus.world.start("board0");
        let end = bus.guest("guest", machine);
        (bus, end)
    }

    /// Starts a guest.
    pub(crate) fn guest(&mut self, name: &str, machine: &Machine) -> End {
        let mut devices = Vec::new();
        if machine.iommu {
            devices.extend(["-device", "intel-iommu,intremap=on"].map(str::to_owned));
        }
        for slot in machine.slots {
            let socket = self.world.slot(*slot).display().to_string();
            let chardev = format!("socket,path={socket},id=slot{slot}");
            let device = format!("ivshmem-doorbell,chardev=slot{slot},vectors={VECTORS}");
            let device = format!("{device},addr={:#x}", FIRST + slot);
            devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device]);
        }
        let file = |name: &str, content: &str| {
            let path = self.world.directory("master").join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let mut files = vec![(program(), "bin/boardlane")];
        if !machine.role.is_empty() {
            files.push((file("role", machine.role), "etc/role"));
            files.push((file("config", &machine.config), "etc/boardlane.toml"));
            files.push((file("start", &format!("{}{START}", machine.before)), "start"));
        }
        let plan = Plan {
            network: machine.network.clone(),
            devices,
            append: if machine.iommu { "intel_iommu=on iommu=nopt" } else { "" },
            modules: machine.modules,
            files,
            ..Plan::default()
        };
        End { guest: Guest::start(&mut self.world, name, "master", &plan) }
    }

    /// Waits until board 0's agent says that the link is up; shows the features.
    pub(crate) fn agent_up(&self) {
        let link = self.world.wait_state("board0", "bl0", LinkState::Up, "");
        eprintln!("the agent outside: up, {}", link.features.join(" "));
    }

    /// Echoes and TCP both ways between a guest and board 0, and what they did to the guest's interrupts.
    pub(crate) fn traffic(&mut self, end: &mut End) -> [u64; 2] {
        let before = end.interrupts();
        end.guest.pings(BOARD);
        let ping = ["ping", "-c", "5", "-i", "0.1", "-w", "8", "-q", MASTER];
        let text = self.world.run_well("board0", &ping);
        eprintln!("from the board: {}", text.trim_end().lines().next_back().unwrap_or_default());
        for way in ["", "-R"] {
            serve_iperf3(&mut self.world, "board0");
            let rate = end.guest.iperf3(BOARD, 1, way);
            self.world.wait_end("iperf3");
            eprintln!("iperf3 {}: {rate:.3} Gbit/s", direction(way));
            assert!(rate > 0.0);
        }
        let after = end.interrupts();
        eprintln!("MSI-X of /proc/interrupts: {before} before, {after} after traffic");
        [before, after]
    }
}

fn direction(way: &str) -> &'static str {
    if way.is_empty() { "from the guest" } else { "to the guest" }
}

/// The program to test, as guests get it.
pub(crate) fn program() -> PathBuf {
    let linked = std::env::var_os("BOARDLANE_GUEST_PROGRAM");
    linked.map_or_else(|| Path::new(PROGRAM).to_owned(), PathBuf::from)
}

/// A guest as an end of links.
pub(crate) struct End {
    pub(crate) guest: Guest,
}

impl End {
    /// Shows the functions of its bus: address, class, vendor and device, driver.
    pub(crate) fn introduce(&mut self) {
        let text = self.guest.run_well(
            "uname -sr; cd /sys/bus/pci/devices; for f in *; do \
             echo $f $(cat $f/class $f/vendor $f/device) $(readlink $f/driver | sed 's/.*\\///'); done",
        );
        eprintln!("{}", text.trim_end());
        assert!(text.contains(&KIND.replace(':', " ")), "no function of a slot");
    }

    /// Waits until its daemon says so of a link.
    pub(crate) fn wait_state(&mut self, name: &str, state: &str, reason: &str) {
        let command = format!("boardlane status 2>&1 | grep '^{name}  *{state} .*{reason}'");
        if !self.guest.run_until(&command).0 {
            let (_, status) = self.guest.run("boardlane status");
            panic!("{command}: {status}{}", self.log());
        }
    }

    /// What its daemon says of the first link.
    pub(crate) fn link(&mut self) -> LinkStatus {
        let (role, text) = ("/etc/role", "boardlane status --json --control /run/boardlane");
        let text = self.guest.run_well(&format!("{text}/$(cat {role}).sock"));
        let mut status: Status = serde_json::from_str(&text).expect("a status");
        status.links.remove(0)
    }

    /// Waits until the link is up; shows functions, and features.
    pub(crate) fn is_up(&mut self) {
        self.wait_state("bl0", "up", "");
        self.introduce();
        let LinkStatus { transport, features, .. } = self.link();
        eprintln!("the guest's {transport}: up, {}", features.join(" "));
    }

    /// How many interrupts its functions have made through VFIO.
    pub(crate) fn interrupts(&mut self) -> u64 {
        let text = self.guest.run_well("grep -i vfio-msi /proc/interrupts; true");
        eprint!("{text}");
        let counts =
            text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        counts.sum()
    }

    /// Kills its daemon without a word, and starts it again.
    pub(crate) fn kill_and_start(&mut self) {
        self.guest.run_well("kill -9 $(cat /tmp/pid) && sh /start");
    }

    /// Takes a slot's function off its bus. That ends once its driver has let it go, for which the daemon
    /// must have.
    pub(crate) fn remove(&mut self, slot: u8) {
        self.guest.run_well(&format!("echo 1 >/sys/bus/pci/devices/{}/remove", address(slot)));
    }

    /// Has it looked for what is on its bus.
    pub(crate) fn rescan(&mut self) {
        self.guest.run_well("echo 1 >/sys/bus/pci/rescan");
    }

    /// What its daemon has logged.
    pub(crate) fn log(&mut self) -> String {
        self.guest.run("cat /tmp/daemon.log").1
    }
}

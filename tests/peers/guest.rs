//! A guest of QEMU with a stock Linux, emulated, so that it runs wherever QEMU does; a shell in it
//! takes commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use boardlane::net::features::Features;
use rustix::process::Signal;
use serde_json::Value;

use crate::image::{self, Image};
use crate::place;
use crate::talk::Talk;
use crate::world::{PATIENCE, World};

/// How long Linux may take to a shell: 2 to 4 s where the processors are idle.
const BOOT: Duration = Duration::from_secs(40);

/// How long a guest may take to what it is waited for in, and how much longer its answer may.
const WAIT: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(10)];

/// `within SECONDS COMMAND` runs a command of the shell until it succeeds.
const WITHIN: &str = "#!/bin/busybox sh
now() { read now _ </proc/uptime; now=${now%.*}; }
now
end=$((now + $1))
until eval \"$2\"; do
    now
    [ $now -lt $end ] || exit 1
    usleep 50000
done
";

/// A shell reads commands from a port of virtio's console; the kernel logs to a serial line, which
/// under emulation is too slow in telling of what came. A file `/start` is a script for each boot.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /$module || echo \"insmod $module failed\"; done
ip link set lo up
[ ! -e /start ] || sh /start
exec 3<>$(echo /dev/vport*)
echo READY >&3
cat <&3 | sh >&3 2>&3
";

/// Programs of guests of s390x, and what they are linked with.
const S390X_PROGRAMS: &[&str] = &["usr/bin/iperf3", "bin/nc.openbsd"];
const S390X_LIBRARIES: &[&str] = &[
    "ld64.so.1",
    "libc.so.6",
    "libiperf.so.0",
    "libsctp.so.1",
    "libcrypto.so.3",
    "libbsd.so.0",
    "libmd.so.0",
    "libresolv.so.2",
];

/// Which QEMU: Debian 12's crashes when a guest sets up MSI-X of a vhost-user device, so it needs
/// `vectors=0` there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qemu {
    System,
    Later,
    /// The later one as a big-endian machine; its devices are on channels, and not on a PCI bus.
    S390x,
}

/// How to start one.
pub(crate) struct Plan {
    pub(crate) qemu: Qemu,
    pub(crate) processors: u16,
    /// QEMU's arguments for the network; see [`vhost_user`] and [`own_tap`].
    pub(crate) network: Vec<String>,
    /// QEMU's arguments for other devices.
    pub(crate) devices: Vec<String>,
    /// More words for the kernel.
    pub(crate) append: &'static str,
    /// Modules beyond the driver's.
    pub(crate) modules: &'static [&'static str],
    /// Programs of this machine beyond busybox, iperf3 and ethtool.
    pub(crate) programs: &'static [&'static str],
    /// More programs and other files: where they are, and where in the guest.
    pub(crate) files: Vec<(PathBuf, &'static str)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            qemu: Qemu::Later,
            processors: 1,
            network: Vec::new(),
            devices: Vec::new(),
            append: "",
            modules: &[],
            programs: &[],
            files: Vec::new(),
        }
    }
}

/// A device that a back-end at `socket` plays, with these further properties.
pub(crate) fn vhost_user(socket: &Path, queues: u16, properties: &str) -> Vec<String> {
    let mut words = back_end(socket, queues);
    words.extend(device("vhost", queues, properties));
    words
}

/// The same for a machine of s390x.
pub(crate) fn vhost_user_ccw(socket: &Path, properties: &str) -> Vec<String> {
    let mut words = back_end(socket, 1);
    words.extend(["-device".to_owned(), format!("virtio-net-ccw,netdev=vhost,{properties}")]);
    words
}

fn back_end(socket: &Path, queues: u16) -> Vec<String> {
    let chardev = format!("socket,path={},id=chardev", socket.display());
    let netdev = format!("vhost-user,id=vhost,chardev=chardev,queues={queues}");
    vec!["-chardev".to_owned(), chardev, "-netdev".to_owned(), netdev]
}

/// A device that QEMU plays itself, before a TAP of this name that it makes.
pub(crate) fn own_tap(name: &str, properties: &str) -> Vec<String> {
    let netdev = format!("tap,id=tap,ifname={name},script=no,downscript=no,vhost=off");
    let mut words = vec!["-netdev".to_owned(), netdev];
    words.extend(device("tap", 1, properties));
    words
}

fn device(netdev: &str, queues: u16, properties: &str) -> [String; 2] {
    let comma = if properties.is_empty() { "" } else { "," };
    // For each queue, for the control queue, and for changes of the configuration.
    let vectors = queues * 2 + 2;
    let mq = if queues > 1 { format!(",mq=on,vectors={vectors}") } else { String::new() };
    let device = format!("virtio-net-pci,netdev={netdev},romfile={mq}{comma}{properties}");
    ["-device".to_owned(), device]
}

/// A running guest.
pub(crate) struct Guest {
    talk: Talk,
    /// Of its kernel, and of QEMU.
    logs: [PathBuf; 2],
    qemu: Qemu,
    commands: u64,
}

impl Guest {
    /// Starts one on a machine, and waits until its shell takes commands.
    pub(crate) fn start(world: &mut World, name: &str, machine: &str, plan: &Plan) -> Self {
        let image_file = world.directory(machine).join(format!("{name}.cpio"));
        let kernel_log = image_file.with_extension("kernel.log");
        image(plan).write(&image_file);
        let errors = image_file.with_extension("stderr");
        // What QEMU says of itself would stand in the middle of what the guest does.
        let apart = ["sh", "-c", "exec \"$@\" 2>\"$0\""].map(str::to_owned).into_iter();
        let words = apart.chain([errors.display().to_string()]);
        let words: Vec<_> = words.chain(words_of(plan, &image_file, &kernel_log)).collect();
        let talk = Talk::start(world, name, machine, &words);
        let logs = [kernel_log, errors];
        let mut guest = Self { talk, logs, qemu: plan.qemu, commands: 0 };
        guest.wait_for_shell();
        guest
    }

    fn wait_for_shell(&mut self) {
        self.talk.hear("its shell is there", BOOT, |text| text.contains("READY\n").then_some(()));
    }

    /// Runs a command: its exit status, and what it wrote.
    pub(crate) fn run(&mut self, command: &str) -> (u8, String) {
        self.run_within(command, PATIENCE)
    }

    /// As [`Guest::run`], for one that takes longer.
    pub(crate) fn run_within(&mut self, command: &str, limit: Duration) -> (u8, String) {
        self.commands += 1;
        let end = format!("\nEND {} ", self.commands);
        let [_, mark, number, _] = *end.split([' ', '\n']).collect::<Vec<_>>() else { panic!() };
        self.talk.say(&format!(
            "{{ {command}\n}} </dev/null 2>&1; printf '\\n{mark} {number} %d\\n' $?"
        ));
        self.talk.hear(command, limit, |text| {
            let (output, status) = text.split_once(&end)?;
            let status = status.strip_suffix('\n')?.parse().expect("an exit status");
            Some((status, output.to_owned()))
        })
    }

    /// As [`Guest::run`]; it must succeed.
    pub(crate) fn run_well(&mut self, command: &str) -> String {
        let (status, output) = self.run(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// Runs a command until it succeeds: whether it has, and what it wrote.
    pub(crate) fn run_until(&mut self, command: &str) -> (bool, String) {
        let [limit, more] = WAIT;
        let words = format!("within {} '{}'", limit.as_secs(), command.replace('\'', r"'\''"));
        let (status, text) = self.run_within(&words, limit + more);
        (status == 0, text)
    }

    /// As [`Guest::run_until`]; it must succeed in the end.
    pub(crate) fn until(&mut self, command: &str) -> String {
        let (is_so, text) = self.run_until(command);
        assert!(is_so, "{command}: {text}");
        text
    }

    /// Starts an iperf3 server for one connection, which takes it; `on` is the command that runs it. The one
    /// before may hold the port until it has ended.
    pub(crate) fn serve_iperf3(&mut self, on: &str) {
        self.until("! pidof iperf3");
        self.run_well(&format!(
            "rm -f /tmp/server; {on} iperf3 -s -1 --forceflush >/tmp/server 2>&1 &"
        ));
        let (listens, _) = self.run_until("grep -qs 'Server listening' /tmp/server");
        assert!(listens, "iperf3 does not listen: {}", self.run("cat /tmp/server").1);
    }

    /// Gives a netdev an address with a prefix length, and sets it up.
    pub(crate) fn set_up(&mut self, netdev: &str, address: &str) {
        self.run_well(&format!("ip addr add {address} dev {netdev} && ip link set {netdev} up"));
    }

    /// Echoes come back from an address: one to find the way, then each.
    pub(crate) fn pings(&mut self, address: &str) {
        self.run_well(&format!(
            "for i in 1 2 3 4 5 6 7 8; do ping -c 1 -W 1 {address} && break; done"
        ));
        let text = self.run_well(&format!("ping -c 5 -i 0.1 -W 2 -q {address}"));
        assert!(text.contains("5 packets received"), "{text}");
    }

    /// Throughput of TCP to the server at `address`, in Gbit/s; `words` are more of iperf3's arguments.
    pub(crate) fn iperf3(&mut self, address: &str, seconds: u64, words: &str) -> f64 {
        let command = format!("iperf3 -J -c {address} -t {seconds} {words}");
        let limit = PATIENCE + Duration::from_secs(seconds);
        let (status, text) = self.run_within(&command, limit);
        assert_eq!(status, 0, "{command}: {text}");
        let report: Value = serde_json::from_str(&text).expect("what iperf3 says");
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        rate.expect("a rate of iperf3's") / 1e9
    }

    /// The features that the driver has negotiated.
    pub(crate) fn features(&mut self) -> Features {
        let text = self.run_well("cat /sys/class/net/eth0/device/features");
        let digits: String = text.trim().chars().rev().collect();
        Features::from_bits(u128::from_str_radix(&digits, 2).expect("a digit for each bit"))
    }

    /// Says who it is and what it has negotiated.
    pub(crate) fn introduce(&mut self) {
        let version = self.run_well("uname -r");
        let (name, qemu, features) = (self.talk.name().to_owned(), self.qemu, self.features());
        let (qemu, version) = (version_of(qemu), version.trim());
        eprintln!("{name}: {qemu}, Linux {version}, negotiated {features}");
    }

    /// Tells its shell something that it is not to answer.
    pub(crate) fn say(&mut self, command: &str) {
        self.talk.say(command);
    }

    /// Boots it again, without a word to its devices.
    pub(crate) fn reboot(&mut self) {
        self.say("reboot -f");
        self.wait_for_shell();
    }

    /// As [`Guest::reboot`], without a word to its drivers, either: the machine is reset at once.
    pub(crate) fn reset(&mut self) {
        self.talk.say("echo b >/proc/sysrq-trigger");
        self.wait_for_shell();
    }

    /// Ends it as a power failure does.
    pub(crate) fn kill(self, world: &mut World) {
        world.signal(self.talk.name(), Signal::KILL);
        world.wait_end(self.talk.name());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for path in &self.logs {
                let log = fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(20)..];
                eprintln!("-- {}\n{}", path.display(), tail.join("\n"));
            }
        }
    }
}

/// An iperf3 server for one connection on a machine, which takes it.
pub(crate) fn serve_iperf3(world: &mut World, machine: &str) {
    let words = ["iperf3", "-s", "-1", "--forceflush"];
    let words = words.map(str::to_owned);
    let mut talk = Talk::start(world, "iperf3", machine, &words);
    talk.hear("it listens", PATIENCE, |text| text.contains("Server listening").then_some(()));
}

/// What it starts with.
fn image(plan: &Plan) -> Image {
    let busybox = match plan.qemu {
        Qemu::S390x => place::s390x().join("bin/busybox"),
        _ => image::program("busybox"),
    };
    let mut image = Image::new(&busybox, INIT);
    image.file("bin/within", WITHIN.as_bytes());
    let modules = ["virtio_pci", "virtio_net", "virtio_console"];
    image.add_modules(&kernel(plan.qemu), &[&modules, plan.modules].concat());
    if plan.qemu == Qemu::S390x {
        image.add_s390x(&place::s390x(), S390X_PROGRAMS, S390X_LIBRARIES);
        return image;
    }
    for program in ["iperf3", "ethtool"].iter().chain(plan.programs) {
        image.add_program(program);
    }
    for (from, to) in &plan.files {
        image.add_linked(from, Path::new(to.trim_start_matches('/')));
    }
    image
}

/// The root of its kernel and modules.
fn kernel(qemu: Qemu) -> PathBuf {
    if qemu == Qemu::S390x { place::s390x() } else { place::kernel() }
}

/// QEMU's program and the directories of its firmware.
fn program(qemu: Qemu) -> Vec<String> {
    let architecture = match qemu {
        Qemu::System => return vec!["qemu-system-x86_64".to_owned()],
        Qemu::Later => "x86_64",
        Qemu::S390x => "s390x",
    };
    let root = place::qemu();
    let path = |part: &str| root.join("usr").join(part).display().to_string();
    let (firmware, bios) = (path("share/qemu"), path("share/seabios"));
    let program = path(&format!("bin/qemu-system-{architecture}"));
    vec![program, "-L".into(), firmware, "-L".into(), bios]
}

/// Its version.
pub(crate) fn version_of(qemu: Qemu) -> String {
    let output = Command::new(&program(qemu)[0]).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.split(" (").next().unwrap_or_default().trim().replace("emulator version ", "")
}

/// The command line.
fn words_of(plan: &Plan, image: &Path, kernel_log: &Path) -> Vec<String> {
    let kernel = fs::read_dir(kernel(plan.qemu).join("boot")).unwrap().flatten();
    let mut kernel = kernel.map(|entry| entry.path().display().to_string());
    let kernel = kernel.find(|path| path.contains("/vmlinuz-")).expect("a kernel");
    let machine = if plan.qemu == Qemu::S390x { "s390-ccw-virtio" } else { "q35" };
    // The console's bus has by this name the machine's kind of device.
    let fixed = [
        "-nodefaults -no-user-config -display none -accel tcg -cpu max -m 1024",
        &format!("-machine {machine},memory-backend=memory"),
        "-object memory-backend-memfd,id=memory,size=1G,share=on",
        "-chardev stdio,id=shell -device virtio-serial -device virtserialport,chardev=shell",
    ];
    let mut words = program(plan.qemu);
    words.extend(fixed.iter().flat_map(|words| words.split(' ')).map(str::to_owned));
    words.extend(["-smp".to_owned(), plan.processors.to_string()]);
    words.extend(["-serial".to_owned(), format!("file:{}", kernel_log.display())]);
    words.extend(["-kernel".to_owned(), kernel, "-initrd".to_owned(), image.display().to_string()]);
    let append = format!("console=ttyS0 loglevel=5 panic=-1 {}", plan.append);
    words.extend(["-append".to_owned(), append]);
    words.extend(plan.network.iter().chain(&plan.devices).cloned());
    words
}

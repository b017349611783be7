//! Made-up machines, and what is said of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::*;
use crate::daemon::Role;
use crate::daemon::config::Config;
use crate::daemon::status::tests::sample;
use crate::os::tap::{Offload, TapError};
use crate::os::trial::Trial;

/// A machine that has everything, with files below a directory that goes with the test.
struct Made(Machine);

impl Made {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("bl-doctor-{}-{n}", std::process::id()));
        let trial = Trial {
            tap: Ok(Offload { uso: true, ..Offload::TCP }),
            carrier: true,
            bridge: Ok(()),
            vlan: Ok(()),
            vrf: Ok(()),
        };
        let made = Self(Machine {
            root,
            release: "6.18.5-amd64".into(),
            is_root: true,
            capabilities: CapabilitySet::all(),
            files: None,
            landlock: Some(6),
            trial: Ok(trial),
            vhost_net: None,
            daemons: Vec::new(),
            leftovers: Vec::new(),
        });
        made.file("proc/sys/kernel/seccomp/actions_avail", "kill allow");
        made.file("proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
        made.file("proc/sys/net/ipv4/ip_forward", "1");
        made.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        made
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.0.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// What is bad of it with these configs, each with its role.
    fn bad(&self, configs: &[(Role, &str)]) -> Vec<String> {
        let findings = findings(&self.0, &wanted(configs));
        let bad = findings.iter().filter(|finding| finding.verdict != Verdict::Ok);
        text(&bad.cloned().collect::<Vec<_>>()).lines().map(str::to_owned).collect()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}

fn wanted(configs: &[(Role, &str)]) -> Wanted {
    let configs = configs.iter().map(|(role, text)| {
        let file = format!("{role}.toml");
        let config = Config::parse(&file, text, *role).unwrap();
        (PathBuf::from(file), *role, config)
    });
    Wanted { configs: configs.collect() }
}

/// The lines of a link with this name and slot.
fn link(name: &str, slot: u8) -> String {
    let address = format!("[\"10.77.{slot}.1/30\", \"fd77:0:0:{slot}::1/64\"]");
    format!(
        "[[link]]\nname = \"{name}\"\ntransport = \"shm:/run/slots/slot{slot}.sock\"\naddress = {address}\n"
    )
}

#[test]
fn a_machine_that_has_everything_is_told_line_by_line() {
    let made = Made::new();
    assert_eq!(made.bad(&[]), [""; 0]);
    let all = text(&findings(&made.0, &Wanted::default()));
    assert!(all.starts_with("ok    kernel      Linux 6.18.5-amd64\nok    tun         TAPs can be made, with all offloads\n"), "{all}");
    let json = json(&findings(&made.0, &Wanted::default()), true);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = serde_json::json!({"check": "kernel", "verdict": "ok", "found": "Linux 6.18.5-amd64", "remedy": null});
    assert_eq!((&json["ok"], &json["findings"][0]), (&true.into(), &first));
}

#[test]
fn a_kernel_before_the_floor_fails_and_what_later_ones_bring_is_named() {
    let mut made = Made::new();
    made.0.release = "4.18.0-553.el8".into();
    assert_eq!(made.bad(&[]), ["FAIL  kernel      Linux 4.18.0-553.el8: boot Linux 4.19 or later"]);
    made.0.release = "4.19.0".into();
    made.0.landlock = None;
    made.0.trial = Ok(Trial {
        tap: Ok(Offload::TCP),
        carrier: false,
        bridge: Ok(()),
        vlan: Err(Errno::OPNOTSUPP),
        vrf: Ok(()),
    });
    let bad = made.bad(&[]);
    assert_eq!(bad.len(), 4, "{bad:?}");
    assert!(
        bad[0].starts_with("warn  tun         TAPs without UDP segmentation offload"),
        "{bad:?}"
    );
    assert!(bad[1].starts_with("warn  tun         the carrier of a TAP cannot be set"), "{bad:?}");
    assert!(
        bad[2].starts_with("warn  vlan        cannot be made here: ")
            && bad[2].contains("`modprobe 8021q`"),
        "{bad:?}"
    );
    assert!(
        bad[3].starts_with("warn  confine     daemons run without Landlock: boot Linux 5.13"),
        "{bad:?}"
    );
}

#[test]
fn without_tun_there_is_no_netdev_and_only_links_without_one_do_not_mind() {
    let mut made = Made::new();
    made.0.trial = Ok(Trial {
        tap: Err(TapError::NoTun { errno: Errno::NOENT }),
        carrier: false,
        bridge: Ok(()),
        vlan: Err(Errno::NODEV),
        vrf: Ok(()),
    });
    let bad = made.bad(&[]);
    assert_eq!(bad.len(), 1);
    assert!(
        bad[0].starts_with("FAIL  tun         /dev/net/tun: ") && bad[0].contains("`modprobe tun`"),
        "{bad:?}"
    );
    made.file("run/slots/slot0.sock", "");
    let echo = link("bl0", 0).split("address").next().unwrap().to_owned() + "port = \"echo\"\n";
    assert!(made.bad(&[(Role::Agent, &echo)])[0].starts_with("warn  tun "));
}

#[test]
fn root_of_a_container_lacks_capabilities_and_another_user_is_told_so() {
    let mut made = Made::new();
    made.0.capabilities = CapabilitySet::NET_RAW;
    let bad = made.bad(&[]);
    assert_eq!(
        bad,
        [
            "FAIL  rights      root has no CAP_NET_ADMIN here, which it takes to set up netdevs: start the container with --cap-add NET_ADMIN"
        ]
    );
    made.0.is_root = false;
    made.0.trial = Err("cannot make a user namespace: no: do this".into());
    let bad = made.bad(&[]);
    assert!(bad.len() == 2 && bad[0].contains("do this: or run this as root"), "{bad:?}");
    assert!(bad[1].starts_with("warn  rights      not root"), "{bad:?}");
    made.file("run/boardlane/x", "");
    fs::set_permissions(made.0.path("run/boardlane"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(made.bad(&[])[2].ends_with(
        "anybody may replace the sockets in /run/boardlane: `chmod 0755 /run/boardlane`"
    ));
}

#[test]
fn a_config_makes_an_error_of_what_its_links_need() {
    let mut made = Made::new();
    made.file("proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    made.file("proc/sys/net/ipv4/ip_forward", "0");
    made.0.files = Some(80);
    let master = link("bl0", 0) + &link("bl1", 1);
    let bad = made.bad(&[(Role::Master, &master)]);
    assert_eq!(bad.len(), 4, "{bad:?}");
    assert!(
        bad[0].starts_with("FAIL  files       a process may open 80 files, and 2 links need 104: "),
        "{bad:?}"
    );
    assert!(
        bad[1].starts_with("FAIL  ipv6        IPv6 is disabled for new netdevs: `sysctl -w "),
        "{bad:?}"
    );
    assert!(
        bad[2].starts_with("warn  forwarding  2 boards reach this master, but not each other: ")
            && bad[2].contains("net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"),
        "{bad:?}"
    );
    assert!(bad[3].starts_with("FAIL  backplane   there is no socket /run/slots/slot0.sock of bl0, no /run/slots/slot1.sock of bl1: "), "{bad:?}");
    assert_eq!(made.bad(&[]).len(), 1, "nobody needs it: only that IPv6 is off is told");
}

#[test]
fn two_configs_of_one_machine_do_not_share() {
    let made = Made::new();
    made.file("run/slots/slot0.sock", "");
    let same = format!("control = \"/run/x.sock\"\n{}", link("bl0", 0));
    let bad = made.bad(&[(Role::Agent, &same), (Role::Master, &same)]);
    let shared = ["control socket /run/x.sock", "netdev bl0"];
    assert_eq!(
        bad,
        shared.map(|what| format!(
            "FAIL  config      agent.toml and master.toml share {what}: give each its own"
        ))
    );
    let other = same.replace("/run/x", "/run/y") + "netns = \"board0\"\n";
    let bad = made.bad(&[(Role::Agent, &same), (Role::Master, &other)]);
    assert_eq!(
        bad,
        ["FAIL  netns       bl0 waits for the network namespace board0: `ip netns add board0`"]
    );
    made.file("run/netns/board0", "");
    assert_eq!(made.bad(&[(Role::Agent, &same), (Role::Master, &other)]), [""; 0]);
}

#[test]
fn bridges_and_vrfs_are_the_operators_to_make() {
    let mut made = Made::new();
    let names = ["slot0", "slot1", "slot2"];
    names.iter().for_each(|name| made.file(&format!("run/slots/{name}.sock"), ""));
    made.file("proc/sys/net/ipv4/ip_forward", "0");
    // A bridge's port has no addresses.
    let port = |name, slot, bridge| {
        let link = link(name, slot);
        let lines = link.lines().filter(|line| !line.starts_with("address"));
        lines.fold(String::new(), |all, line| all + line + "\n")
            + &format!("bridge = \"{bridge}\"\n")
    };
    let config = port("bl0", 0, "br0") + &link("bl1", 1) + "vrf = \"red\"\n";
    let config = config + &port("bl2", 2, "br1") + "vlan = [7]\n";
    made.file("sys/class/net/br0/uevent", "DEVTYPE=bridge\nINTERFACE=br0\n");
    made.file("sys/class/net/br1/uevent", "INTERFACE=br1\n");
    let Ok(trial) = &mut made.0.trial else { unreachable!() };
    (trial.vlan, trial.bridge) = (Err(Errno::OPNOTSUPP), Ok(()));
    let bad = made.bad(&[(Role::Master, &config)]);
    assert_eq!(bad.len(), 3, "{bad:#?}");
    assert!(bad[0].starts_with("FAIL  vlan        cannot be made here: "), "{bad:#?}");
    assert_eq!(
        bad[1..],
        [
            "FAIL  masters     bl1 waits for the VRF red: `ip link add red type vrf table 100` and set it up",
            "FAIL  masters     br1 is no bridge, which bl2 waits for: correct the config",
        ]
    );
}

#[test]
fn who_manages_netdevs_is_asked_to_leave_ours() {
    let mut made = Made::new();
    made.file("run/NetworkManager/devices/1", "");
    made.file("run/systemd/netif/state", "");
    let bad = made.bad(&[]);
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(
        bad[0].contains("NetworkManager runs, and nothing tells it")
            && bad[1].contains("systemd-networkd runs"),
        "{bad:?}"
    );
    made.file("usr/lib/NetworkManager/conf.d/boardlane.conf", "[keyfile]");
    made.file("usr/lib/systemd/network/05-boardlane.network", "[Match]");
    made.file("usr/lib/systemd/network/70-boardlane.link", "[Match]");
    assert_eq!(made.bad(&[]), [""; 0]);
    // An operator who wants networkd to manage them masks ours.
    made.link("etc/systemd/network/05-boardlane.network", "/dev/null");
    assert_eq!(made.bad(&[]).len(), 1);
    made.0.daemons = vec![("/run/boardlane/master.sock".into(), Ok(sample()))];
    made.file("sys/class/net/bl0/ifindex", "7");
    made.file("run/NetworkManager/devices/7", "[device]\nmanaged=true\n");
    made.file("run/systemd/netif/links/7", "ADMIN_STATE=configured\n");
    let bad = made.bad(&[]).join("\n");
    assert!(
        bad.contains("NetworkManager manages bl0: ")
            && bad.contains("systemd-networkd manages bl0: "),
        "{bad}"
    );
}

#[test]
fn daemons_are_asked_how_they_are() {
    let mut made = Made::new();
    let mut current = sample();
    current.version = crate::daemon::VERSION.into();
    for link in &mut current.links {
        link.peer_version = Some(current.version.clone());
    }
    let mut other = sample();
    (other.role, other.version) = ("agent".into(), "0.0.9".into());
    other.links.truncate(1);
    other.metrics = None;
    let dead = Err("its daemon is gone: start it again, or remove the file".to_owned());
    made.0.daemons = vec![
        ("/run/boardlane/agent.sock".into(), Ok(other)),
        ("/run/boardlane/master.sock".into(), Ok(current)),
        ("/run/boardlane/x.sock".into(), dead),
    ];
    made.0.leftovers = vec!["netdev bl9".into()];
    let bad = made.bad(&[]);
    let expected = [
        "warn  daemons     agent, pid 812, is of version 0.0.9, and this program of ",
        "warn  links       agent, pid 812: slower than need be: bl0: without csum, tso: ",
        "warn  links       agent, pid 812: bl0: the other end is of version 0.1.0: ",
        "warn  links       master, pid 812: bl1: quarantined (descriptor chain loops; /dev/vhost-net: no; no interrupt): ",
        "warn  links       master, pid 812: slower than need be: ",
        "warn  metrics     master, pid 812: metrics 127.0.0.1:9477: in use: ",
        "warn  daemons     /run/boardlane/x.sock: its daemon is gone: start it again, or remove the file",
        "warn  leftovers   netdev bl9 without a daemon: start the daemon again, or `boardlane clean`",
    ];
    let differs = expected.iter().zip(&bad).find(|(expected, bad)| !bad.starts_with(*expected));
    assert!(differs.is_none() && bad.len() == expected.len(), "{differs:?} {bad:#?}");
    let master = format!("control = \"/run/boardlane/agent.sock\"\n{}", link("bl0", 0));
    let bad = made.bad(&[(Role::Master, &master)]);
    assert!(
        bad.iter().any(|line| line
            .starts_with("FAIL  daemons     process 812, which is agent, has the control socket")),
        "{bad:#?}"
    );
}

#[test]
fn units_that_have_a_config_are_to_be_enabled_and_to_run() {
    let mut made = Made::new();
    made.file("run/systemd/system/x", "");
    made.file("usr/lib/systemd/system/boardlane-master.service", "");
    made.file("run/slots/slot0.sock", "");
    let mut wanted = wanted(&[(Role::Master, &link("bl0", 0))]);
    wanted.configs[0].0 = made.0.path("etc/boardlane/master.toml");
    let said = |made: &Made| service::units(&made.0, &wanted).remove(0);
    assert_eq!(said(&made).remedy.unwrap(), "`systemctl enable --now boardlane-master`");
    let mut up = sample();
    up.role = "master".into();
    made.0.daemons = vec![("/run/boardlane/master.sock".into(), Ok(up))];
    assert_eq!(said(&made).remedy.unwrap(), "`systemctl enable boardlane-master`");
    made.link("etc/systemd/system/multi-user.target.wants/boardlane-master.service", "/x");
    assert_eq!(said(&made).verdict, Verdict::Ok);
    made.0.daemons.clear();
    assert_eq!(said(&made).remedy.unwrap(), "`systemctl status boardlane-master`");
}

#[test]
fn what_a_daemon_says_cannot_write_to_the_terminal() {
    let mut made = Made::new();
    let mut status = sample();
    status.links[1].reason = Some("\x1b[2J\n".into());
    made.0.daemons = vec![("/run/boardlane/a.sock".into(), Ok(status))];
    let bad = made.bad(&[]);
    assert!(bad.iter().all(|line| !line.contains('\x1b')), "{bad:?}");
}

#[cfg(feature = "pci")]
mod functions {
    use super::*;

    impl Made {
        /// A function of a slot's size, in an IOMMU group or in none, with a driver or with none.
        fn function(&self, address: &str, group: Option<&str>, driver: Option<&str>) {
            let dir = format!("sys/bus/pci/devices/{address}");
            let file = |name: &str, text: &str| self.file(&format!("{dir}/{name}"), text);
            file("vendor", "0x1af4\n");
            file("device", "0x1110\n");
            file("class", "0x050000\n");
            file("revision", "0x01\n");
            file("enable", "0\n");
            let lines = [
                "0x00000000fe000000 0x00000000fe0000ff 0x0000000000040200",
                "0x00000000fe001000 0x00000000fe001fff 0x0000000000040200",
                "0x00000000fd000000 0x00000000fdffffff 0x000000000014220c",
            ];
            file("resource", &(lines.join("\n") + "\n" + &"0x0 0x0 0x0\n".repeat(10)));
            if let Some(group) = group {
                self.link(
                    &format!("{dir}/iommu_group"),
                    &format!("../../../kernel/iommu_groups/{group}"),
                );
                self.file(&format!("sys/kernel/iommu_groups/{group}/devices/{address}/x"), "");
            }
            if let Some(driver) = driver {
                self.link(&format!("{dir}/driver"), &format!("../drivers/{driver}"));
            }
        }
    }

    fn of(transport: &str) -> String {
        format!("[[link]]\nname = \"bl0\"\ntransport = \"{transport}\"\n")
    }

    #[test]
    fn a_function_that_is_not_there_fails_only_where_a_link_names_it() {
        let made = Made::new();
        assert_eq!(made.bad(&[]), [""; 0]);
        let bad = made.bad(&[(Role::Master, &of("pci:0000:03:00.0"))]);
        assert!(
            bad.len() == 1
                && bad[0]
                    .starts_with("FAIL  pci         bl0: PCI function 0000:03:00.0 is not there: "),
            "{bad:?}"
        );
        assert!(
            made.bad(&[(Role::Master, &of("pci:auto"))])[0].contains("no function of a known kind")
        );
    }

    #[test]
    fn a_function_without_an_iommu_is_mapped_by_sysfs_unless_a_driver_or_lockdown_is_against_it() {
        let made = Made::new();
        made.function("0000:03:00.0", None, None);
        let bad = |transport| made.bad(&[(Role::Master, &of(transport))]);
        let there_is_no_iommu = bad("pci:0000:03:00.0");
        assert!(
            there_is_no_iommu.len() == 1
                && there_is_no_iommu[0].starts_with("warn  vfio        there is no IOMMU"),
            "{there_is_no_iommu:?}"
        );
        let vfio = bad("pci:0000:03:00.0?vfio");
        assert!(
            vfio[0].starts_with("FAIL  vfio        there is no IOMMU")
                && vfio[1].starts_with("FAIL  pci         0000:03:00.0 is in no IOMMU group"),
            "{vfio:?}"
        );
        made.file("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        let locked = bad("pci:0000:03:00.0");
        assert!(locked[1].starts_with("FAIL  pci         0000:03:00.0 has to be mapped by sysfs, and the kernel is locked down: boot with an IOMMU"), "{locked:?}");
        made.function("0000:03:00.0", None, Some("e1000"));
        assert!(bad("pci:0000:03:00.0")[1].contains(
            "held by the driver e1000: `echo 0000:03:00.0 > /sys/bus/pci/drivers/e1000/unbind`"
        ));
    }

    #[test]
    fn vfio_takes_modules_and_a_group_of_its_own() {
        let made = Made::new();
        made.function("0000:03:00.0", Some("9"), Some("e1000"));
        let bad = || made.bad(&[(Role::Master, &of("pci:0000:03:00.0"))]);
        assert!(bad()[0].starts_with("FAIL  vfio        the kernel's vfio-pci, vfio, vfio_iommu_type1 is not there: `modprobe"), "{:?}", bad());
        made.file("sys/bus/pci/drivers/vfio-pci/x", "");
        made.file("dev/vfio/vfio", "");
        made.file("sys/module/vfio_iommu_type1/x", "");
        assert_eq!(bad(), [""; 0]);
        made.file("sys/kernel/iommu_groups/9/devices/0000:03:00.1/x", "");
        made.link("sys/kernel/iommu_groups/9/devices/0000:03:00.1/driver", "../../drivers/nvme");
        assert!(
            bad()[0].contains("shares IOMMU group 9 with 0000:03:00.1 (driver nvme): "),
            "{:?}",
            bad()
        );
        made.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        assert!(
            bad()[0].contains("a device may write to all of this machine's memory: `echo N > "),
            "{:?}",
            bad()
        );
    }
}

//! Boards that come and go: a pattern in a guest has a link for each function that is there.

use std::time::Instant;

use boardlane::daemon::status::{LinkState, LinkStatus};

use crate::bus::{BOARD, Bus, End, MASTER, Machine, address, link};

/// The links of a pattern by the slots' functions: bus 0, device 16 and 17.
const NAMES: [&str; 2] = ["blp0s16", "blp0s17"];

fn machine(config: String) -> Machine {
    Machine { role: "master", config, ..Machine::default() }
}

fn pattern(keys: &str) -> String {
    format!("[[link]]\nname = \"bl*\"\ntransport = \"pci:0000:00:*\"\n{keys}\n")
}

/// Waits until its daemon has no such link any more, and the kernel no such netdev.
fn is_gone(end: &mut End, name: &str) {
    let (is_so, text) = end
        .guest
        .run_until(&format!("! boardlane status | grep ^{name} && [ ! -e /sys/class/net/{name} ]"));
    assert!(is_so, "{text}{}", end.log());
}

fn set_address(end: &mut End, name: &str) {
    end.guest.run_well(&format!("ip address add {MASTER}/30 dev {name}"));
}

fn mac(end: &mut End, name: &str) -> String {
    end.guest.run_well(&format!("cat /sys/class/net/{name}/address"))
}

pub(super) fn a_pattern_has_a_link_for_each_function_that_is_there() {
    let (mut bus, mut end) = Bus::with(&machine(pattern("")));
    end.wait_state(NAMES[0], "up", "");
    let LinkStatus { name, transport, slot, .. } = end.link();
    assert_eq!((name.as_str(), transport), (NAMES[0], format!("pci:{}?vfio", address(0))));
    assert_eq!(slot, Some(0x8000_0080));
    let text = end.guest.run_well(
        "boardlane check /etc/boardlane.toml; boardlane check --expand /etc/boardlane.toml",
    );
    assert!(text.contains("ok, 1 pattern\n") && text.contains("# now: blp0s16\n"), "{text}");
    let before = mac(&mut end, NAMES[0]);
    for _ in 0..2 {
        set_address(&mut end, NAMES[0]);
        end.guest.pings(BOARD);
        let began = Instant::now();
        end.remove(0);
        is_gone(&mut end, NAMES[0]);
        eprintln!("gone after {:.2} s", began.elapsed().as_secs_f64());
        bus.world.wait_state("board0", "bl0", LinkState::Waiting, "");
        let began = Instant::now();
        end.rescan();
        end.wait_state(NAMES[0], "up", "");
        eprintln!("there, and up after {:.2} s", began.elapsed().as_secs_f64());
        assert_eq!(mac(&mut end, NAMES[0]), before);
    }
    // It starts without any, too.
    end.remove(0);
    is_gone(&mut end, NAMES[0]);
    end.kill_and_start();
    end.guest.until("boardlane status");
    end.rescan();
    end.wait_state(NAMES[0], "up", "");
    set_address(&mut end, NAMES[0]);
    eprintln!("{}", end.log());
    bus.traffic(&mut end);
}

pub(super) fn an_entry_of_its_own_goes_before_a_pattern() {
    let own = link("own", &format!("pci:{}", address(0)), MASTER, "");
    let both = Machine { slots: &[0, 1], ..machine(format!("{own}{}", pattern(""))) };
    let mut bus = Bus::start(2);
    bus.world.start("board0");
    bus.world.start("board1");
    let mut end = bus.guest("guest", &both);
    end.wait_state("own", "up", "");
    end.wait_state(NAMES[1], "up", "");
    let reload = |end: &mut End, config: &str| {
        end.guest
            .run_well(&format!("cat >/etc/boardlane.toml <<'END'\n{config}\nEND\nboardlane reload"))
    };
    let text = reload(&mut end, &pattern(""));
    assert!(text.contains("added blp0s16; removed own; 1 unchanged"), "{text}");
    end.wait_state(NAMES[0], "up", "");
    let text = reload(&mut end, &pattern("keep = true"));
    assert!(text.contains("changed blp0s16 blp0s17; 0 unchanged"), "{text}");
    // The netdev stays, as the entry says, when the function goes.
    end.remove(1);
    let [_, name] = NAMES;
    end.guest.until(&format!("! boardlane status | grep ^{name}"));
    end.guest.run_well(&format!("[ -e /sys/class/net/{name} ]"));
    end.wait_state(NAMES[0], "up", "");
    end.rescan();
    end.wait_state(NAMES[1], "up", "");
    eprintln!("{}", end.log());
}

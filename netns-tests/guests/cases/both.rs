//! Both ends in guests, which share a slot as a function on the bus of each.

use crate::bus::{BOARD, Bus, End, MASTER, Machine, address, link, master};

/// A master by VFIO, and an agent by this transport in another guest.
fn meet(transport: &str, machine: Machine) -> (Bus, [End; 2]) {
    let mut bus = Bus::start(1);
    let config = link("bl0", transport, BOARD, "");
    let board = bus.guest("board", &Machine { role: "agent", config, ..machine });
    let master = bus.guest("guest", &master(&format!("pci:{}", address(0)), ""));
    let mut ends = [master, board];
    for end in ends.iter_mut().rev() {
        end.is_up();
    }
    assert_eq!(ends[0].link().features, ends[1].link().features);
    (bus, ends)
}

/// Echoes and TCP both ways; interrupts of each end before and after.
fn traffic([master, board]: &mut [End; 2]) -> [[u64; 2]; 2] {
    let before = [master.interrupts(), board.interrupts()];
    master.guest.pings(BOARD);
    board.guest.pings(MASTER);
    for way in ["", "-R"] {
        board.guest.serve_iperf3("");
        let rate = master.guest.iperf3(BOARD, 1, way);
        eprintln!("iperf3 {way}: {rate:.3} Gbit/s");
        assert!(rate > 0.0);
    }
    let after = [master.interrupts(), board.interrupts()];
    eprintln!("MSI-X of master and board: {before:?} before, {after:?} after traffic");
    [before, after]
}

pub(super) fn an_agent_by_vfio_serves_a_master_by_vfio() {
    let (_bus, mut ends) = meet(&format!("pci:{}", address(0)), Machine::default());
    let [before, after] = traffic(&mut ends);
    assert!(after[0] > before[0] + 10 && after[1] > before[1] + 10);
    // Each finds the other again.
    for i in 0..2 {
        ends[i].kill_and_start();
        for end in &mut ends {
            end.wait_state("bl0", "up", "");
        }
        ends[0].guest.pings(BOARD);
    }
    traffic(&mut ends);
}

/// UIO maps whole pages, and an ivshmem function's registers are 256 bytes: so the board cannot ring, either.
pub(super) fn an_agent_by_a_uio_device_polls_as_its_master_does() {
    // A driver of Debian's that maps BAR 0 and BAR 2 of whatever it is given; interrupts it knows only of
    // its own cards.
    let before = "echo 1af4 1110 >/sys/bus/pci/drivers/hilscher/new_id
head /sys/class/uio/uio0/name /sys/class/uio/uio0/maps/map*/size
";
    let modules = &["tun", "uio_cif"];
    let machine = Machine { iommu: false, modules, before, ..Machine::default() };
    let (_bus, mut ends) = meet("uio:/dev/uio0", machine);
    traffic(&mut ends);
    for end in &mut ends {
        let why = end.link().polls;
        eprintln!("{}", why.expect("it says why it polls"));
    }
    ends[1].kill_and_start();
    for end in &mut ends {
        end.wait_state("bl0", "up", "");
    }
    ends[0].guest.pings(BOARD);
}

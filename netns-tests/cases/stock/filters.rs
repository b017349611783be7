//! CTRL_RX and CTRL_VLAN: which frames reach a driver that says which it wants.

use boardlane::daemon::status::LinkState;
use boardlane::spec::net::ctrl;

use super::{board, drive, dropped, kinds, pair, pass};
use crate::stock::Driver;
use crate::stock::frames::{BROADCAST, Wire, tag};
use crate::stock::rings::Control;
use crate::world::{World, check, wait};

const NEW: [u8; 6] = [2, 0, 0, 0, 0x51, 1];
const LISTED: [u8; 6] = [2, 0, 0, 0, 0x51, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0x51, 3];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x51];
const GROUP6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x52];

/// `MAC_TABLE_SET`, as Linux cuts it: a buffer for each of the two tables.
fn tables(control: &mut Control, unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> bool {
    let table = |list: &[[u8; 6]]| {
        let count = u32::try_from(list.len()).unwrap();
        [&count.to_le_bytes()[..], list.as_flattened()].concat()
    };
    control.command(ctrl::MAC_TABLE_SET, &[&table(unicast), &table(multicast)])
}

fn many(first: u8, count: u16) -> Vec<[u8; 6]> {
    (0..count).map(|i| [first, 0, 0, 9, i.to_be_bytes()[0], i.to_be_bytes()[1]]).collect()
}

/// Goes through the ways to filter; `passing` are the places of those who are to come, in the order
/// own, broadcast, new, listed, other, group, other group.
fn filter(driver: &mut Driver, wire: &Wire) {
    let own = driver.stock.config().mac;
    let frames: Vec<_> = [own, BROADCAST, NEW, LISTED, OTHER, GROUP, GROUP6]
        .into_iter()
        .map(|to| (to, vec![]))
        .collect();
    let expect = |driver: &mut Driver, what: &str, passing: &[usize]| {
        let came = pass(driver, wire, &frames);
        let came: Vec<_> = (0..came.len()).filter(|i| came[*i]).collect();
        assert_eq!(came, passing, "{what}");
    };
    expect(driver, "at first", &[0, 1, 2, 3, 4, 5, 6]);
    let set = |driver: &mut Driver, code, data: &[u8]| {
        driver.control.as_mut().unwrap().command(code, &[data])
    };
    let list = |driver: &mut Driver, unicast: &[_], multicast: &[_]| {
        tables(driver.control.as_mut().unwrap(), unicast, multicast)
    };
    assert!(set(driver, ctrl::RX_PROMISC, &[0]));
    expect(driver, "not promiscuous", &[0, 1]);
    assert!(list(driver, &[LISTED], &[GROUP]));
    expect(driver, "with a table", &[0, 1, 3, 5]);
    assert!(set(driver, ctrl::RX_ALLMULTI, &[1]));
    expect(driver, "with all multicast", &[0, 1, 3, 5, 6]);
    assert!(set(driver, ctrl::RX_ALLMULTI, &[0]));
    expect(driver, "with the table again", &[0, 1, 3, 5]);
    assert!(list(driver, &[], &many(0x33, 65)));
    expect(driver, "more groups than there is room for", &[0, 1, 5, 6]);
    assert!(list(driver, &many(0x02, 65), &[]));
    expect(driver, "more addresses than there is room for", &[0, 1, 2, 3, 4]);
    assert!(!list(driver, &many(0x02, 2000), &[]), "longer than any table");
    expect(driver, "as before the refusal", &[0, 1, 2, 3, 4]);
    assert!(list(driver, &[], &[]));
    assert!(!set(driver, ctrl::MAC_ADDR_SET, &GROUP), "a group is nobody's own");
    expect(driver, "with empty tables", &[0, 1]);
    assert!(set(driver, ctrl::MAC_ADDR_SET, &NEW));
    assert_eq!(driver.stock.config().mac, NEW);
    expect(driver, "with another address", &[1, 2]);
    assert!(set(driver, ctrl::RX_PROMISC, &[1]));
    expect(driver, "promiscuous", &[0, 1, 2, 3, 4, 5, 6]);
}

/// What the kernel has given to the board's daemon of its netdev's frames, and what that has dropped.
pub(super) fn ledger(world: &World) -> [u64; 2] {
    let sent = world.netdev("board0", "bl0").unwrap()["stats64"]["tx"]["packets"].clone();
    [sent.as_u64().unwrap(), pair(world, 0).tx.drops.values().sum()]
}

/// What the kernel gave since then is what the driver got, and what is counted as dropped.
pub(super) fn nothing_is_unaccounted(world: &World, driver: &mut Driver, before: [u64; 2]) {
    wait("all frames accounted for", || {
        driver.pairs[0].0.take_all();
        let [sent, drops] = ledger(world);
        let seen = (sent - before[0], driver.pairs[0].0.taken, drops - before[1]);
        check(seen.0 == seen.1 + seen.2, seen)
    });
}

fn filters(keys: &'static str) {
    let world = board(keys);
    for (features, shape) in kinds() {
        // What a session that ends had under way is lost with it.
        wait("no session", || {
            let state = world.link_status("board0", "bl0")?.state;
            let there = world.netdev("board0", "bl0").is_some();
            check(state == LinkState::Waiting && there, state)
        });
        let at_first = ledger(&world);
        let mut driver = drive(&world, features, 1, shape);
        let wire = Wire::new(&world, "board0", "bl0");
        let filtered = || dropped(&pair(&world, 0).tx.drops, "filtered");
        let before = filtered();
        filter(&mut driver, &wire);
        // 30 of those frames were unwanted, and the kernel may have sent some of its own.
        assert!(filtered() - before >= 30, "{} were filtered", filtered() - before);
        nothing_is_unaccounted(&world, &mut driver, at_first);
    }
}

pub(crate) fn a_driver_gets_the_frames_that_it_asks_for_and_the_rest_is_counted() {
    filters("");
}

pub(crate) fn an_engine_copies_only_the_frames_that_the_driver_asks_for() {
    filters("dma = \"engine\"\nengine = { cpu_below = 0, latency_us = 200 }");
}

pub(crate) fn a_driver_gets_tagged_frames_of_the_vlans_that_it_adds() {
    let world = board("");
    for (features, shape) in kinds() {
        let mut driver = drive(&world, features, 1, shape);
        let wire = Wire::new(&world, "board0", "bl0");
        let tags = [tag(0x8100, 5), tag(0x8100, 0xe006), tag(0x8100, 4095), tag(0x88a8, 5)];
        let frames = tags.map(|tag| (BROADCAST, tag));
        let expect = |driver: &mut Driver, what: &str, came: [bool; 4]| {
            assert_eq!(pass(driver, &wire, &frames), came, "{what}");
        };
        let set = |driver: &mut Driver, code, id: u16| {
            driver.control.as_mut().unwrap().command(code, &[&id.to_le_bytes()])
        };
        assert!(driver.control.as_mut().unwrap().command(ctrl::RX_PROMISC, &[&[0]]));
        // A stock driver names customer VLANs alone, so service tags are not its device's to filter.
        expect(&mut driver, "no VLAN", [false, false, false, true]);
        assert!(set(&mut driver, ctrl::VLAN_ADD, 6));
        expect(&mut driver, "VLAN 6", [false, true, false, true]);
        assert!(set(&mut driver, ctrl::VLAN_ADD, 5) && set(&mut driver, ctrl::VLAN_ADD, 4095));
        expect(&mut driver, "three VLANs", [true; 4]);
        assert!(set(&mut driver, ctrl::VLAN_DEL, 6));
        expect(&mut driver, "two VLANs", [true, false, true, true]);
        assert!(!set(&mut driver, ctrl::VLAN_ADD, 4096), "there is no such VLAN");
    }
}

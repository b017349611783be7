//! An address that moves to another link is found there: bridges hear of it at once.

use serde_json::Value;

use crate::world::{World, check, wait};

const MAC: &str = "02:00:00:77:00:01";

/// Two slots whose links one end has in a bridge, and an end that has the same address in whichever
/// slot it is. Its kernel says nothing by itself.
fn moves(bridged: &str, moving: &str) {
    let keys = |machine: &str| {
        let own = if machine == moving { format!("mac = \"{MAC}\"\n") } else { String::new() };
        format!("address = []\n{own}")
    };
    let mut world = World::new(1, |machine, _| keys(machine));
    for setting in ["all", "default"] {
        let setting = format!("net.ipv6.conf.{setting}.disable_ipv6=1");
        world.run_well(moving, &["sysctl", "-qw", &setting]);
    }
    let links: Vec<_> =
        (0..2).map(|slot| world.link(&format!("bl{slot}"), slot, 1, &keys(bridged))).collect();
    world.configure(bridged, &links.concat());
    world.start("backplane");
    world.start(bridged);
    world.ip(bridged, "link add br0 type bridge");
    world.ip(bridged, "link set br0 up");
    for port in ["bl0", "bl1"] {
        wait(&format!("{port} is there"), || {
            check(world.netdev(bridged, port).is_some(), "it is not")
        });
        world.ip(bridged, &format!("link set {port} master br0"));
    }
    for slot in [0, 1, 0] {
        let link = world.link("bl0", slot, 2, &keys(moving));
        world.configure(moving, &link);
        world.start(moving);
        let port = format!("bl{slot}");
        wait(&format!("the address is behind {port}"), || {
            let text = world.run_well(bridged, &["bridge", "-j", "fdb", "show", "br", "br0"]);
            let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
            let found: Vec<_> =
                entries.iter().filter(|e| e["mac"] == MAC).map(|e| e["ifname"].clone()).collect();
            check(found == [Value::from(&*port)], found)
        });
        assert!(world.stop(moving).success());
    }
}

pub(crate) fn a_masters_address_moves_in_the_boards_bridge() {
    moves("board0", "master");
}

pub(crate) fn a_boards_address_moves_in_the_masters_bridge() {
    moves("master", "board0");
}

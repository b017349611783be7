//! `boardlane probe` in a guest: on a live link, on a slot without a board, on a function of another kind.

use serde_json::Value;

use super::bad::FOREIGN;
use crate::bus::{Bus, End, Machine, address, master};

/// Probes a target in the guest; the exit status, and the object, which agrees with the text.
fn probe(end: &mut End, target: &str) -> (u8, Value) {
    let (status, text) = end.guest.run(&format!("boardlane probe {target} 2>&1"));
    eprintln!("# boardlane probe {target}; exit status {status}\n{text}");
    let (_, json) = end.guest.run(&format!("boardlane probe --json {target} 2>/dev/null"));
    let mut all: Vec<Value> = serde_json::from_str(json.trim()).unwrap();
    let found = all.remove(0);
    let verdict = format!("{target}: {}", found["verdict"].as_str().unwrap());
    assert!(text.lines().any(|line| line.trim_end().ends_with(&verdict)), "{verdict}");
    (status, found)
}

pub(super) fn a_live_link_an_empty_slot_and_a_foreign_function_are_told_apart() {
    let [live, empty] = [0, 1].map(|slot| format!("pci:{}", address(slot)));
    let (_bus, mut end) = Bus::with(&Machine { slots: &[0, 1], ..master("pci:auto", "") });
    end.is_up();
    // Of a daemon that has it, by whichever name.
    for target in ["bl0", &live] {
        let (status, found) = probe(&mut end, target);
        assert_eq!((status, &found["asked"]["link"]), (0, &"bl0".into()), "{found}");
        assert_eq!(found["verdict"], "window is good, board and master are up");
        assert_eq!(found["window"]["board"]["presence"], "attached", "its heartbeat moves");
        assert_eq!(found["queues"][0]["device_area"]["memory"], "driver memory");
    }
    // The other one does not answer for its memory, as firmware may leave it; then it does.
    let config = format!("/sys/bus/pci/devices/{}/config", address(1));
    end.guest.run_well(&format!("printf '\\0\\0' | dd of={config} bs=1 seek=4 conv=notrunc"));
    let (status, found) = probe(&mut end, &empty);
    assert_eq!((status, &found["window"]), (1, &Value::Null));
    assert!(found["verdict"].as_str().unwrap().contains("is disabled"), "{found}");
    end.guest.run_well(&format!("echo 1 >/sys/bus/pci/devices/{}/enable", address(1)));
    let (status, found) = probe(&mut end, &empty);
    assert_eq!((status, &found["asked"]), (1, &Value::Null));
    assert_eq!(found["verdict"], "no agent has written this window");
    let (status, found) = probe(&mut end, &format!("pci:{FOREIGN}"));
    let expected = format!("PCI function {FOREIGN} is 8086:2922, which is no board");
    assert!(status == 1 && found["verdict"].as_str().unwrap().starts_with(&expected), "{found}");
    let text = end.guest.run_well("boardlane probe");
    eprintln!("# boardlane probe\n{text}");
    for target in [&live, &empty] {
        assert!(text.contains(&format!("  {target} ")), "{target}");
    }
    assert!(!text.contains(FOREIGN) && text.contains(&format!("  {live}?vfio")));
    // Without its daemon the function is given back.
    end.guest.run_well("kill $(cat /tmp/pid)");
    end.guest.until("! kill -0 $(cat /tmp/pid)");
    end.guest.run_well(&format!("echo 1 >/sys/bus/pci/devices/{}/enable", address(0)));
    let (status, found) = probe(&mut end, &live);
    assert_eq!((status, &found["asked"]), (0, &Value::Null));
    assert_eq!(found["verdict"], "window is good, board is ready, master has stopped");
}

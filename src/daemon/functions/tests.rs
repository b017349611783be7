use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::os::fabric::pci::Tree;

/// A made-up PCI bus, and room for other files.
pub(in crate::daemon) struct Bus {
    pub(in crate::daemon) dir: PathBuf,
}

impl Bus {
    pub(in crate::daemon) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("boardlane-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bus/pci/devices")).unwrap();
        Self { dir }
    }

    pub(in crate::daemon) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        tree.sys.clone_from(&self.dir);
        tree
    }

    /// Has a function come, of a known kind or not. Nothing of it can be mapped.
    pub(in crate::daemon) fn plug(&self, address: &str, known: bool) {
        let dir = self.tree().directory(address.parse().unwrap());
        fs::create_dir_all(&dir).unwrap();
        let vendor = if known { "0x1af4" } else { "0x8086" };
        for (file, text) in [
            ("vendor", vendor),
            ("device", "0x1110"),
            ("class", "0x050000"),
            ("revision", "0x01"),
            ("driver_override", "(null)"),
            ("enable", "0"),
            ("resource", "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
    }

    pub(in crate::daemon) fn unplug(&self, address: &str) {
        fs::remove_dir_all(self.tree().directory(address.parse().unwrap())).unwrap();
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn those_of_known_kinds_are_found_and_a_look_without_an_answer_changes_nothing() {
    let bus = Bus::new("functions");
    let file = bus.dir.join("master.toml");
    let text = "[[link]]\nname = \"bl*\"\ntransport = \"pci:*\"\nport = \"discard\"\n";
    fs::write(&file, text).unwrap();
    for (address, known) in
        [("0000:04:00.1", true), ("0000:03:00.0", true), ("0000:00:00.0", false)]
    {
        bus.plug(address, known);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = Broker::with_bus(crate::daemon::Role::Master, &file, bus.tree());
        let functions = Functions::new(broker.clone());
        let told = functions.subscribe();
        let there = || functions.there().iter().map(Address::to_string).collect::<Vec<_>>();
        functions.look().await;
        assert!(there().is_empty(), "no config has to do with any yet");
        broker.config().await.unwrap();
        broker.adopt().await.unwrap();
        functions.look().await;
        assert_eq!(there(), ["0000:03:00.0", "0000:04:00.1"]);
        assert!(told.has_changed().unwrap());
        let told = functions.subscribe();
        functions.look().await;
        assert!(!told.has_changed().unwrap(), "nothing is new");
        fs::remove_dir_all(bus.dir.join("bus")).unwrap();
        functions.look().await;
        assert_eq!(there().len(), 2, "{:?}", functions.known.failed);
        assert!(functions.known.failed.borrow().contains("bus/pci/devices"));
    });
}

/// Runs for so many milliseconds, with notices at these; gives when there were looks, and whether for a
/// notice.
async fn looks(pause: u64, notices: &[u64], until: u64) -> Vec<(u128, bool)> {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let next = Cell::new(0);
    let heard = async || {
        match notices.get(next.get()) {
            Some(ms) => sleep_until(at(*ms)).await,
            None => std::future::pending().await,
        }
        next.set(next.get() + 1);
    };
    let mut looks = Vec::new();
    let look = async |noticed| {
        looks.push((start.elapsed().as_millis(), noticed));
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let _ =
        tokio::time::timeout_at(at(until), follow(Duration::from_millis(pause), heard, look)).await;
    looks
}

#[tokio::test(start_paused = true)]
async fn a_look_follows_notices_soon_and_silence_late() {
    assert_eq!(looks(1000, &[], 2100).await, [(1000, false), (2005, false)]);
    // One look for many notices, and none of them puts it off.
    let many: Vec<u64> = (0..100).map(|n| 10 + n).collect();
    let seen = looks(1000, &many, 1000).await;
    assert_eq!(seen[0], (60, true));
    assert!(seen.len() <= 3, "{seen:?}");
    // What comes during a look is looked for, too.
    assert_eq!(looks(1000, &[10, 62], 200).await, [(60, true), (115, true)]);
}

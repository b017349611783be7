use std::fs;
use std::path::PathBuf;

use super::*;
use crate::daemon::functions::tests::Bus;

/// A daemon without a netdev on a made-up PCI bus.
struct Plugged {
    bus: Bus,
    file: PathBuf,
    daemon: Rc<Daemon>,
}

impl Plugged {
    async fn new(name: &str, there: &[&str], entries: &[(&str, &str)]) -> Self {
        let bus = Bus::new(name);
        let file = bus.dir.join("master.toml");
        there.iter().for_each(|address| bus.plug(address, true));
        fs::write(&file, text(entries)).unwrap();
        let broker = Broker::with_bus(Role::Master, &file, bus.tree());
        let config = broker.config().await.unwrap();
        broker.adopt().await.unwrap();
        let daemon =
            Daemon::new(Role::Master, broker, Identity::of_machine(), &config, Manager::default());
        let daemon = Rc::new(daemon);
        daemon.begin(config).await;
        Self { bus, file, daemon }
    }

    /// The links, each with its transport and its slot's number.
    fn links(&self) -> Vec<String> {
        let links = self.daemon.status().links;
        let slot = |slot: Option<u32>| slot.map_or("-".to_owned(), |slot| format!("{slot:x}"));
        links.iter().map(|l| format!("{} {} {}", l.name, l.transport, slot(l.slot))).collect()
    }

    /// Waits until the links with these names run.
    async fn expect(&self, names: &[&str]) {
        for _ in 0..200 {
            let links = self.daemon.status().links;
            if links.iter().map(|link| link.name.as_str()).eq(names.iter().copied()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}, and not {names:?}", self.links());
    }

    async fn look(&self) {
        self.daemon.functions.look().await;
    }

    async fn reload(&self, entries: &[(&str, &str)]) -> Report {
        fs::write(&self.file, text(entries)).unwrap();
        self.daemon.reload().await.unwrap().unwrap()
    }
}

fn text(entries: &[(&str, &str)]) -> String {
    let entry = |(name, rest): &(&str, &str)| {
        format!("[[link]]\nname = \"{name}\"\nport = \"discard\"\ntransport = \"{rest}\n")
    };
    entries.iter().map(entry).collect()
}

fn in_a_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

const A: &str = "0000:03:00.0";
const B: &str = "0000:03:01.0";
const BUS: (&str, &str) = ("bl*", "pci:0000:03:*\"");

#[test]
fn links_of_a_pattern_come_and_go_with_their_functions() {
    in_a_runtime(async {
        let at = Plugged::new("plug", &[B], &[("a", "shm:/none\""), BUS]).await;
        assert_eq!(at.links(), ["a shm:/none -", "blp3s1 pci:0000:03:01.0 80000308"]);
        let mut told = at.daemon.functions.subscribe();
        at.bus.plug(A, true);
        at.bus.plug("0000:03:02.0", false);
        at.look().await;
        at.expect(&["a", "blp3s0", "blp3s1"]).await;
        // Each waits for what it lacks, and its view is the same one all the time.
        assert!(told.has_changed().unwrap());
        at.bus.unplug(B);
        at.look().await;
        at.expect(&["a", "blp3s0"]).await;
        at.bus.plug(B, true);
        at.look().await;
        at.expect(&["a", "blp3s0", "blp3s1"]).await;
        told.mark_unchanged();
        at.daemon.stop(false).await;
        at.bus.unplug(A);
        at.look().await;
        assert_eq!(at.links(), [""; 0], "none begins any more");
    });
}

#[test]
fn a_reload_leaves_links_of_a_pattern_alone_that_it_does_not_change() {
    in_a_runtime(async {
        let at = Plugged::new("replug", &[A, B], &[BUS]).await;
        let report = at.reload(&[("x", "shm:/none\""), BUS]).await;
        assert_eq!(report.to_string(), "added x; 2 unchanged");
        // One gets an entry of its own.
        let report = at.reload(&[("own", "pci:0000:03:00.0\""), BUS]).await;
        assert_eq!(report.to_string(), "added own; removed x blp3s0; 1 unchanged");
        assert_eq!(at.links()[0], "own pci:0000:03:00.0 80000300", "with the slot that it had");
        let report = at
            .reload(&[("own", "pci:0000:03:00.0\""), ("bl*", "pci:0000:03:*\"\nqueues = 2")])
            .await;
        assert_eq!(report.to_string(), "restarted blp3s1; 1 unchanged");
        let report = at.reload(&[("y*", "pci:*\"")]).await;
        assert_eq!(report.to_string(), "added yp3s0 yp3s1; removed own blp3s1; 0 unchanged");
        at.daemon.stop(false).await;
    });
}

#[test]
fn a_pattern_that_a_reload_brings_is_followed() {
    in_a_runtime(async {
        let at = Plugged::new("follow", &[A], &[("a", "shm:/none\"")]).await;
        assert_eq!(at.links().len(), 1);
        let report = at.reload(&[BUS]).await;
        assert_eq!(report.to_string(), "added blp3s0; removed a; 0 unchanged");
        at.bus.plug(B, true);
        // Nobody has been told, so this waits for what is looked for anyway, or a notice of the machine's.
        tokio::time::pause();
        for _ in 0..80 {
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        at.expect(&["blp3s0", "blp3s1"]).await;
        at.daemon.stop(false).await;
    });
}

#[test]
fn an_entry_without_its_function_waits_for_it() {
    in_a_runtime(async {
        let at = Plugged::new("wait", &[], &[("a", "pci:0000:03:00.0?sysfs\"")]).await;
        let reason = || at.daemon.status().links[0].reason.clone().unwrap_or_default();
        let until = async |part: &str| {
            for _ in 0..200 {
                if reason().contains(part) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{}, and not {part}", reason());
        };
        until("0000:03:00.0 does not exist").await;
        at.bus.plug(A, true);
        let start = Instant::now();
        at.look().await;
        until("BAR 2").await;
        assert!(start.elapsed() < Duration::from_millis(300), "it tries at once");
        at.bus.unplug(A);
        until("0000:03:00.0 does not exist").await;
        at.daemon.stop(false).await;
    });
}

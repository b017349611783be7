//! An agent that is killed under traffic, again and again, while its front-end keeps its rings.

use crate::front_end::{FrontEnd, Rings};
use crate::site::{Held, Site};
use crate::stream::Seen;
use crate::table::Table;

/// Most frames that come again after a kill: the worker's batch (daemon/worker.rs, `BATCH`). Whether a
/// frame has been taken is published after it, and that it has been sent back is published before.
const MOST_REPEATED: u64 = 64;
/// Frames between two kills at least, of which so many are more than a ring that what a kill did has been
/// seen before the next one.
const BETWEEN: u64 = 600;
const KILLS: u64 = 20;
/// One that has copies under way all the time.
const ENGINE: &str = "dma = \"engine\"\nengine = { latency_us = 100 }";

/// Kills an agent so many times: how many frames were under way, and what was seen, of each.
fn kill(rings: Rings, keys: &str) -> Vec<(u64, Seen)> {
    let mut site = Site::new("kills", 1, keys);
    let mut front_end = FrontEnd::new(rings, true);
    front_end.set_up(&site, 0, true);
    front_end.pump(BETWEEN);
    assert_eq!(Seen { came: 0, ..front_end.stream.take() }, Seen::default(), "before any kill");
    let mut rows = Vec::new();
    for kill in 0..KILLS {
        // Somewhere in a batch: at another place each time.
        front_end.push(1 + kill * 7 % 11);
        site.kill();
        let under_way = front_end.stream.under_way();
        front_end.is_left();
        // The driver knows of nothing, and fills its ring.
        front_end.push(3);
        site.start();
        front_end.set_up(&site, 0, true);
        front_end.pump(BETWEEN);
        rows.push((under_way, front_end.stream.take()));
    }
    front_end.drain();
    let last = Seen { came: 0, ..front_end.stream.take() };
    assert_eq!(last, Seen::default(), "when nothing was killed any more");
    assert_eq!(front_end.untold, 0, "{}: a call was lost", rings.name());
    let ring = front_end.ring_size();
    for (kill, (_, row)) in rows.iter().enumerate() {
        let name = format!("{}, kill {kill}: {row:?}", rings.name());
        assert_eq!(row.altered, 0, "{name}");
        assert!(row.breaks <= 1, "{name}: the order is broken");
        assert!(row.repeated <= MOST_REPEATED && row.lost <= ring, "{name}");
    }
    rows
}

/// After each of 20 kills a numbered stream goes on, for each kind of rings.
pub(crate) fn kills_alter_nothing_and_lose_and_repeat_little() {
    let mine = Held::by(std::process::id());
    let mut table = Table::new(&[
        "rings",
        "kills",
        "in flight then",
        "frames",
        "altered",
        "lost",
        "repeated",
        "most at once",
    ]);
    // All kinds, and two of them with an engine.
    for kind in [0, 1, 2, 3, 4, 5, 6, 7, 9, 13] {
        let [packed, in_order, event_idx] = [4, 2, 1].map(|bit| kind & bit != 0);
        let keys = if kind & 8 == 0 { "" } else { ENGINE };
        let rings = Rings { packed, in_order, event_idx };
        let (in_flight, rows): (Vec<u64>, Vec<Seen>) = kill(rings, keys).into_iter().unzip();
        let sum = |field: fn(&Seen) -> u64| rows.iter().map(field).sum::<u64>().to_string();
        let most = |field: fn(&Seen) -> u64| rows.iter().map(field).max().unwrap_or(0);
        let (least, greatest) = (in_flight.iter().min().unwrap(), in_flight.iter().max().unwrap());
        assert!(*greatest > 0, "{}: no kill was under traffic", rings.name());
        table.row([
            rings.name() + if keys.is_empty() { "" } else { ", engine" },
            rows.len().to_string(),
            format!("{least} to {greatest}"),
            sum(|row| row.came),
            sum(|row| row.altered),
            sum(|row| row.lost),
            sum(|row| row.repeated),
            format!("{} lost, {} repeated", most(|row| row.lost), most(|row| row.repeated)),
        ]);
    }
    table.print("kills of the agent under traffic, in-flight memory kept");
    mine.assert_kept(std::process::id());
}

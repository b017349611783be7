//! Front-ends that come and go, in order and out of it, under traffic.

use crate::front_end::{FrontEnd, Rings};
use crate::site::{Held, Site};
use crate::stream::Seen;
use crate::table::Table;

/// How a front-end leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It stops its rings, goes on with them, stops them again, and closes the connection.
    InOrder,
    /// It closes the connection while frames are under way.
    Abrupt,
}

/// A front-end with fresh rings comes, has frames echoed, and leaves.
fn visit(site: &Site, rings: Rings, way: Way, number: u64) -> Seen {
    let mut front_end = FrontEnd::new(rings, number % 2 == 0);
    front_end.set_up(site, 0, number % 3 == 0);
    front_end.pump(100 + number * 37 % 200);
    match way {
        Way::Abrupt => front_end.push(1 + number % 3),
        Way::InOrder => {
            front_end.push(1 + number % 3);
            front_end.stop();
            let stopped = front_end.bases_of_used();
            front_end.push(2);
            assert_eq!(front_end.bases_of_used(), stopped, "nothing is used while rings stand");
            front_end.go_on();
            front_end.pump(100);
            front_end.drain();
            front_end.stop();
        }
    }
    assert_eq!(front_end.untold, 0, "{}: a call was lost", rings.name());
    front_end.stream.take()
}

/// 100 front-ends, one after the other; then the agent holds what it held before, and so does this process.
pub(crate) fn a_hundred_front_ends_lose_nothing_and_leave_nothing() {
    let mut site = Site::new("reconnects", 1, "");
    let mut table =
        Table::new(&["after front-ends", "descriptors", "threads", "mappings", "RssAnon KiB"]);
    let mut before = None;
    let mut all = Seen::default();
    // The first few make what is made once: threads of the runtime, arenas of the allocator.
    for number in 0..8 + 100 {
        let rings = Rings {
            packed: number % 2 == 1,
            in_order: number / 2 % 2 == 1,
            event_idx: number / 4 % 2 == 0,
        };
        let way = if number / 8 % 2 == 0 { Way::InOrder } else { Way::Abrupt };
        let seen = visit(&site, rings, way, number);
        assert_eq!(
            Seen { came: 0, ..seen },
            Seen::default(),
            "front-end {number}, {rings:?} {way:?}"
        );
        all.came += seen.came;
        if number == 7 || number % 25 == 7 {
            site.wait_reason(0, "no front-end has connected");
            let held = [Held::by(site.pid()), Held::by(std::process::id())];
            for (name, Held { descriptors, threads, mappings, anonymous }) in
                ["agent", "test"].iter().zip(held)
            {
                let numbers = [descriptors, threads, mappings, anonymous].map(|n| n.to_string());
                let [a, b, c, d] = numbers;
                table.row([format!("{}, {name}", number - 7), a, b, c, d]);
            }
            before.get_or_insert(held);
        }
    }
    site.assert_alive();
    site.wait_reason(0, "no front-end has connected");
    table.print(&format!(
        "front-ends that come and go: {} frames echoed, none lost, repeated, altered",
        all.came
    ));
    let [agent, mine] = before.unwrap();
    agent.assert_kept(site.pid());
    mine.assert_kept(std::process::id());
}

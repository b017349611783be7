//! What `boardlane status` tells people of real links.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use boardlane::daemon::status::LinkState;

use crate::world::{PROGRAM, World, check, wait};

/// A machine's table: the line above it, and the words of the row of a link, of which the last may be several.
fn table(world: &World, machine: &str, name: &str) -> (String, Vec<String>) {
    let control = world.directory(machine).join("control.sock");
    let text =
        world.run_well(machine, &[PROGRAM, "status", "--control", control.to_str().unwrap()]);
    let mut lines = text.lines();
    let head = lines.next().unwrap().to_owned();
    let row = lines.find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    let cells = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    (head, cells.map(str::to_owned).collect())
}

pub(crate) fn a_row_shows_state_age_rates_and_flaps() {
    let mut world = World::running(2, |_, _| String::new());
    // Neighbours and multicast listeners have done with the new netdevs after a while.
    wait("nothing moves", || {
        let (head, row) = table(&world, "master", "bl0");
        assert!(head.starts_with("master, pid ") && head.ends_with("; 2 of 2 up"), "{head}");
        assert_eq!((&*row[1], &*row[9]), ("up", "0"), "{row:?}");
        check(row[3..7].iter().all(|rate| rate == "0"), row)
    });
    let [mut client, mut server] = world.connection("master", "board0", "10.77.0.2");
    let enough = AtomicBool::new(false);
    let rates = thread::scope(|scope| {
        scope.spawn(|| io::copy(&mut server, &mut io::sink()).unwrap());
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                client.write_all(&[0; 1 << 16]).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(Duration::from_millis(100));
        let (_, busy) = table(&world, "board0", "bl0");
        enough.store(true, Ordering::Relaxed);
        busy
    });
    assert!(rates[3].ends_with("Mbit") || rates[3].ends_with("Gbit"), "{rates:?}");
    assert!(rates[4].ends_with('k'), "{rates:?}");
    assert!(rates[7].ends_with("MB") || rates[7].ends_with("GB"), "{rates:?}");

    world.kill("board1");
    world.wait_state("master", "bl1", LinkState::Waiting, "waiting for board");
    let (head, row) = table(&world, "master", "bl1");
    assert!(head.ends_with("; 1 of 2 up; waiting: bl1"), "{head}");
    assert_eq!((&*row[1], &*row[9]), ("waiting", "1"), "{row:?}");
    assert!(row[11].starts_with("waiting for board"), "{row:?}");
    let aged = world.link_status("master", "bl1").unwrap();
    wait("its age grows while it waits", || {
        let link = world.link_status("master", "bl1")?;
        check(
            link.age_ms >= aged.age_ms + 1000 && link.counts.flaps == 1,
            (link.age_ms, link.counts.flaps),
        )
    });
    world.start("board1");
    world.wait_up(1);
    let link = world.link_status("master", "bl1").unwrap();
    assert!(link.counts.flaps == 1 && link.age_ms < aged.age_ms + 10_000, "{link:?}");
}

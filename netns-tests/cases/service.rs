//! Daemons as a service manager has them: restarted, told to read their config again, watched.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::{World, check, wait};

pub(crate) fn a_netdev_is_left_to_the_next_start_if_that_is_asked_for() {
    let mut world = World::running(1, |_, _| String::new());
    for (daemon, other) in [("board0", "master"), ("master", "board0")] {
        world.ip(daemon, "address add 192.0.2.7/24 dev bl0");
        world.ip(daemon, "route add 198.51.100.0/24 dev bl0");
        let index = || world.netdev(daemon, "bl0").unwrap()["ifindex"].clone();
        let before = index();
        world.signal(daemon, Signal::USR2);
        // As systemd has it follow.
        world.signal(daemon, Signal::TERM);
        assert!(world.wait_end(daemon).success(), "{}", world.log(daemon));
        wait("carrier gone at the other end", || {
            check(!world.has_carrier(other, "bl0"), world.log(other))
        });
        assert!(!world.has_carrier(daemon, "bl0"));
        world.start(daemon);
        world.wait_up(0);
        assert_eq!(world.netdev(daemon, "bl0").unwrap()["ifindex"], before);
        for (what, added) in
            [("address show dev bl0", "192.0.2.7"), ("route show dev bl0", "198.51.100.0/24")]
        {
            let text = format!("{:?}", world.ip(daemon, what));
            assert!(text.contains(added), "{text}");
        }
        world.ping_well("master", "10.77.0.2");
        // The next stop removes it, as ever.
        assert!(world.stop(daemon).success(), "{}", world.log(daemon));
        assert!(world.netdev(daemon, "bl0").is_none());
        world.start(daemon);
        world.wait_up(0);
    }
}

pub(crate) fn the_service_manager_hears_how_a_daemon_is() {
    let mut world = World::running(1, |_, _| String::new());
    for daemon in ["board0", "master", "backplane"] {
        world.stop(daemon);
        let path = world.slot(0).with_file_name("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let hears = || {
            let mut text = [0; 100];
            let len = manager.recv(&mut text).expect("something is told within 10 s");
            String::from_utf8(text[..len].to_vec()).unwrap()
        };
        // All of these, in any order, with others between them.
        let hears_of = |lines: &[&str]| {
            let mut missing: BTreeSet<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            let start = Instant::now();
            while !missing.is_empty() {
                missing.remove(&hears());
                assert!(start.elapsed() < Duration::from_secs(10), "not heard of {missing:?}");
            }
        };
        let socket = format!("NOTIFY_SOCKET={}", path.display());
        world.start_as(daemon, &["env", &socket, "WATCHDOG_USEC=300000"]);
        assert_eq!(hears(), "READY=1");
        let status = if daemon == "backplane" { "STATUS=16 slots" } else { "STATUS=1 link, 1 up" };
        hears_of(&[status, "WATCHDOG=1"]);
        if daemon != "backplane" {
            world.signal(daemon, Signal::HUP);
            hears_of(&["RELOADING=1"]);
            hears_of(&["READY=1"]);
        }
        world.signal(daemon, Signal::TERM);
        hears_of(&["STOPPING=1"]);
        assert!(world.wait_end(daemon).success(), "{}", world.log(daemon));
        world.start(daemon);
        std::fs::remove_file(path).unwrap();
    }
}

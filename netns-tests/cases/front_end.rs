//! A master whose board is a vhost-user back-end: this program's agent, or one that does what it should
//! not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;

use crate::world::{World, check, wait};

const SIDES: [[&str; 2]; 2] = [["?client", "?server"], ["?server", "?client"]];

fn socket(world: &World) -> PathBuf {
    world.directory("board0").join("vhost.sock")
}

/// A link of one end, as `World::link` has it, by vhost-user.
fn link(world: &World, host: u8, side: &str, keys: &str) -> String {
    let slot = world.slot(0).display().to_string();
    let link = world.link("bl0", 0, host, keys);
    let transport = format!("vhost-user:{}{side}", socket(world).display());
    link.replace(&format!("shm:{slot}"), &transport)
}

/// A master and an agent, of which nothing runs yet.
fn world([master, board]: [&str; 2], keys: &str) -> World {
    let world = World::new(1, |_, _| String::new());
    world.configure("master", &link(&world, 1, master, keys));
    world.configure("board0", &link(&world, 2, board, keys));
    world
}

fn running(sides: [&str; 2], keys: &str) -> World {
    let mut world = world(sides, keys);
    world.start("board0");
    world.start("master");
    world.wait_up(0);
    world
}

pub(crate) fn a_master_and_an_agent_carry_v4_and_v6_whoever_listens() {
    for sides in SIDES {
        for keys in ["queues = 2", "features_off = [\"RING_PACKED\"]", ""] {
            let world = running(sides, keys);
            for (from, to, v4, v6) in [
                ("master", "board0", "10.77.0.2", "fd77::2"),
                ("board0", "master", "10.77.0.1", "fd77::1"),
            ] {
                world.ping_well(from, v4);
                world.ping_well(from, v6);
                world.transfer(from, to, v4, 4 << 20);
            }
            let [master, board] =
                ["master", "board0"].map(|m| world.link_status(m, "bl0").unwrap());
            assert_eq!(master.features, board.features);
            assert_eq!(master.queues.len(), if keys.starts_with("queues") { 2 } else { 1 });
        }
    }
}

pub(crate) fn an_end_that_was_killed_or_stopped_is_back_whoever_listens() {
    for sides in SIDES {
        let mut world = running(sides, "queues = 2");
        for round in 0..3 {
            for daemon in ["board0", "master"] {
                if round == 1 {
                    assert!(world.stop(daemon).success());
                } else {
                    world.kill(daemon);
                }
                let other = if daemon == "master" { "board0" } else { "master" };
                wait("the other end has no carrier", || {
                    let link = world.link_status(other, "bl0")?;
                    check(!link.carrier && !world.has_carrier(other, "bl0"), link)
                });
                world.start(daemon);
                world.wait_up(0);
                world.wait_ping("traffic is back", "master", "10.77.0.2");
                world.wait_ping("and the other way", "board0", "10.77.0.1");
            }
        }
    }
}

pub(crate) fn a_board_that_is_set_down_takes_the_masters_carrier() {
    let world = running(SIDES[0], "");
    for _ in 0..2 {
        world.ip("board0", "link set bl0 down");
        world.wait_state("master", "bl0", LinkState::Up, "the back-end says that its link is down");
        wait("no carrier", || check(!world.has_carrier("master", "bl0"), "there is one"));
        world.ip("board0", "link set bl0 up");
        world.wait_up(0);
    }
}

pub(crate) fn a_master_takes_the_address_that_the_device_gives_unless_its_config_has_one() {
    let mut world = running(SIDES[0], "");
    let mac = world.link_status("master", "bl0").unwrap().mac.unwrap();
    assert_eq!(world.netdev("master", "bl0").unwrap()["address"], mac);
    assert!(world.stop("master").success());
    let own = "mac = \"02:00:00:00:00:77\"";
    world.configure("master", &link(&world, 1, "", own));
    world.start("master");
    world.wait_up(0);
    assert_eq!(world.netdev("master", "bl0").unwrap()["address"], "02:00:00:00:00:77");
    world.ping_well("master", "10.77.0.2");
}

/// Reads one request: its number.
fn request(stream: &mut UnixStream) -> Option<u32> {
    let mut header = [0; 12];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let mut payload = vec![0; word(8) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some(word(0))
}

fn reply(stream: &mut UnixStream, request: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap();
    let mut octets: Vec<u8> = [request, 5, len].into_iter().flat_map(u32::to_le_bytes).collect();
    octets.extend_from_slice(payload);
    // It may have hung up.
    let _ = stream.write_all(&octets);
}

pub(crate) fn a_back_end_that_does_not_keep_to_the_protocol_is_named_and_a_good_one_then_taken() {
    let mut world = world(SIDES[0], "");
    let listener = UnixListener::bind(socket(&world)).unwrap();
    world.start("master");
    let accept = || listener.accept().unwrap().0;
    let says =
        |reason: &str| drop(world.wait_state("master", "bl0", LinkState::Quarantined, reason));

    let mut stream = accept();
    assert_eq!(request(&mut stream), Some(1));
    reply(&mut stream, 2, &[0; 8]);
    says("the back-end answers SET_FEATURES instead of GET_FEATURES");

    let mut stream = accept();
    assert_eq!(request(&mut stream), Some(1));
    reply(&mut stream, 1, &[0; 8]);
    says("the back-end does not offer VERSION_1");

    let mut stream = accept();
    assert_eq!(request(&mut stream), Some(1));
    let _ = stream.write_all(&[0xff; 64]);
    says("says that its payload has 4294967295 bytes");

    // It takes everything and is no device; the agent in its place is one.
    let mut stream = accept();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while let Some(number) = request(&mut stream) {
        if number == 1 {
            reply(&mut stream, 1, &(1_u64 << 32).to_le_bytes());
        }
    }
    world.wait_state("master", "bl0", LinkState::Up, "");
    drop((stream, listener));
    std::fs::remove_file(socket(&world)).unwrap();
    world.start("board0");
    world.wait_up(0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn a_back_end_that_hangs_is_given_up() {
    let world = running(SIDES[0], "");
    world.signal("board0", rustix::process::Signal::STOP);
    let (since, mut state) = (Instant::now(), LinkState::Up);
    while state == LinkState::Up && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
        state = world.link_status("master", "bl0").unwrap().state;
    }
    assert_ne!(state, LinkState::Up, "the back-end hangs");
    eprintln!("given up after {:.1} s", since.elapsed().as_secs_f64());
    world.signal("board0", rustix::process::Signal::CONT);
    wait("it is met again", || {
        let link = world.link_status("master", "bl0")?;
        check(link.state == LinkState::Up && link.carrier, link)
    });
    world.wait_ping("traffic is back", "master", "10.77.0.2");
}

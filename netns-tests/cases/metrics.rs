//! What a daemon tells Prometheus: whether others understand it, whether it is true, and who may ask how.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use boardlane::daemon::status::LinkState;
use serde_json::Value;

use super::reload::reload;
use crate::case::python;
use crate::world::{PATIENCE, World, check, wait};

const ADDRESS: &str = "127.0.0.1:9477";
const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A world whose daemons tell their metrics, with everything up.
fn world() -> World {
    let mut world = World::new(1, |_, _| String::new());
    for machine in ["master", "board0"] {
        configure(&world, machine, ADDRESS);
    }
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    world.wait_up(0);
    world
}

/// The usual link of a machine, below the place of its metrics.
fn links(world: &World, machine: &str, place: &str) -> String {
    let host = if machine == "master" { 1 } else { 2 };
    format!("metrics = \"{place}\"\n{}", world.link("bl0", 0, host, ""))
}

fn configure(world: &World, machine: &str, place: &str) {
    world.configure(machine, &links(world, machine, place));
}

/// What is answered on a connection; nothing where it was cut off.
fn answer(mut stream: impl Read + Write, request: &[u8]) -> String {
    let mut octets = Vec::new();
    if stream.write_all(request).is_ok() {
        let _ = stream.read_to_end(&mut octets);
    }
    String::from_utf8(octets).unwrap()
}

fn connect(world: &World, machine: &str) -> Result<TcpStream, String> {
    let stream = world.inside(machine, || TcpStream::connect(ADDRESS));
    let stream = stream.map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(stream)
}

/// The page without its header.
fn page_of(answer: &str) -> Result<String, String> {
    let (head, page) = answer.split_once("\r\n\r\n").ok_or(answer)?;
    check(head.starts_with("HTTP/1.1 200 OK\r\n"), head).map(|()| page.to_owned())
}

fn page(world: &World, machine: &str) -> Result<String, String> {
    page_of(&answer(connect(world, machine)?, GET))
}

/// The value of a series, as it stands in a page.
fn value(page: &str, series: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
    line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
}

/// A sample as the Python client's parser gives it: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// What the Python client library makes of a page.
fn parsed(page: &str) -> Vec<Sample> {
    const SCRIPT: &str = "import json, sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        families = list(parse(sys.stdin.read()))\n\
        assert all(f.documentation and f.type != 'unknown' for f in families)\n\
        samples = [s for f in families for s in f.samples]\n\
        print(json.dumps([(s.name, s.labels, s.value) for s in samples]))";
    let mut python = python(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the parser refuses\n{page}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sum of what is counted of the link's frames one way.
fn sum(samples: &[Sample], name: &str, way: &str) -> u64 {
    let of = samples.iter().filter(|(n, labels, _)| {
        n == name && labels["link"] == "bl0" && labels["direction"] == way
    });
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    of.map(|(_, _, value)| *value as u64).sum()
}

/// Whether the metrics say of the netdev's frames what the kernel says.
fn agree(world: &World, machine: &str) -> Result<(), String> {
    let kernel = || -> Value { world.netdev(machine, "bl0").unwrap()["stats64"].clone() };
    let before = kernel();
    let samples = parsed(&page(world, machine)?);
    check(before == kernel(), "frames still come and go")?;
    let count = |name: &str, way| sum(&samples, &format!("boardlane_{name}_total"), way);
    let drops = |way| count("dropped_frames", way);
    for way in ["rx", "tx"] {
        let kernel = |what: &str| before[way][what].as_u64().unwrap();
        // What was read from the netdev and dropped has been sent as the kernel sees it; what was dropped on
        // the way to it has not been received.
        let dropped = if way == "tx" { drops(way) } else { 0 };
        let ours = [count("frames", way) + dropped, count("bytes", way)];
        check(ours[0] == kernel("packets"), (machine, way, ours, &before))?;
        check(dropped > 0 || ours[1] == kernel("bytes"), (machine, way, ours, &before))?;
        eprintln!("{machine} {way}: {ours:?}, dropped {dropped}, kernel {}", before[way]);
    }
    Ok(())
}

pub(crate) fn an_independent_parser_takes_them_and_they_agree_with_the_kernel() {
    let world = world();
    world.ping_well("master", "10.77.0.2");
    world.ping_well("board0", "fd77::1");
    world.transfer("master", "board0", "10.77.0.2", 8 << 20);
    world.transfer("board0", "master", "10.77.0.1", 4 << 20);
    for machine in ["master", "board0"] {
        wait(&format!("{machine} and its kernel agree"), || agree(&world, machine));
    }
    let samples = parsed(&page(&world, "master").unwrap());
    assert!(sum(&samples, "boardlane_bytes_total", "tx") > 8 << 20);
    wait("keepalives have been answered", || {
        let page = page(&world, "master")?;
        let count = value(&page, "boardlane_keepalive_round_trip_seconds_count{link=\"bl0\"}");
        check(count >= 2, count)
    });
    // And with `status`, once nothing moves.
    wait("metrics and status agree", || {
        let queue = &world.link_status("master", "bl0")?.queues[0];
        let samples = parsed(&page(&world, "master")?);
        let frames = ["rx", "tx"].map(|way| sum(&samples, "boardlane_frames_total", way));
        check(frames == [queue.rx.frames, queue.tx.frames], (frames, queue))
    });
}

pub(crate) fn counters_go_on_through_restarts_of_the_other_end_and_reloads() {
    let mut world = world();
    world.transfer("master", "board0", "10.77.0.2", 1 << 20);
    let series = "boardlane_bytes_total{link=\"bl0\",queue=\"0\",direction=\"tx\"}";
    let before = value(&page(&world, "master").unwrap(), series);
    assert!(before > 1 << 20);
    world.kill("board0");
    world.wait_state("master", "bl0", LinkState::Waiting, "");
    world.start("board0");
    world.wait_up(0);
    let after = page(&world, "master").unwrap();
    assert!(value(&after, series) >= before);
    assert_eq!(value(&after, "boardlane_link_flaps_total{link=\"bl0\"}"), 1);
    assert_eq!(value(&after, "boardlane_link_state{link=\"bl0\",state=\"up\"}"), 1);
    let links = format!("{}queues = 2\n", links(&world, "master", ADDRESS));
    assert_eq!(reload(&world, "master", &links), "restarted bl0; 0 unchanged");
    world.wait_up(0);
    let after = page(&world, "master").unwrap();
    assert!(value(&after, series) >= before);
    assert_eq!(value(&after, "boardlane_reloads_total"), 1);
    assert_eq!(world.status("master").unwrap().counts.reloads, 1);
    // What somebody takes away is set again, and counted.
    world.ip("master", "addr del 10.77.0.1/30 dev bl0");
    wait("the address is healed and counted", || {
        let page = page(&world, "master")?;
        let heals = value(&page, "boardlane_netdev_heals_total{link=\"bl0\"}");
        check(heals > 0, heals)
    });
}

pub(crate) fn a_port_in_use_is_said_once_and_had_when_it_is_free() {
    let mut world = World::new(1, |_, _| String::new());
    let other = world.inside("master", || TcpListener::bind(ADDRESS).unwrap());
    configure(&world, "master", ADDRESS);
    for daemon in ["backplane", "master", "board0"] {
        world.start(daemon);
    }
    world.wait_up(0);
    let error = || world.status("master").unwrap().metrics.unwrap().error;
    let why = error().expect("somebody has the port");
    assert!(why.contains("another program listens there"), "{why}");
    world.ping_well("master", "10.77.0.2");
    // Past a second try.
    thread::sleep(Duration::from_millis(5500));
    assert_eq!(world.log("master").matches(&why).count(), 1, "{}", world.log("master"));
    drop(other);
    wait("it has the port", || page(&world, "master").map(drop));
    assert_eq!(error(), None);
    assert_eq!(world.status("master").unwrap().metrics.unwrap().address, ADDRESS);
}

pub(crate) fn a_reload_moves_them_and_takes_them_away() {
    let world = world();
    let socket = world.directory("master").join("metrics.sock");
    let place = format!("unix:{}", socket.display());
    let moved = format!("control_mode = \"0620\"\n{}", links(&world, "master", &place));
    // Whose mode is another only a restart takes.
    world.configure("master", &moved);
    let refused = boardlane::daemon::control::client::ask_reload(
        &world.directory("master").join("control.sock"),
    );
    assert!(refused.unwrap_err().to_string().contains("takes a restart"));
    reload(&world, "master", &links(&world, "master", &place));
    let unix = || {
        let stream = UnixStream::connect(&socket).map_err(|e| e.to_string())?;
        page_of(&answer(stream, GET))
    };
    let page = wait("they are at the Unix socket", unix);
    assert_eq!(value(&page, "boardlane_reloads_total"), 1);
    assert_eq!(value(&page, "boardlane_reload_failures_total"), 1);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    connect(&world, "master").expect_err("nobody listens there any more");
    reload(&world, "master", &links(&world, "master", ADDRESS));
    wait("they are back", || self::page(&world, "master").map(drop));
    assert!(!socket.exists());
    reload(&world, "master", &world.link("bl0", 0, 1, ""));
    wait("they are away", || check(connect(&world, "master").is_err(), "somebody answers"));
    assert_eq!(world.status("master").unwrap().metrics, None);
    assert_eq!(value(&self::page(&world, "board0").unwrap(), "boardlane_reloads_total"), 0);
    world.ping_well("master", "10.77.0.2");
}

pub(crate) fn clients_that_are_slow_or_many_or_mad_hold_up_nobody() {
    let world = world();
    let steady = world.steady_ping("master", "10.77.0.2");
    // Slow ones: a header that does not end, and an answer that is not read.
    let mut slow: Vec<_> = (0..40).map(|_| connect(&world, "master").unwrap()).collect();
    for (i, stream) in slow.iter_mut().enumerate() {
        let _ = stream.write_all(if i % 2 == 0 { &GET[..20] } else { GET });
    }
    let start = Instant::now();
    page(&world, "master").unwrap();
    eprintln!("beside 40 slow clients: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3));
    // Many at once.
    let many: Vec<_> = (0..100).map(|_| connect(&world, "master").unwrap()).collect();
    let answered = thread::scope(|scope| {
        let asks: Vec<_> =
            many.into_iter().map(|stream| scope.spawn(|| answer(stream, GET))).collect();
        let answers = asks.into_iter().map(|ask| page_of(&ask.join().unwrap()));
        answers.filter(Result::is_ok).count()
    });
    eprintln!("{answered} of 100 at once were answered");
    assert!(answered >= 100 - 16, "all but those whose places others took");
    // Mad ones.
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 20_000]].concat();
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 as TLS begins\r\n\r\n"[..], "400"),
        (b"{\"request\":\"reload\"}\n", "400"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (&long, "431"),
    ] {
        let answer = answer(connect(&world, "master").unwrap(), request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    drop(slow);
    steady.finish_without_loss();
    page(&world, "master").unwrap();
    let log = world.log("master");
    assert!(!log.contains("WARN") && !log.contains("panicked"), "{log}");
}

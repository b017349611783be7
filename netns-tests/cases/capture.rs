//! What `boardlane capture` shows of a link, and what it costs the link.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boardlane::daemon::traffic::Ping;
use rustix::process::{Pid, Signal, kill_process};

use super::limits::{BOARD, OWN_V4, frame, ipv4, quiet_world};
use crate::checker::frame::IPV4;
use crate::checker::socket::Sender;
use crate::pcapng::{Capture, Frame};
use crate::world::{PROGRAM, World, check, wait};

const RX: u32 = 1;
const TX: u32 = 2;
/// The capturing process, as a daemon of the world's.
const NAME: &str = "capture";

fn file(world: &World, name: &str) -> PathBuf {
    world.directory("master").join(name)
}

/// The command line that captures a machine's `bl0`.
fn words<'w>(control: &'w str, more: &[&'w str]) -> Vec<&'w str> {
    [&[PROGRAM, "capture", "--link", "bl0", "--control", control], more].concat()
}

fn control(world: &World, machine: &str) -> String {
    world.directory(machine).join("control.sock").display().to_string()
}

/// Captures a machine's `bl0` to the file of this name, with more options; it has begun.
fn start(world: &mut World, machine: &str, name: &str, more: &[&str]) -> PathBuf {
    let (path, control) = (file(world, name), control(world, machine));
    let path_text = path.display().to_string();
    let words = words(&control, &[&["-w", &path_text], more].concat());
    world.start_words(NAME, "master", &words);
    wait("the capture has begun", || {
        check(!Capture::read(&path).interface[0].is_empty(), world.log(NAME))
    });
    path
}

/// Ends it as Ctrl-C does; the file is complete.
fn finish(world: &mut World, path: &Path) -> Capture {
    world.signal(NAME, Signal::INT);
    let status = world.wait_end(NAME);
    assert!(status.success(), "{status}: {}", world.log(NAME));
    complete(world, path)
}

fn complete(world: &World, path: &Path) -> Capture {
    let capture = Capture::read(path);
    let [seen, lost, written] = capture.totals.expect("statistics at the end");
    assert_eq!(written, capture.frames.len() as u64);
    assert!(seen >= written + lost, "{:?}", capture.totals);
    let told = format!("written, {lost} lost by the capture");
    assert!(world.log(NAME).contains(&told), "{}", world.log(NAME));
    capture
}

/// Waits until the file has a frame like this.
fn wait_frame(what: &str, path: &Path, is: impl Fn(&Frame) -> bool) {
    wait(what, || {
        let frames = Capture::read(path).frames;
        check(frames.iter().any(&is), frames.len())
    });
}

/// The type of an ICMP message (8 request, 0 reply), if the frame is one.
fn icmp(frame: &Frame) -> Option<u8> {
    (frame.octets.get(12..14)? == [8, 0] && *frame.octets.get(23)? == 1)
        .then(|| frame.octets.get(34).copied())?
}

/// Directions of echo requests and replies.
fn echoes(capture: &Capture) -> Vec<(u8, u32)> {
    capture.frames.iter().filter_map(|it| Some((icmp(it)?, it.direction))).collect()
}

pub(crate) fn tshark_shows_both_directions_of_a_ping_while_it_reads() {
    let world = World::running(1, |_, _| String::new());
    let (control, out) = (control(&world, "master"), file(&world, "shown"));
    let command = format!(
        "{PROGRAM} capture --link bl0 --control {control} -w - | tshark -l -n -r - -Y icmp -T fields \
         -e frame.packet_flags_direction -e icmp.type -e ip.src >{} 2>&1",
        out.display()
    );
    let mut world = world;
    world.start_words(NAME, "master", &["sh", "-c", &command]);
    let since = Instant::now();
    wait("tshark shows request and reply", || {
        world.ping_well("master", "10.77.0.2");
        let text = fs::read_to_string(&out).unwrap_or_default();
        let has = |line: &str| text.lines().any(|it| it == line);
        check(has("0x00000002\t8\t10.77.0.1") && has("0x00000001\t0\t10.77.0.2"), &text)
    });
    eprintln!("{:?} with the start of tshark", since.elapsed());
    let text = fs::read_to_string(&out).unwrap();
    assert!(!text.contains("0x00000001\t8") && !text.contains("0x00000002\t0"), "{text}");
    // The end of the daemon is the end of both.
    assert!(world.stop("master").success());
    world.wait_end(NAME);
}

pub(crate) fn each_end_shows_its_frames_whole_in_order_and_soon() {
    let mut world = World::running(1, |_, _| String::new());
    for (machine, peer, directions) in
        [("master", "10.77.0.2", [(8, TX), (0, RX)]), ("board0", "10.77.0.1", [(8, TX), (0, RX)])]
    {
        let path = start(&mut world, machine, machine, &[]);
        for payload in [8, 56, 1400] {
            let plan = Ping { count: 3, payload, ..Ping::default() };
            assert_eq!(world.ping(machine, peer, plan).received, 3);
        }
        let last = |frame: &Frame| icmp(frame) == Some(0) && frame.len == 14 + 20 + 8 + 1400;
        let since = Instant::now();
        wait_frame("the last reply is written", &path, last);
        let late = since.elapsed();
        assert!(late < Duration::from_millis(100), "{late:?}");
        let capture = finish(&mut world, &path);
        assert_eq!(echoes(&capture), directions.repeat(9), "{machine}");
        assert_eq!(capture.snaplen, 262_144);
        let role = if machine == "master" { "master" } else { "agent" };
        assert_eq!(capture.interface[0], "bl0");
        assert!(capture.interface[1].contains(&format!("the {role}'s end")), "{capture:?}");
        for pair in capture.frames.windows(2) {
            assert!(pair[0].time <= pair[1].time);
        }
        let lens = capture.frames.iter().filter(|it| icmp(it).is_some());
        let lens: Vec<_> = lens.map(|it| (it.octets.len(), it.len)).collect();
        let expected = [50, 98, 1442].map(|len| [(len, len); 6]).concat();
        assert_eq!(lens, expected);
        assert!(capture.frames.iter().all(|it| it.queue == 0 && it.lost == 0));
    }
    let path = start(&mut world, "master", "cut", &["--snaplen", "40", "--count", "4"]);
    let plan = Ping { count: 4, payload: 1000, ..Ping::default() };
    assert_eq!(world.ping("master", "10.77.0.2", plan).received, 4);
    assert!(world.wait_end(NAME).success());
    let capture = complete(&world, &path);
    assert_eq!((capture.frames.len(), capture.snaplen), (4, 40));
    assert!(capture.frames.iter().all(|it| it.octets.len() == it.len.min(40)));
    assert!(capture.frames.iter().any(|it| it.len == 1042));
}

pub(crate) fn every_kind_of_rings_and_path_is_seen() {
    for (keys, board) in [
        ("features_off = [\"RING_PACKED\"]", ""),
        ("features_off = [\"MRG_RXBUF\", \"INDIRECT_DESC\"]", ""),
        ("", "dma = \"engine\""),
        ("queues = 2", ""),
    ] {
        let mut world = World::running(1, |machine, _| match machine {
            "master" => keys.to_owned(),
            _ => format!("{keys}\n{board}"),
        });
        for (machine, peer) in [("master", "10.77.0.2"), ("board0", "10.77.0.1")] {
            let path = start(&mut world, machine, machine, &[]);
            let plan = Ping { count: 5, payload: 1000, ..Ping::default() };
            assert_eq!(world.ping(machine, peer, plan).received, 5);
            let capture = finish(&mut world, &path);
            assert_eq!(echoes(&capture), [(8, TX), (0, RX)].repeat(5), "{machine}: {keys} {board}");
            let whole = |it: &Frame| icmp(it).is_none() || it.octets.len() == 1042;
            assert!(capture.frames.iter().all(whole), "{machine}: {keys} {board}");
        }
    }
}

pub(crate) fn frames_of_each_queue_pair_bear_its_number() {
    let mut world = World::running(1, |_, _| "queues = 2".to_owned());
    let path = start(&mut world, "master", "queues", &["--snaplen", "100"]);
    let both = |capture: &Capture, direction| {
        let used = |queue| {
            let mut frames = capture.frames.iter();
            frames.any(|it| it.queue == queue && it.direction == direction)
        };
        used(0) && used(1)
    };
    wait("flows go by both pairs", || {
        world.transfer("master", "board0", "10.77.0.2", 4096);
        let capture = Capture::read(&path);
        check(both(&capture, TX) && both(&capture, RX), capture.frames.len())
    });
    let capture = finish(&mut world, &path);
    assert!(capture.frames.iter().all(|it| it.queue < 2));
}

pub(crate) fn a_port_that_echoes_or_discards_shows_what_comes_and_goes() {
    for port in ["echo", "discard"] {
        let mut world = World::new(1, |machine, _| match machine {
            "master" => "address = []".to_owned(),
            _ => format!("port = \"{port}\""),
        });
        for daemon in ["backplane", "master", "board0"] {
            world.start(daemon);
        }
        wait("the link is up", || check(world.is_operational("master", "bl0"), "not operational"));
        let path = start(&mut world, "board0", port, &[]);
        let sent = frame(BOARD, &[IPV4], &ipv4(OWN_V4));
        world.inside("master", || {
            Sender::on("bl0").unwrap().send(std::slice::from_ref(&sent)).unwrap()
        });
        wait_frame("it is seen", &path, |it| it.octets == sent.bytes);
        let capture = finish(&mut world, &path);
        let ours = capture.frames.iter().filter(|it| it.octets == sent.bytes);
        let ways: Vec<_> = ours.map(|it| it.direction).collect();
        assert_eq!(ways, if port == "echo" { &[RX, TX][..] } else { &[RX] }, "{port}");
    }
}

pub(crate) fn dropped_frames_are_shown_with_their_reason_and_alone_if_that_is_wanted() {
    let mut world = quiet_world();
    let good = frame(BOARD, &[IPV4], &ipv4(OWN_V4));
    let spoofed = frame([2, 0, 0, 0, 0x77, 9], &[IPV4], &ipv4(OWN_V4));
    let foreign = frame(BOARD, &[IPV4], &ipv4([192, 0, 2, 9]));
    let why = |frame: &Frame| frame.comments.join("; ");
    for only_drops in [false, true] {
        let more = if only_drops { &["--drops"][..] } else { &[] };
        let path = start(&mut world, "master", &format!("drops{only_drops}"), more);
        world.inside("board0", || {
            let frames = [good.clone(), spoofed.clone(), foreign.clone()];
            Sender::on("bl0").unwrap().send(&frames).unwrap();
        });
        wait_frame("the last is seen", &path, |it| it.octets == foreign.bytes);
        let capture = finish(&mut world, &path);
        // A kernel announces its address by RARP when it likes.
        let is_rarp = |it: &&Frame| it.octets.get(12..14) == Some(&[0x80, 0x35]);
        let came = capture.frames.iter().filter(|it| it.direction == RX);
        let ours = came.filter(|it| !is_rarp(it));
        let seen: Vec<_> = ours.map(|it| (it.octets.clone(), why(it))).collect();
        let all = [
            (good.bytes.clone(), String::new()),
            (spoofed.bytes.clone(), "dropped: foreign_mac".to_owned()),
            (foreign.bytes.clone(), "dropped: foreign_ip".to_owned()),
        ];
        assert_eq!(seen, all[usize::from(only_drops)..]);
    }
}

pub(crate) fn a_frame_that_the_other_end_spoils_is_shown_with_its_start() {
    let mut world = World::new(1, |_, _| String::new());
    world.start("backplane");
    world.start("master");
    wait("the slot is there", || check(world.slot(0).exists(), "it is not"));
    let mut board = crate::board::Board::in_slot(&world.slot(0));
    wait("the master drives the board", || {
        board.turn();
        check(board.is_up(), "it is not")
    });
    let path = start(&mut world, "master", "spoiled", &["--drops"]);
    // A flag that nobody negotiated.
    let bad = [&[0x80][..], &[0; 11], &[0xee; 60]].concat();
    wait("it is seen", || {
        board.turn();
        board.send(&bad);
        check(!Capture::read(&path).frames.is_empty(), world.log(NAME))
    });
    let capture = finish(&mut world, &path);
    let first = &capture.frames[0];
    assert_eq!((&*first.octets, first.len), (&[0xee; 60][..], 60));
    assert_eq!((first.direction, &*first.comments[0]), (RX, "dropped: bad_flags"));
}

pub(crate) fn a_tcp_stream_s_large_frames_say_what_they_are() {
    let mut world = World::running(1, |_, _| String::new());
    let path = start(&mut world, "master", "gso", &["--snaplen", "64"]);
    world.transfer("master", "board0", "10.77.0.2", 1 << 20);
    world.transfer("board0", "master", "10.77.0.1", 1 << 20);
    let capture = finish(&mut world, &path);
    for direction in [RX, TX] {
        let large = capture.frames.iter().filter(|it| it.direction == direction && it.len > 1514);
        let large: Vec<_> = large.collect();
        assert!(!large.is_empty(), "{direction}");
        for frame in large {
            assert_eq!(frame.comments, ["gso tcpv4 mss 1448, needs csum"]);
            assert_eq!(frame.octets.len(), 64);
        }
    }
}

pub(crate) fn a_reader_that_is_stopped_loses_frames_and_costs_the_link_nothing() {
    const LEN: usize = 64 << 20;
    let mut world = World::running(1, |_, _| String::new());
    let path = start(&mut world, "master", "stopped", &[]);
    world.signal(NAME, Signal::STOP);
    let memory = |world: &World| {
        let pid = world.pid("master");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let anon = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        anon.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = memory(&world);
    world.transfer("master", "board0", "10.77.0.2", LEN);
    world.transfer("board0", "master", "10.77.0.1", LEN);
    world.ping_well("master", "10.77.0.2");
    let grown = memory(&world).saturating_sub(before);
    assert!(grown < 4096, "{grown} kB");
    world.signal(NAME, Signal::CONT);
    // What comes now finds room, and tells what was lost.
    wait("frames are written again", || {
        world.ping_well("master", "10.77.0.2");
        check(Capture::read(&path).frames.iter().any(|it| it.lost > 0), "none lost")
    });
    let capture = finish(&mut world, &path);
    let lost: u64 = capture.frames.iter().map(|it| it.lost).sum();
    let [seen, dropped, written] = capture.totals.unwrap();
    assert_eq!((lost, seen), (dropped, dropped + written));
    // A pipe whose reader takes nothing: it ends all the same, and says what is missing.
    let control = control(&world, "master");
    let command = format!("{PROGRAM} capture --link bl0 --control {control} | sleep 60");
    world.start_words(NAME, "master", &["sh", "-c", &command]);
    let capturing = wait("it captures", || capturing().ok_or_else(|| world.log(NAME)));
    world.transfer("master", "board0", "10.77.0.2", LEN);
    kill_process(capturing, Signal::INT).unwrap();
    wait("it says what is missing", || {
        let said = world.log(NAME);
        check(said.contains("the reader does not take what is captured"), said)
    });
    world.kill(NAME);
}

/// The process that captures, which a shell has started.
fn capturing() -> Option<Pid> {
    let all = crate::world::Traces::of(std::process::id()).processes();
    let is = |line: &str| line.contains(" capture --link") && line.starts_with(PROGRAM);
    all.into_iter().find(|(_, line)| is(line)).map(|(pid, _)| pid)
}

pub(crate) fn a_capture_that_is_killed_is_over_and_only_a_few_are_taken_at_once() {
    let mut world = World::running(1, |_, _| String::new());
    let control = control(&world, "master");
    let path = file(&world, "x").display().to_string();
    let names = ["a", "b", "c", "d"];
    let begin = |world: &mut World| {
        for name in names {
            world.start_words(name, "master", &words(&control, &["-w", &path]));
            wait("it has begun", || check(world.log(name).contains("capturing"), ""));
        }
    };
    begin(&mut world);
    let refused = world.run("master", &words(&control, &["-w", &path]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("4 captures are under way"), "{said}");
    for name in names {
        world.kill(name);
        fs::remove_file(world.log_path(name)).unwrap();
    }
    world.ping_well("master", "10.77.0.2");
    begin(&mut world);
    for name in names {
        world.kill(name);
    }
    let maps = || fs::read_to_string(format!("/proc/{}/maps", world.pid("master"))).unwrap();
    wait("their memory is given back", || {
        check(!maps().contains("boardlane-capture"), "it is mapped still")
    });
    let unknown =
        world.run("master", &[PROGRAM, "capture", "--link", "bl7", "--control", &control]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said.contains("there is no link bl7; there are: bl0"), "{said}");
}

pub(crate) fn a_capture_whose_fifo_nobody_reads_is_ended_by_a_signal() {
    let mut world = World::running(1, |_, _| String::new());
    let (fifo, control) = (file(&world, "fifo"), control(&world, "master"));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let fifo = fifo.display().to_string();
    world.start_words(NAME, "master", &words(&control, &["-w", &fifo]));
    let opens = format!("/proc/{}/wchan", world.pid(NAME));
    wait("it waits for a reader", || {
        let place = fs::read_to_string(&opens).unwrap();
        check(place == "wait_for_partner", place)
    });
    world.signal(NAME, Signal::TERM);
    world.wait_end(NAME);
}

pub(crate) fn a_capture_outlives_restarts_of_its_link_and_ends_with_it_or_its_daemon() {
    let mut world = World::running(1, |_, _| String::new());
    let path = start(&mut world, "master", "restarts", &[]);
    let mut payload = 100;
    let mut ping = |world: &World, what: &str| {
        payload += 1;
        world.wait_ping(what, "master", "10.77.0.2");
        let plan = Ping { count: 1, payload, timeout: Duration::from_secs(5), ..Ping::default() };
        assert_eq!(world.ping("master", "10.77.0.2", plan).received, 1);
        wait_frame(what, &path, |it| icmp(it) == Some(0) && it.len == 42 + payload);
    };
    ping(&world, "before");
    world.kill("board0");
    world.start("board0");
    world.wait_up(0);
    ping(&world, "after the board was restarted");
    let control = control(&world, "master");
    let reload = |world: &World| {
        let said = world.run_well("master", &[PROGRAM, "reload", "--control", &control]);
        eprintln!("{said}");
    };
    world.configure("master", &world.link("bl0", 0, 1, "busy_poll_us = 0"));
    reload(&world);
    world.wait_up(0);
    ping(&world, "after the link began anew");
    world.configure("master", &world.link("bl1", 1, 1, ""));
    reload(&world);
    assert_eq!(world.wait_end(NAME).code(), Some(1));
    complete(&world, &path);
    let said = world.log(NAME);
    assert!(said.contains("the config has this link no more"), "{said}");
    world.configure("master", &world.link("bl0", 0, 1, ""));
    reload(&world);
    world.wait_up(0);
    for how in [Signal::TERM, Signal::KILL] {
        let path = start(&mut world, "master", "ends", &[]);
        world.ping_well("master", "10.77.0.2");
        world.signal("master", how);
        world.wait_end("master");
        assert_eq!(world.wait_end(NAME).code(), Some(1));
        assert!(!echoes(&complete(&world, &path)).is_empty());
        assert!(world.log(NAME).contains("the daemon has ended"), "{}", world.log(NAME));
        world.start("master");
        world.wait_up(0);
    }
    assert!(world.stop("board0").success());
}

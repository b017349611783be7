//! Tables of made-up daemons, letter by letter.

use super::super::tests::sample;
use super::*;

/// A link as it is once `n` has been said of it: so many frames of 1,000 bytes received, and half of it sent.
fn link(name: &str, state: LinkState, frames: u64) -> LinkStatus {
    let mut link = sample().links.remove(0);
    (link.name, link.state) = (name.into(), state);
    let all = NEEDED.iter().flat_map(|(_, names)| *names);
    link.features = all.map(|name| (*name).to_owned()).collect();
    link.pump = PumpStatus::default();
    link.counts.flaps = 2;
    let traffic = |frames| Traffic { frames, bytes: frames * 1000, ..Traffic::default() };
    let way = QueueStatus { rx: traffic(frames), tx: traffic(frames / 2), ..Default::default() };
    link.queues = vec![way];
    link
}

fn daemon(uptime_ms: u64, links: Vec<LinkStatus>) -> Status {
    Status { uptime_ms, links, metrics: None, ..sample() }
}

#[test]
fn a_crate_of_boards_is_told_in_lines_of_a_hundred_columns() {
    use LinkState::{Down, Quarantined, Up, Waiting};
    let before = daemon(
        10_000,
        vec![link("bl0", Up, 0), link("bl1", Up, 7), link("bl2", Down, 1), link("bl10", Up, 9)],
    );
    let mut now = daemon(
        12_000,
        vec![
            link("bl0", Up, 400_000),
            link("bl1", Up, 8),
            link("bl2", Down, 1),
            link("bl3", Quarantined, 12),
            link("bl10", Waiting, 0),
        ],
    );
    let [_, second, third, fourth, fifth] = &mut now.links[..] else { unreachable!() };
    second.age_ms = 2 * 3600 * 1000;
    second.queues[0].rx.drops = [("foreign_mac".into(), 1200), ("stale".into(), 3)].into();
    second.features.retain(|name| name != "GUEST_TSO6" && name != "MRG_RXBUF");
    (third.age_ms, third.counts.flaps) = (4_000, 12_345);
    third.reason = Some("board is silent: its heartbeat stands still".into());
    fourth.reason = Some("descriptor chain loops".into());
    fourth.polls = Some("no interrupt".into());
    fifth.reason = Some("waiting for board".into());
    let expected = "\
master, pid 812, version 0.1.0, runs 12s; 2 of 5 up; waiting: bl10; down: bl2; quarantined: bl3
LINK  STATE        AGE     RX/S   F/S     TX/S   F/S     RX     TX  FLAPS  DROPS             REASON
bl0   up            1m  1.6Gbit  200k  800Mbit  100k  400MB  200MB      2  0
bl1   up            2h  4.0kbit   0.5  4.0kbit   0.5  8.0kB  4.0kB      2  1.2k foreign_mac  without tso, mrg
bl2   down          4s        0     0        0     0  1.0kB      0    12k  0                 board is silent: its heartbeat stands still
bl3   quarantined   1m        -     -        -     -   12kB  6.0kB      2  0                 descriptor chain loops; polls: no interrupt
bl10  waiting       1m        -     -        -     -      0      0      2  0                 waiting for board
";
    assert_eq!(table(&[now], &[before]), expected);
}

#[test]
fn pump_and_cpus_are_remarked_on_where_they_are_not_as_usual() {
    let remark = |link: &LinkStatus| {
        let text = table(&[daemon(1, vec![link.clone()])], &[]);
        text.lines().nth(2).unwrap().rsplit("  ").next().unwrap().to_owned()
    };
    let mut link = link("bl0", LinkState::Up, 1);
    assert_eq!(remark(&link), "0", "the last word is of its drops");
    link.pump.mode = "vhost-net".into();
    assert_eq!(remark(&link), "pump: vhost-net");
    link.pump = PumpStatus { reason: Some("/dev/vhost-net: no".into()), ..PumpStatus::default() };
    assert_eq!(remark(&link), "pump: builtin, as /dev/vhost-net: no");
    link.pump = PumpStatus::default();
    link.queues[0].cpu = Some(CpuStatus { number: 9, reason: Some("no".into()) });
    assert_eq!(remark(&link), "CPU 9: no");
}

#[test]
fn counters_that_began_anew_and_daemons_that_are_others_have_no_rates() {
    let text = |before: &Status, now: &Status| {
        let text = table(std::slice::from_ref(now), std::slice::from_ref(before));
        text.lines().nth(2).unwrap().split_whitespace().nth(3).unwrap().to_owned()
    };
    let at = |uptime, frames| daemon(uptime, vec![link("bl0", LinkState::Up, frames)]);
    assert_eq!(text(&at(1000, 1), &at(2000, 2)), "8.0kbit");
    assert_eq!(text(&at(1000, 2), &at(2000, 1)), "-");
    assert_eq!(text(&at(1000, 1), &at(1000, 2)), "-", "no time has passed");
    assert_eq!(text(&Status { pid: 1, ..at(1000, 1) }, &at(2000, 2)), "-");
}

#[test]
fn a_summary_names_some_of_many_links() {
    let links = (0..64).map(|n| {
        let state = if n < 12 { LinkState::Waiting } else { LinkState::Up };
        link(&format!("bl{n}"), state, 0)
    });
    let text = summary(&daemon(3_600_000, links.collect()));
    let expected = "master, pid 812, version 0.1.0, runs 1h; 52 of 64 up; waiting: bl0, bl1, bl2, \
        bl3, bl4, bl5, bl6, bl7 and 4 more";
    assert_eq!(text, expected);
}

#[test]
fn what_does_not_fit_a_screen_is_cut_and_counted() {
    let text = "äöüxyz\nabc\nd\n";
    assert_eq!(fit(text, 6, 3), "äöüxyz\nabc\nd");
    assert_eq!(fit(text, 4, 3), "äöü…\nabc\nd");
    assert_eq!(fit(text, 6, 2), "äöüxyz\n… 2 more lines");
    assert_eq!(fit(text, 0, 1), "… 3 more lines");
}

#[test]
fn a_daemon_cannot_write_to_the_terminal() {
    let mut status = sample();
    status.links[1].reason = Some("\x1b[2J\n".into());
    status.links[0].name = "\x1b[31m".into();
    status.links[0].queues[0].rx.drops = [("\x1b[0m".into(), 1)].into();
    status.version = "\u{9b}31m".into();
    let error = "\x1b[2J".to_owned();
    status.metrics = Some(MetricsStatus { address: "unix:/x".into(), error: Some(error) });
    let text = table(&[status], &[]);
    assert!(text.contains("\nmetrics unix:/x: "), "{text}");
    assert!(!text.contains(['\x1b', '\u{9b}']), "{text:?}");
}

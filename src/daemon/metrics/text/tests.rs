use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::daemon::counts::{DaemonCounts, LinkCounts};
use crate::daemon::status::{DmaStatus, Filled, FilledStatus, PumpStatus};

/// A link whose numbers are all different.
fn link(name: &str) -> LinkStatus {
    let traffic = |n: u64, reason: &str| Traffic {
        frames: n,
        bytes: 100 * n,
        drops: [(reason.to_owned(), n + 1)].into(),
    };
    let mut counts = LinkCounts {
        flaps: 31,
        negotiation_failures: 32,
        quarantines: 33,
        heals: 34,
        heal_failures: 35,
        ..LinkCounts::default()
    };
    for us in [15, 30, 40, 2_000_000] {
        counts.round_trips.add(Duration::from_micros(us));
    }
    LinkStatus {
        name: name.into(),
        transport: "shm:/a \"b\"\\c\nd".into(),
        slot: None,
        state: LinkState::Up,
        age_ms: 0,
        reason: None,
        carrier: true,
        epoch: None,
        peer_epoch: None,
        peer_version: None,
        mac: None,
        mtu: Some(1500),
        features: vec![],
        queues: vec![QueueStatus {
            rx: traffic(10, "too_long"),
            tx: traffic(20, "stale"),
            notifications_sent: 1,
            notifications_received: 2,
            rescues: 3,
            throttled: 4,
            copied: 5,
            cpu: None,
            wakeups: 6,
            filled: FilledStatus {
                rx: Filled { out: 7, size: 8 },
                tx: Filled { out: 9, size: 64 },
            },
        }],
        dma: DmaStatus {
            mode: "engine".into(),
            transfers: 41,
            bytes: 42,
            under_way: 43,
            most_under_way: 44,
        },
        pump: PumpStatus::default(),
        polls: None,
        counts,
    }
}

fn status(links: Vec<LinkStatus>) -> Status {
    Status {
        role: "master".into(),
        pid: 7,
        uptime_ms: 0,
        version: "1.2.3".into(),
        links,
        metrics: None,
        counts: DaemonCounts {
            started_unix_ms: 1_790_000_000_250,
            reloads: 51,
            reload_failures: 52,
            log_lines_left_out: 53,
        },
    }
}

/// The samples by name and labels; each metric has its lines in one place, below its help and type.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut seen, mut current) = (BTreeMap::new(), BTreeSet::new(), String::new());
    let mut lines = text.lines();
    assert!(text.ends_with('\n'));
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(current.clone()), "{current} comes twice");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {current} ")).unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{kind}");
            assert_eq!(kind == "counter", current.ends_with("_total"), "{current}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(series.starts_with(&current), "{series} stands below {current}");
        let again = samples.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(again, None, "{series} comes twice");
    }
    samples
}

#[test]
fn each_number_of_status_stands_where_it_belongs() {
    let text = of(&status(vec![link("bl0"), link("bl1")]));
    let samples = samples(&text);
    for (series, value) in [
        ("boardlane_build_info{version=\"1.2.3\",role=\"master\"}", 1.0),
        ("process_start_time_seconds", 1_790_000_000.25),
        ("boardlane_reloads_total", 51.0),
        ("boardlane_reload_failures_total", 52.0),
        ("boardlane_log_lines_left_out_total", 53.0),
        ("boardlane_link_carrier{link=\"bl1\"}", 1.0),
        ("boardlane_link_mtu_bytes{link=\"bl1\"}", 1500.0),
        ("boardlane_link_flaps_total{link=\"bl0\"}", 31.0),
        ("boardlane_link_negotiation_failures_total{link=\"bl0\"}", 32.0),
        ("boardlane_link_quarantines_total{link=\"bl0\"}", 33.0),
        ("boardlane_netdev_heals_total{link=\"bl0\"}", 34.0),
        ("boardlane_netdev_heal_failures_total{link=\"bl0\"}", 35.0),
        ("boardlane_frames_total{link=\"bl1\",queue=\"0\",direction=\"rx\"}", 10.0),
        ("boardlane_bytes_total{link=\"bl1\",queue=\"0\",direction=\"tx\"}", 2000.0),
        (
            "boardlane_dropped_frames_total{link=\"bl0\",queue=\"0\",direction=\"tx\",reason=\"stale\"}",
            21.0,
        ),
        ("boardlane_queue_filled_descriptors{link=\"bl0\",queue=\"0\",direction=\"rx\"}", 7.0),
        ("boardlane_queue_size_descriptors{link=\"bl0\",queue=\"0\",direction=\"tx\"}", 64.0),
        ("boardlane_notifications_sent_total{link=\"bl0\",queue=\"0\"}", 1.0),
        ("boardlane_notifications_received_total{link=\"bl0\",queue=\"0\"}", 2.0),
        ("boardlane_rescues_total{link=\"bl0\",queue=\"0\"}", 3.0),
        ("boardlane_throttled_total{link=\"bl0\",queue=\"0\"}", 4.0),
        ("boardlane_copied_bytes_total{link=\"bl0\",queue=\"0\"}", 5.0),
        ("boardlane_wakeups_total{link=\"bl0\",queue=\"0\"}", 6.0),
        ("boardlane_dma_transfers_total{link=\"bl0\"}", 41.0),
        ("boardlane_dma_bytes_total{link=\"bl0\"}", 42.0),
        ("boardlane_dma_transfers_under_way{link=\"bl0\"}", 43.0),
        ("boardlane_keepalive_round_trip_seconds_bucket{link=\"bl0\",le=\"0.00002\"}", 1.0),
        ("boardlane_keepalive_round_trip_seconds_bucket{link=\"bl0\",le=\"0.00005\"}", 3.0),
        ("boardlane_keepalive_round_trip_seconds_bucket{link=\"bl0\",le=\"1\"}", 3.0),
        ("boardlane_keepalive_round_trip_seconds_bucket{link=\"bl0\",le=\"+Inf\"}", 4.0),
        ("boardlane_keepalive_round_trip_seconds_sum{link=\"bl0\"}", 2.000_085),
        ("boardlane_keepalive_round_trip_seconds_count{link=\"bl0\"}", 4.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
}

#[test]
fn every_reason_and_every_state_is_there_from_the_start() {
    let samples = samples(&of(&status(vec![link("bl0")])));
    let of = |name: &str, label: &str| {
        let series = samples.iter().filter(|(series, _)| series.starts_with(name));
        series.filter(|(series, _)| series.contains(label)).map(|(_, n)| *n).collect::<Vec<_>>()
    };
    assert_eq!(of("boardlane_dropped_frames_total", "").len(), 2 * Drop::ALL.len());
    assert_eq!(of("boardlane_dropped_frames_total", "reason=\"filtered\""), [0.0, 0.0]);
    assert_eq!(of("boardlane_link_state", "").iter().sum::<f64>(), 1.0);
    assert_eq!(of("boardlane_link_state", "").len(), STATES.len());
    assert_eq!(of("boardlane_link_state", "state=\"up\""), [1.0]);
}

#[test]
fn a_label_cannot_end_before_its_quote() {
    let text = of(&status(vec![link("bl0")]));
    let line = text.lines().find(|line| line.starts_with("boardlane_link_info")).unwrap();
    assert!(line.contains(r#",transport="shm:/a \"b\"\\c\nd",dma="#), "{line}");
}

#[test]
fn who_does_not_ask_has_no_round_trips() {
    let mut agent = status(vec![link("bl0")]);
    agent.role = "agent".into();
    assert!(!of(&agent).contains("round_trip"));
    let mut master = status(vec![link("bl0")]);
    master.links[0].transport = "vhost-user:/a?client".into();
    assert!(!of(&master).contains("round_trip"));
}

#[test]
fn a_page_has_room_from_the_start() {
    let page = of(&status((0..64).map(|n| link(&format!("a-long-name-{n:03}"))).collect()));
    assert!(page.len() < 64 * LINK_LEN, "{} bytes", page.len());
}

#[test]
fn the_readme_has_every_metric() {
    let readme = include_str!("../../../../README.md");
    let page = of(&status(vec![link("bl0")]));
    for help in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let name = help.split(' ').next().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

//! The text that Prometheus reads, exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), of what `status` tells.
//!
//! Written here: the crate `prometheus-client` keeps counters of its own, which workers would have to add to
//! frame by frame with locked instructions, and brings nine crates, for what is a line's format and the
//! escaping of three characters. Two parsers of another make judge what comes out (`netns-tests`).
//!
//! Names and units are as <https://prometheus.io/docs/practices/naming/> has them. Every series of a link is
//! there from its start, with 0 where nothing has happened; labels have values of the config's and of closed
//! lists, and one the other end's version, so what a peer does makes no new ones.

use std::fmt::{Display, Write};

use crate::daemon::counts::RoundTrips;
use crate::daemon::status::{LinkState, LinkStatus, QueueStatus, Status, Traffic};
use crate::net::frame::Drop;

/// Bytes of a link's part, so that the text is made in one piece.
const LINK_LEN: usize = 12 << 10;

const STATES: [LinkState; 5] = [
    LinkState::Waiting,
    LinkState::Negotiating,
    LinkState::Up,
    LinkState::Down,
    LinkState::Quarantined,
];

type Labels<'a> = [(&'a str, &'a str)];
/// A counter's name, what it counts, and where it is found.
type Counter<T> = (&'static str, &'static str, fn(&T) -> u64);

/// The page.
pub(super) fn of(status: &Status) -> String {
    let mut page = Page(String::with_capacity(4096 + LINK_LEN * status.links.len()));
    page.daemon(status);
    page.links(&status.links);
    page.events(&status.links);
    page.frames(&status.links);
    page.queues(&status.links);
    page.engines(&status.links);
    page.round_trips(status.role == "master", &status.links);
    page.0
}

struct Page(String);

impl Page {
    /// Begins a metric; its samples follow.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            escape(text, &mut self.0);
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A counter that the daemon has one of.
    fn count(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A metric of which each link has one.
    fn of_link(
        &mut self,
        links: &[LinkStatus],
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&LinkStatus) -> u64,
    ) {
        self.metric(name, kind, help);
        for link in links {
            self.sample(name, &[("link", &link.name)], value(link));
        }
    }

    /// A metric of which each queue pair has one.
    fn of_queue(
        &mut self,
        links: &[LinkStatus],
        (name, help): (&str, &str),
        value: impl Fn(&QueueStatus) -> u64,
    ) {
        self.metric(name, "counter", help);
        for (link, number, queue) in queues(links) {
            self.sample(name, &[("link", link), ("queue", &number)], value(queue));
        }
    }

    /// A metric of which each direction of a queue pair has one.
    fn of_way(
        &mut self,
        links: &[LinkStatus],
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&QueueStatus) -> [u64; 2],
    ) {
        self.metric(name, kind, help);
        for (link, number, queue) in queues(links) {
            for (way, value) in ["rx", "tx"].into_iter().zip(value(queue)) {
                let labels = [("link", link), ("queue", &*number), ("direction", way)];
                self.sample(name, &labels, value);
            }
        }
    }

    fn daemon(&mut self, status: &Status) {
        let Status { role, version, counts, .. } = status;
        let name = "boardlane_build_info";
        self.metric(name, "gauge", "1, labelled by what runs.");
        self.sample(name, &[("version", version), ("role", role)], 1);
        let name = "process_start_time_seconds";
        self.metric(name, "gauge", "When the daemon started, in seconds since 1970.");
        self.sample(name, &[], seconds(counts.started_unix_ms, 1000));
        self.count(
            "boardlane_reloads_total",
            "Configs that were read again and gone by.",
            counts.reloads,
        );
        self.count(
            "boardlane_reload_failures_total",
            "Configs that were read again and changed nothing, as something was wrong.",
            counts.reload_failures,
        );
        self.count(
            "boardlane_log_lines_left_out_total",
            "Lines that were left out of the log, as there were too many.",
            counts.log_lines_left_out,
        );
    }

    fn links(&mut self, links: &[LinkStatus]) {
        let name = "boardlane_link_info";
        self.metric(name, "gauge", "1, labelled by what the link is.");
        for link in links {
            let labels = [
                ("link", &*link.name),
                ("transport", &link.transport),
                ("dma", &link.dma.mode),
                ("pump", &link.pump.mode),
                ("peer_version", link.peer_version.as_deref().unwrap_or_default()),
            ];
            self.sample(name, &labels, 1);
        }
        let name = "boardlane_link_state";
        self.metric(name, "gauge", "1 for the state that the link is in, 0 for the others.");
        for link in links {
            for state in STATES {
                let labels = [("link", &*link.name), ("state", state.name())];
                self.sample(name, &labels, u8::from(link.state == state));
            }
        }
        let what = ("boardlane_link_carrier", "gauge", "Whether the netdev has a carrier.");
        self.of_link(links, what, |link| link.carrier.into());
        let name = "boardlane_link_mtu_bytes";
        self.metric(name, "gauge", "The netdev's MTU; not there without a netdev.");
        for link in links {
            link.mtu.into_iter().for_each(|mtu| self.sample(name, &[("link", &link.name)], mtu));
        }
    }

    fn events(&mut self, links: &[LinkStatus]) {
        let all: [Counter<LinkStatus>; 5] = [
            (
                "boardlane_link_flaps_total",
                "Times that the link was up and then was not.",
                |link| link.counts.flaps,
            ),
            (
                "boardlane_link_negotiation_failures_total",
                "Times that the ends began to agree on features and queues and did not get there.",
                |link| link.counts.negotiation_failures,
            ),
            (
                "boardlane_link_quarantines_total",
                "Times that the other end broke a rule and was kept away for it.",
                |link| link.counts.quarantines,
            ),
            (
                "boardlane_netdev_heals_total",
                "What was set again on the netdev, as somebody had changed it.",
                |link| link.counts.heals,
            ),
            (
                "boardlane_netdev_heal_failures_total",
                "What could not be set again on the netdev.",
                |link| link.counts.heal_failures,
            ),
        ];
        for (name, help, value) in all {
            self.of_link(links, (name, "counter", help), value);
        }
    }

    fn frames(&mut self, links: &[LinkStatus]) {
        let both = |queue: &QueueStatus, of: fn(&Traffic) -> u64| [of(&queue.rx), of(&queue.tx)];
        let help = "Frames that the netdev received (rx) and sent (tx).";
        self.of_way(links, ("boardlane_frames_total", "counter", help), |queue| {
            both(queue, |traffic| traffic.frames)
        });
        let help = "Bytes of these frames, from the Ethernet header on.";
        self.of_way(links, ("boardlane_bytes_total", "counter", help), |queue| {
            both(queue, |traffic| traffic.bytes)
        });
        let name = "boardlane_dropped_frames_total";
        self.metric(name, "counter", "Frames that were dropped, by reason.");
        for (link, number, queue) in queues(links) {
            for (way, traffic) in [("rx", &queue.rx), ("tx", &queue.tx)] {
                for reason in Drop::ALL.map(Drop::name) {
                    let labels = [
                        ("link", link),
                        ("queue", &*number),
                        ("direction", way),
                        ("reason", reason),
                    ];
                    self.sample(name, &labels, traffic.drops.get(reason).unwrap_or(&0));
                }
            }
        }
    }

    fn queues(&mut self, links: &[LinkStatus]) {
        let help = "Descriptors that are available to the device and not used, as far as this end \
                    has seen.";
        self.of_way(links, ("boardlane_queue_filled_descriptors", "gauge", help), |queue| {
            [queue.filled.rx.out, queue.filled.tx.out]
        });
        let help = "Descriptors of the queue; 0 while no thread of this program serves it.";
        self.of_way(links, ("boardlane_queue_size_descriptors", "gauge", help), |queue| {
            [queue.filled.rx.size, queue.filled.tx.size]
        });
        let all: [Counter<QueueStatus>; 6] = [
            ("boardlane_notifications_sent_total", "Notifications to the other end.", |queue| {
                queue.notifications_sent
            }),
            (
                "boardlane_notifications_received_total",
                "Notifications from the other end.",
                |queue| queue.notifications_received,
            ),
            (
                "boardlane_wakeups_total",
                "Sleeps of the thread that serves the queue pair that have ended.",
                |queue| queue.wakeups,
            ),
            (
                "boardlane_rescues_total",
                "Times that work was found without a notification.",
                |queue| queue.rescues,
            ),
            (
                "boardlane_throttled_total",
                "Times that the other end had sent as much as its rate allows.",
                |queue| queue.throttled,
            ),
            (
                "boardlane_copied_bytes_total",
                "Bytes of frames that this program's own code copied.",
                |queue| queue.copied,
            ),
        ];
        for (name, help, value) in all {
            self.of_queue(links, (name, help), value);
        }
    }

    fn engines(&mut self, links: &[LinkStatus]) {
        let help = "Copies made by the DMA engine.";
        let what = ("boardlane_dma_transfers_total", "counter", help);
        self.of_link(links, what, |link| link.dma.transfers);
        let what = ("boardlane_dma_bytes_total", "counter", "Bytes copied by the DMA engine.");
        self.of_link(links, what, |link| link.dma.bytes);
        let help = "Copies that the DMA engine has under way.";
        let what = ("boardlane_dma_transfers_under_way", "gauge", help);
        self.of_link(links, what, |link| link.dma.under_way);
    }

    /// Of links at which this end asks.
    fn round_trips(&mut self, is_master: bool, links: &[LinkStatus]) {
        let name = "boardlane_keepalive_round_trip_seconds";
        let help = "How long the answers to keepalives took; the master asks about once a second.";
        let asks = |link: &&LinkStatus| is_master && !link.transport.starts_with("vhost-user:");
        let links: Vec<_> = links.iter().filter(asks).collect();
        if links.is_empty() {
            return;
        }
        self.metric(name, "histogram", help);
        for link in links {
            let RoundTrips { within, count, sum_ns } = &link.counts.round_trips;
            let mut so_far = 0;
            let bucket = format!("{name}_bucket");
            for (bound, n) in RoundTrips::BOUNDS_US.into_iter().zip(within) {
                so_far += n;
                let bound = seconds(bound.into(), 1_000_000).to_string();
                self.sample(&bucket, &[("link", &*link.name), ("le", &bound)], so_far);
            }
            self.sample(&bucket, &[("link", &*link.name), ("le", "+Inf")], count);
            let sum = seconds(*sum_ns, 1_000_000_000);
            self.sample(&format!("{name}_sum"), &[("link", &*link.name)], sum);
            self.sample(&format!("{name}_count"), &[("link", &*link.name)], count);
        }
    }
}

/// The queue pairs of all links: the link's name, the pair's number, the pair.
fn queues(links: &[LinkStatus]) -> impl Iterator<Item = (&str, String, &QueueStatus)> {
    links.iter().flat_map(|link| {
        let numbered = link.queues.iter().enumerate();
        numbered.map(|(number, queue)| (&*link.name, number.to_string(), queue))
    })
}

fn seconds(n: u64, in_a_second: u64) -> f64 {
    n as f64 / in_a_second as f64
}

/// A label's value: backslash, quote and line feed are the format's own.
fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '"' => to.push_str("\\\""),
            '\n' => to.push_str("\\n"),
            c => to.push(c),
        }
    }
}

#[cfg(test)]
mod tests;

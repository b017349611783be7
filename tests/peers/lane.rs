//! A boardlane daemon whose other end is a peer of another make.

use std::path::PathBuf;

use boardlane::daemon::status::{LinkState, LinkStatus, QueueStatus, Traffic};
use boardlane::net::features::Features;
use boardlane::spec::net;

use crate::testpmd::Testpmd;
use crate::world::{World, check, wait};

/// The netdev of the link.
pub(crate) const NETDEV: &str = "bl0";
/// Features that a front-end plays itself before its driver.
pub(crate) const FRONT_ENDS: Features = Features::of(&[
    net::F_MAC,
    net::F_STATUS,
    net::F_CTRL_VQ,
    net::F_CTRL_RX,
    net::F_CTRL_VLAN,
    net::F_CTRL_MAC_ADDR,
    net::F_CTRL_GUEST_OFFLOADS,
    net::F_GUEST_ANNOUNCE,
    net::F_MQ,
    PROTOCOL_FEATURES,
]);
/// VHOST_USER_F_PROTOCOL_FEATURES, which no driver sees.
const PROTOCOL_FEATURES: u8 = 30;

/// Which end boardlane is, and so the machine that it runs on: the peer runs on the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A device, which is a back-end: it listens.
    Agent,
    /// A driver, which is a front-end: it connects.
    Master,
}

/// One daemon with one link.
pub(crate) struct Lane {
    pub(crate) world: World,
    role: Role,
    /// Its counters before the peer of now was there.
    mark: Counts,
}

impl Lane {
    /// Starts the daemon; `keys` are further lines of its link.
    pub(crate) fn start(role: Role, keys: &str) -> Self {
        Self::start_by(role, keys, &[])
    }

    /// As [`Lane::start`], by way of another program, which execs it.
    pub(crate) fn start_by(role: Role, keys: &str, by: &[&str]) -> Self {
        let mut world = World::new(0, |_, _| String::new());
        world.add_machine("board0");
        let mut lane = Self { world, role, mark: Counts::default() };
        let (daemon, socket) = (lane.daemon(), lane.socket());
        let usual = "address = [\"10.77.0.2/30\", \"fd77::2/64\"]\n";
        let usual = if keys.contains("port =") { "" } else { usual };
        let socket = socket.display();
        let transport = format!("transport = \"vhost-user:{socket}\"");
        let link = format!("[[link]]\nname = \"{NETDEV}\"\n{transport}\n{usual}{keys}\n");
        lane.world.configure(daemon, &link);
        lane.world.start_as(daemon, by);
        wait("the daemon answers, and an agent listens", || {
            lane.world.link_status(daemon, NETDEV)?;
            check(role == Role::Master || lane.socket().exists(), "no socket")
        });
        lane
    }

    /// The daemon's name, which is its machine's, too.
    pub(crate) fn daemon(&self) -> &'static str {
        if self.role == Role::Agent { "board0" } else { "master" }
    }

    /// The machine that the peer runs on.
    pub(crate) fn peers(&self) -> &'static str {
        if self.role == Role::Agent { "master" } else { "board0" }
    }

    /// Where both meet.
    pub(crate) fn socket(&self) -> PathBuf {
        self.world.directory("board0").join("vhost.sock")
    }

    /// What the daemon says of the link.
    pub(crate) fn status(&self) -> LinkStatus {
        self.world.link_status(self.daemon(), NETDEV).unwrap()
    }

    /// Waits until the link is up, with this many queue pairs.
    pub(crate) fn wait_up(&self, queues: usize) -> LinkStatus {
        wait(&format!("the link is up with {queues} queue pairs"), || {
            let link = self.world.link_status(self.daemon(), NETDEV)?;
            check(link.state == LinkState::Up && link.queues.len() == queues, &link)?;
            Ok(link)
        })
    }

    /// Waits until the link is not up.
    pub(crate) fn wait_not_up(&self) {
        wait("the link is not up any more", || {
            let link = self.world.link_status(self.daemon(), NETDEV)?;
            check(link.state != LinkState::Up, &link)
        });
    }

    /// What the daemon counts of the link, all queues together.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.status().queues)
    }

    /// The next peer is about to start.
    pub(crate) fn mark(&mut self) {
        self.mark = self.counts();
    }

    /// Frames that the daemon has received and sent since the mark; received ones that it dropped are
    /// among them.
    fn since_mark(&self) -> [u64; 2] {
        let (now, mark) = (self.counts(), &self.mark);
        [seen(&now.rx) - seen(&mark.rx), now.tx.frames - mark.tx.frames]
    }

    /// Waits until the daemon has received this many frames since the mark.
    pub(crate) fn wait_received(&self, frames: u64) {
        wait(&format!("boardlane has received {frames} frames"), || {
            let now = self.since_mark();
            check(now[0] == frames, now)
        });
    }

    /// Waits until the daemon and a testpmd that was started after the mark have counted the same.
    pub(crate) fn counts_as(&self, testpmd: &mut Testpmd) {
        wait("both ends count the same frames", || {
            let (ours, peers) = (self.since_mark(), testpmd.stats(0));
            check(ours == [peers.tx_packets, peers.rx_packets], (ours, peers))
        });
    }

    /// Echoes of both kinds of frames, short and full, come back to the daemon's netdev.
    pub(crate) fn pings(&self, address: &str) {
        let machine = self.daemon();
        wait("the netdev is up", || check(self.world.is_operational(machine, NETDEV), "it is not"));
        for size in ["56", "1472"] {
            // With a deadline it waits for five, however long each takes.
            let words = ["ping", "-c", "5", "-i", "0.02", "-w", "8", "-q", "-s", size, address];
            self.world.run_well(machine, &words);
        }
    }

    /// The features of the link must be those that the peer has negotiated.
    pub(crate) fn agrees_on(&self, peers: Features) {
        let names = self.status().features;
        let ours = Features::from_names(names.iter().map(String::as_str)).unwrap();
        eprintln!("boardlane: negotiated {ours}");
        assert_eq!(ours.minus(FRONT_ENDS), peers.minus(FRONT_ENDS));
    }

    /// The daemon lives, answers, has logged no error, and has dropped nothing for another reason than
    /// these.
    pub(crate) fn is_well(&self, but_for: &[&str]) {
        let link = self.status();
        let log = self.world.log(self.daemon());
        let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.is_empty(), "{}", errors.join("\n"));
        let counts = Counts::of(&link.queues);
        for (way, traffic) in [("rx", &counts.rx), ("tx", &counts.tx)] {
            let mut other = traffic.drops.clone();
            other.retain(|reason, count| *count > 0 && !but_for.contains(&reason.as_str()));
            assert!(other.is_empty(), "{way}: {other:?}");
            assert!(traffic.bytes >= traffic.frames * 14, "{way}: {traffic:?}");
        }
        eprintln!("boardlane: {:?}, {counts:?}", link.state);
    }
}

/// Frames each way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rx: Traffic,
    pub(crate) tx: Traffic,
}

impl Counts {
    fn of(queues: &[QueueStatus]) -> Self {
        let mut counts = Self::default();
        for queue in queues {
            add(&mut counts.rx, &queue.rx);
            add(&mut counts.tx, &queue.tx);
        }
        counts
    }
}

fn add(sum: &mut Traffic, more: &Traffic) {
    sum.frames += more.frames;
    sum.bytes += more.bytes;
    for (reason, count) in &more.drops {
        *sum.drops.entry(reason.clone()).or_default() += count;
    }
}

/// Frames that came, delivered or not.
fn seen(traffic: &Traffic) -> u64 {
    traffic.frames + traffic.drops.values().sum::<u64>()
}

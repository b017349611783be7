//! A link's two workers over memory that system calls do not copy to or from, between two netdevs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use boardlane::daemon::capture::Eye;
use boardlane::daemon::worker::{Job, Limits, Port, QueueStats, Worker};
use boardlane::memory::{BusMemory, Kind, Mapping, Region, Side};
use boardlane::net::device_path::DevicePath;
use boardlane::net::driver_path::DriverPath;
use boardlane::net::features::Features;
use boardlane::net::path::Path;
use boardlane::net::placement::place;
use boardlane::os::dma::EngineModel;
use boardlane::os::tap::Tap;
use boardlane::spec::net::{F_MRG_RXBUF, HEADER_LEN};
use boardlane::spec::virtio::F_EVENT_IDX;

use super::bell;
use super::kernel::{ETHERTYPE, Packets, eventually, is_running, set_up};

const MIB: u64 = 1 << 20;

struct End {
    packets: Packets,
    stats: Arc<QueueStats>,
    _worker: Worker,
}

/// Both ends' memory, as one that maps a window of this kind sees it.
fn memory(kind: Kind) -> Arc<BusMemory> {
    let bytes = Arc::new(Mapping::anonymous(8 << 20, kind));
    let window = Region::mapped(0, 2 * MIB, Side::Near, bytes.clone(), 0);
    let driver = Region::mapped(2 * MIB, 6 * MIB, Side::Far, bytes, 2 << 20);
    Arc::new(BusMemory::new(vec![window, driver]).unwrap())
}

/// The master's worker and the board's, which ring each other, or poll.
fn ends(kind: Kind, polls: bool) -> [End; 2] {
    let mem = memory(kind);
    let features = Features::of(&[F_MRG_RXBUF, F_EVENT_IDX]);
    let placed = place(0..2 * MIB, 2 * MIB..8 * MIB, [256, 256], features).unwrap();
    let (rx, tx) = (&placed.receiveq, &placed.transmitq);
    let driver = DriverPath::new(&mem, features, rx, tx, &placed.buffers).unwrap();
    let device = DevicePath::new(&mem, features, rx, tx).unwrap();
    let paths: [(&str, Box<dyn Path>); 2] =
        [("bl-master", Box::new(driver)), ("bl-board", Box::new(device.with_own_driver(true)))];
    let bells = [bell(), bell()];
    let mut number = 0;
    paths.map(|(name, path)| {
        let tap = Tap::create(name, false).unwrap();
        tap.set_carrier(true).unwrap();
        let index = tap.index();
        let (own, other) = (bells[number].clone(), bells[1 - number].clone());
        number += 1;
        let stats = Arc::<QueueStats>::default();
        let job = Job {
            path,
            mem: mem.clone(),
            engine_mem: mem.clone(),
            port: Port::Tap(Arc::new(tap)),
            doorbells: if polls { vec![] } else { vec![own] },
            peers: [(); 2].map(|()| (!polls).then(|| other.clone().into())),
            stats: stats.clone(),
            heartbeat: Duration::from_millis(250),
            busy_poll: Duration::ZERO,
            engine: EngineModel::default(),
            settings: None,
            limits: Limits::default(),
            eye: Eye::default(),
            cpu: None,
        };
        let worker = Worker::start(name, job, |why, _| panic!("{why}")).unwrap();
        set_up(name, true);
        eventually("it runs", || is_running(name));
        End { packets: Packets::on(index), stats, _worker: worker }
    })
}

pub(crate) fn frames_bounce_where_system_calls_do_not_copy() {
    for (kind, polls) in
        [(Kind::Uncached, false), (Kind::Uncached, true), (Kind::WriteCombined, false)]
    {
        let ends = ends(kind, polls);
        let lens = (60..80).chain([268, 269, 1513, 1514]);
        for (number, len) in lens.clone().enumerate() {
            let mut frame = vec![2; 12];
            frame.extend(ETHERTYPE.to_be_bytes());
            frame.extend((frame.len()..len).map(|i| u8::try_from((i + number) % 251).unwrap()));
            for [from, to] in [[0, 1], [1, 0]] {
                ends[from].packets.send(&frame);
                assert_eq!(ends[to].packets.receive(), frame, "{kind:?} {len} from {from}");
            }
        }
        let least: usize = lens.map(|len| 2 * (HEADER_LEN + len)).sum();
        for end in &ends {
            let copied = || end.stats.copied.load(Ordering::Relaxed);
            eventually("all bytes have bounced", || copied() >= least as u64);
            let sent = end.stats.notifications_sent.load(Ordering::Relaxed);
            assert_eq!(sent == 0, polls, "{kind:?}: {sent} rings");
        }
    }
}

//! What the kernel's TAP does for us, on the running kernel: each case in a namespace of its own.
//!
//! It needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN, and /dev/net/tun. Without them the cases are
//! ignored, with the reason; where `CI=true` says that they must run, they fail.

#![allow(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and its numbers are its own"
)]

#[path = "tap/kernel.rs"]
mod kernel;

use std::env;
use std::process::{self, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use boardlane::memory::{Kind, Mapping};
use boardlane::os::netns::Namespace;
use boardlane::os::poll::{Events, Interest, Poll, Trigger};
use boardlane::os::tap::{
    Existing, IoSpan, IoSpanMut, LostTap, Offload, Tap, TapError, TunFlags, Write,
};
use boardlane::spec::net::{GSO_TCPV4, HEADER_LEN};
use kernel::{Packets, TIME_FOR_A_STATE, eventually};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::io::Errno;

/// A namespace for one case, which goes with it.
struct Scratch {
    name: String,
    namespace: Namespace,
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bl-tap-test-{}-{count}", process::id());
        Ok(Self { namespace: Namespace::create(&name)?, name })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = Namespace::remove(&self.name) {
            eprintln!("{error}");
        }
    }
}

/// What keeps these cases from running here, if it is a privilege or the driver.
fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let probe = || {
        let scratch = match Scratch::new() {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Some(e.to_string());
            }
            scratch => scratch.ok()?,
        };
        match scratch.namespace.run(|| Tap::create("probe", false)).ok()? {
            Err(
                e
                @ (TapError::NoTun { .. } | TapError::Closed { .. } | TapError::Permission { .. }),
            ) => Some(e.to_string()),
            _ => None,
        }
    };
    MISSING.get_or_init(probe).as_deref()
}

fn case(name: &str, run: fn(&Scratch)) -> Trial {
    Trial::ignorable_test(name, move || match missing() {
        Some(reason) if env::var_os("CI").is_some_and(|v| v == "true") => {
            Err(Failed::from(format!("cannot run: {reason}")))
        }
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            run(&Scratch::new()?);
            Ok(Completion::Completed)
        }
    })
}

/// As [`case`], run inside the namespace.
macro_rules! inside {
    ($name:ident) => {
        case(stringify!($name), |scratch| scratch.namespace.run($name).unwrap())
    };
}

fn main() {
    let cases = vec![
        inside!(a_new_tap_has_no_carrier_until_it_is_given_one),
        inside!(a_frame_of_the_kernel_comes_out_behind_a_virtio_net_header),
        inside!(a_frame_written_from_shared_memory_reaches_the_kernel),
        inside!(a_read_without_room_is_cut_and_says_what_it_got),
        inside!(a_bad_frame_is_told_apart_and_the_next_one_goes),
        inside!(a_netdev_that_is_down_is_told_apart_and_heals),
        inside!(a_deleted_netdev_is_told_apart_and_polls_as_failed),
        inside!(a_name_in_use_is_refused_and_says_by_whom),
        inside!(a_persistent_tap_is_adopted_with_carrier_and_offloads_off),
        inside!(a_temporary_tap_goes_with_its_descriptor),
        inside!(a_tap_that_is_held_is_not_adopted),
        inside!(another_user_cannot_attach_to_a_tap),
        inside!(a_tap_of_somebody_else_is_not_adopted_and_not_touched),
        inside!(a_tap_with_another_alias_is_not_adopted),
        inside!(offloads_show_in_ethtool_and_can_be_taken_back),
        inside!(memory_that_went_away_is_an_error_and_no_signal),
        case("a_tap_works_on_in_another_namespace", a_tap_works_on_in_another_namespace),
        case("a_process_inherits_the_namespace", a_process_inherits_the_namespace),
        case("a_name_is_made_once_and_removed_for_all", a_name_is_made_once_and_removed_for_all),
    ];
    libtest_mimic::run(&Arguments::from_args(), cases).exit();
}

/// An Ethernet frame that nothing else sends (ethertype: local experimental).
fn frame(fill: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&kernel::ETHERTYPE.to_be_bytes());
    frame
}

fn running_tap(name: &str) -> Tap {
    let tap = Tap::create(name, false).unwrap();
    kernel::set_up(name, true);
    tap.set_carrier(true).unwrap();
    eventually("the TAP runs", || kernel::is_running(name));
    tap
}

/// The next frame of ours that the kernel sends on the TAP, header included.
fn read(tap: &Tap, room: usize) -> Vec<u8> {
    let poll = Poll::new().unwrap();
    poll.add(tap, 0, Interest::Read, Trigger::Level).unwrap();
    let mut events = Events::with_capacity(1);
    loop {
        let mut bytes = vec![0xee; room];
        while let Some(len) = tap.read_into(&mut [IoSpanMut::private(&mut bytes)]).unwrap() {
            let ethertype = HEADER_LEN + 12;
            if bytes[ethertype..ethertype + 2] == kernel::ETHERTYPE.to_be_bytes() {
                bytes.truncate(len);
                return bytes;
            }
        }
        poll.wait(&mut events, Some(TIME_FOR_A_STATE)).unwrap();
        assert!(events.iter().any(|r| r.readable), "no frame came");
    }
}

fn write(tap: &Tap, frame: &[u8]) -> Result<Write, LostTap> {
    tap.write_from(&[IoSpan::private(&[0; HEADER_LEN]), IoSpan::private(frame)])
}

fn a_new_tap_has_no_carrier_until_it_is_given_one() {
    let tap = Tap::create("bl0", false).unwrap();
    kernel::set_up("bl0", true);
    assert!(!kernel::has_carrier("bl0"));
    tap.set_carrier(true).unwrap();
    assert!(kernel::has_carrier("bl0"));
    eventually("the TAP runs", || kernel::is_running("bl0"));
    tap.set_carrier(false).unwrap();
    assert!(!kernel::has_carrier("bl0"));
    eventually("the TAP stops", || !kernel::is_running("bl0"));
}

fn a_frame_of_the_kernel_comes_out_behind_a_virtio_net_header() {
    let tap = running_tap("bl0");
    let sent = frame(0x5a, 300);
    Packets::on(tap.index()).send(&sent);
    let got = read(&tap, 2048);
    // num_buffers is left to whoever puts the frame into a ring.
    assert_eq!(got[..HEADER_LEN], [0; HEADER_LEN]);
    assert_eq!(got[HEADER_LEN..], sent);
}

fn a_frame_written_from_shared_memory_reaches_the_kernel() {
    let tap = running_tap("bl0");
    let packets = Packets::on(tap.index());
    let sent = frame(0xa5, 1000);
    let memory = Mapping::anonymous(4096, Kind::Cached);
    memory.view(0, 4096).copy_from(100, &sent[256..]);
    // As the data path does it: a private header and prefix, then the shared tail.
    let spans = [
        IoSpan::private(&[0; HEADER_LEN]),
        IoSpan::private(&sent[..256]),
        IoSpan::shared(memory.view(100, 744)).unwrap(),
    ];
    assert_eq!(tap.write_from(&spans), Ok(Write::Sent));
    assert_eq!(packets.receive(), sent);

    packets.send(&sent);
    let (header, body) = (memory.view(0, HEADER_LEN), memory.view(1024, 2048));
    eventually("the frame lies in shared memory", || {
        let mut spans = [header, body].map(|view| IoSpanMut::shared(view).unwrap());
        let len = tap.read_into(&mut spans).unwrap();
        let mut got = vec![0; sent.len()];
        body.copy_to(0, &mut got);
        len == Some(HEADER_LEN + sent.len()) && got == sent
    });
}

fn a_read_without_room_is_cut_and_says_what_it_got() {
    let tap = running_tap("bl0");
    let packets = Packets::on(tap.index());
    packets.send(&frame(1, 1000));
    packets.send(&frame(2, 1000));
    assert_eq!(read(&tap, 200)[HEADER_LEN..], frame(1, 1000)[..200 - HEADER_LEN]);
    assert_eq!(
        read(&tap, 2000)[HEADER_LEN..],
        frame(2, 1000),
        "the rest is lost, no frame with it"
    );
    assert_eq!(tap.read_into(&mut []), Err(LostTap::Os(Errno::INVAL)));
}

fn a_bad_frame_is_told_apart_and_the_next_one_goes() {
    let tap = running_tap("bl0");
    let packets = Packets::on(tap.index());
    let mut header = [0; HEADER_LEN];
    header[1] = GSO_TCPV4;
    let body = frame(1, 100);
    let tcp_without_size = [IoSpan::private(&header), IoSpan::private(&body)];
    assert_eq!(tap.write_from(&tcp_without_size), Ok(Write::BadFrame));
    assert_eq!(write(&tap, &[0; 13]), Ok(Write::BadFrame), "shorter than an Ethernet header");
    assert_eq!(tap.write_from(&[IoSpan::private(&[0; 11])]), Ok(Write::BadFrame));
    assert_eq!(tap.write_from(&[]), Ok(Write::BadFrame));
    let too_many = vec![IoSpan::private(&[0]); 1025];
    assert_eq!(tap.write_from(&too_many), Ok(Write::BadFrame));
    assert_eq!(write(&tap, &frame(7, 100)), Ok(Write::Sent));
    assert_eq!(packets.receive(), frame(7, 100));
}

fn a_netdev_that_is_down_is_told_apart_and_heals() {
    let tap = running_tap("bl0");
    let poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1);
    let mut wait = |timeout| {
        poll.wait(&mut events, Some(timeout)).unwrap();
        events.iter().next()
    };
    poll.add(&tap, 0, Interest::Write, Trigger::Edge).unwrap();
    assert!(wait(TIME_FOR_A_STATE).is_some_and(|r| r.writable));
    kernel::set_up("bl0", false);
    assert_eq!(write(&tap, &frame(1, 100)), Ok(Write::Down));
    // Frames that the stack sent of itself before it went down may wait still; none are added.
    while tap.read_into(&mut [IoSpanMut::private(&mut [0; 2048])]).unwrap().is_some() {}
    // Without this the TAP would not say that it is writable again.
    poll.modify(&tap, 0, Interest::Write, Trigger::Edge).unwrap();
    assert_eq!(wait(Duration::ZERO), None, "there is no room while it is down");
    kernel::set_up("bl0", true);
    assert!(wait(TIME_FOR_A_STATE).is_some_and(|r| r.writable && !r.failed));
    assert_eq!(write(&tap, &frame(1, 100)), Ok(Write::Sent));
}

fn a_deleted_netdev_is_told_apart_and_polls_as_failed() {
    let tap = running_tap("bl0");
    let poll = Poll::new().unwrap();
    poll.add(&tap, 0, Interest::Read, Trigger::Edge).unwrap();
    kernel::delete(tap.index());
    let mut events = Events::with_capacity(1);
    poll.wait(&mut events, Some(TIME_FOR_A_STATE)).unwrap();
    assert!(events.iter().any(|r| r.failed), "{events:?}");
    assert_eq!(write(&tap, &frame(1, 100)), Err(LostTap::Deleted));
    assert_eq!(tap.read_into(&mut [IoSpanMut::private(&mut [0; 2048])]), Err(LostTap::Deleted));
    assert!(tap.current_name().is_err());
    Tap::create("bl0", false).unwrap();
}

fn a_name_in_use_is_refused_and_says_by_whom() {
    let by = |name| match Tap::create(name, false) {
        Err(TapError::NameInUse { by, .. }) => by,
        other => panic!("{other:?}"),
    };
    let tap = Tap::create("bl0", false).unwrap();
    assert_eq!(by("bl0"), "a temporary multi-queue TAP with virtio-net header, in use");
    drop(tap);
    Tap::create("bl0", false).unwrap();
    let _plain = tun_tap::Iface::without_packet_info("plain0", tun_tap::Mode::Tap).unwrap();
    assert_eq!(by("plain0"), "a temporary single-queue TAP without virtio-net header");
    assert_eq!(by("lo"), "a network interface that is no TAP");
}

fn a_persistent_tap_is_adopted_with_carrier_and_offloads_off() {
    let tap = Tap::create("bl0", true).unwrap();
    let index = tap.index();
    tap.set_offload(Offload::TCP).unwrap();
    tap.set_carrier(true).unwrap();
    kernel::set_up("bl0", true);
    drop(tap);
    assert!(!kernel::has_carrier("bl0"), "nobody serves it");
    assert_eq!(
        Existing::of("bl0").unwrap().unwrap().tun,
        Some(TunFlags {
            tap: true,
            packet_info: false,
            vnet_hdr: true,
            persistent: true,
            multi_queue: true,
            queues: 0
        })
    );

    let tap = Tap::adopt("bl0", None).unwrap();
    assert_eq!((tap.index(), tap.name()), (index, "bl0"));
    assert!(!kernel::has_carrier("bl0"));
    assert!(!kernel::tso("bl0"));
    tap.set_carrier(true).unwrap();
    eventually("the TAP runs", || kernel::is_running("bl0"));
    Packets::on(index).send(&frame(3, 100));
    assert_eq!(read(&tap, 2048).len(), HEADER_LEN + 100, "the header still has 12 bytes");
    tap.set_persistent(false).unwrap();
    drop(tap);
    assert_eq!(Existing::of("bl0").unwrap(), None);
}

fn a_temporary_tap_goes_with_its_descriptor() {
    drop(Tap::create("bl0", false).unwrap());
    assert_eq!(Existing::of("bl0").unwrap(), None);
    let nothing = Tap::adopt("bl0", None).unwrap_err();
    assert!(matches!(nothing, TapError::Missing { .. }), "{nothing}");
    assert_eq!(Existing::of("bl0").unwrap(), None, "looking for it made none");
}

fn a_tap_that_is_held_is_not_adopted() {
    let tap = Tap::create("bl0", true).unwrap();
    let busy = Tap::adopt("bl0", None).unwrap_err();
    assert_eq!(busy, TapError::Busy { name: "bl0".into(), queues: 1 });
    drop(tap);
    Tap::adopt("bl0", None).unwrap();
}

fn another_user_cannot_attach_to_a_tap() {
    // On a thread of its own, which is nobody from then on.
    let attach = || std::thread::spawn(|| kernel::attach_as_nobody("bl0")).join().unwrap();
    let refused = Err(std::io::ErrorKind::PermissionDenied);
    let tap = Tap::create("bl0", true).unwrap();
    assert_eq!(attach().map_err(|e| e.kind()), refused, "it is held");
    drop(tap);
    assert_eq!(attach().map_err(|e| e.kind()), refused, "it is left");
    Tap::adopt("bl0", None).unwrap();
}

fn a_tap_of_somebody_else_is_not_adopted_and_not_touched() {
    let _plain = tun_tap::Iface::without_packet_info("plain0", tun_tap::Mode::Tap).unwrap();
    let before = Existing::of("plain0").unwrap().unwrap();
    for name in ["plain0", "lo"] {
        match Tap::adopt(name, None) {
            Err(e @ TapError::Foreign { .. }) => assert!(e.to_string().contains("found a"), "{e}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(Existing::of("plain0").unwrap().unwrap(), before);
}

fn a_tap_with_another_alias_is_not_adopted() {
    drop(Tap::create("bl0", true).unwrap());
    let foreign = Tap::adopt("bl0", Some("boardlane slot 0")).unwrap_err();
    assert!(matches!(foreign, TapError::Foreign { .. }), "{foreign}");
    kernel::set_alias(Existing::of("bl0").unwrap().unwrap().index, "boardlane slot 0");
    Tap::adopt("bl0", Some("boardlane slot 0")).unwrap();
}

fn offloads_show_in_ethtool_and_can_be_taken_back() {
    let tap = Tap::create("bl0", false).unwrap();
    let shown = || (kernel::checksum_offload("bl0"), kernel::tso("bl0"));
    assert_eq!(shown(), (false, false));
    tap.set_offload(Offload { csum: true, ..Offload::default() }).unwrap();
    assert_eq!(shown(), (true, false));
    tap.set_offload(Offload::TCP).unwrap();
    assert_eq!(shown(), (true, true));
    let best = tap.probe_offload().unwrap();
    assert_eq!(best, Offload { uso: best.uso, ..Offload::TCP });
    assert_eq!(shown(), (false, false));
    tap.set_offload(best).unwrap();
    let segments_only = Offload { csum: false, ..Offload::TCP };
    let refused = tap.set_offload(segments_only).unwrap_err();
    assert!(matches!(refused, TapError::Unsupported { .. }), "{refused}");
    assert_eq!(shown(), (true, true), "what is refused changes nothing");
}

fn memory_that_went_away_is_an_error_and_no_signal() {
    let tap = running_tap("bl0");
    let (memory, file) = kernel::shared_memory(2 * 4096);
    file.set_len(4096).unwrap();
    let span = IoSpan::shared(memory.view(4096, 1000)).unwrap();
    assert_eq!(tap.write_from(&[IoSpan::private(&[0; HEADER_LEN]), span]), Err(LostTap::BadMemory));
    Packets::on(tap.index()).send(&frame(9, 100));
    let mut read = Ok(None);
    eventually("a frame comes", || {
        let gone = IoSpanMut::shared(memory.view(4096, 1000)).unwrap();
        read = tap.read_into(&mut [gone]);
        read != Ok(None)
    });
    assert_eq!(read, Err(LostTap::BadMemory));
    // The TAP is as good as before.
    assert_eq!(write(&tap, &frame(8, 100)), Ok(Write::Sent));
    assert_eq!(
        LostTap::BadMemory.to_string(),
        "memory of the other end is gone",
        "it is the other end's that went, not the TAP"
    );
}

fn a_tap_works_on_in_another_namespace(scratch: &Scratch) {
    let other = Scratch::new().unwrap();
    let tap = scratch
        .namespace
        .run(|| {
            let tap = running_tap("bl0");
            kernel::move_to(tap.index(), &other.namespace);
            assert_eq!(Existing::of("bl0").unwrap(), None);
            tap
        })
        .unwrap();
    assert_eq!(tap.current_name().unwrap(), "bl0");
    tap.set_offload(Offload::TCP).unwrap();
    let inside = || {
        kernel::set_up("bl0", true);
        eventually("the TAP runs", || kernel::is_running("bl0"));
        let packets = Packets::on(Existing::of("bl0").unwrap().unwrap().index);
        assert_eq!(write(&tap, &frame(8, 100)), Ok(Write::Sent));
        assert_eq!(packets.receive(), frame(8, 100));
        packets.send(&frame(9, 100));
        assert_eq!(read(&tap, 2048)[HEADER_LEN..], frame(9, 100));
    };
    other.namespace.run(inside).unwrap();
}

fn a_process_inherits_the_namespace(scratch: &Scratch) {
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let (thread, process) = scratch
        .namespace
        .run(|| {
            let thread = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let out = Command::new("readlink").arg("/proc/self/ns/net").output().unwrap();
            (thread, String::from_utf8(out.stdout).unwrap())
        })
        .unwrap();
    assert_ne!(thread, before);
    assert_eq!(process.trim(), thread.to_str().unwrap());
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
}

fn a_name_is_made_once_and_removed_for_all(scratch: &Scratch) {
    let again = Namespace::create(&scratch.name).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    let path = format!("/run/netns/{}", scratch.name);
    let inode = |namespace: &Namespace| rustix::fs::fstat(namespace).unwrap().st_ino;
    for what in [&scratch.name, &path] {
        assert_eq!(inode(&Namespace::open(what).unwrap()), inode(&scratch.namespace));
    }
    Namespace::remove(&scratch.name).unwrap();
    assert!(!std::path::Path::new(&path).exists());
    Namespace::remove(&scratch.name).unwrap();
    // What a creation leaves that was killed half-way is no namespace, and does not block the name.
    std::fs::write(&path, "").unwrap();
    assert!(Namespace::open(&scratch.name).is_err());
    Namespace::create(&scratch.name).unwrap();
}

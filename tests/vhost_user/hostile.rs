//! Front-ends that do what they should not, beside one that does nothing of the kind: the agent lives, says
//! what was wrong, serves the next one, and the other link's stream goes on.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boardlane::os::netns::Namespace;
use boardlane::tunnel::vhost_user::{Inflight, Request, encode};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, ftruncate, memfd_create};

use crate::front_end::{FrontEnd, Pair, Rings, done, doorbell, number, send};
use crate::site::{Held, PATIENCE, Site, wait};
use crate::stream::Seen;
use crate::table::Table;

const RINGS: Rings = Rings { packed: false, in_order: false, event_idx: true };
/// How long a socket lingers: longer than anything is waited for.
const LINGER: Duration = Duration::from_secs(30);
/// The link that is tried, and the one that must not notice.
const TRIED: usize = 0;
const OTHER: usize = 1;

/// A front-end of the other link that goes on and on.
struct Other {
    came: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Other {
    fn start(site: &Site) -> Self {
        let mut front_end = FrontEnd::new(Rings { packed: true, ..RINGS }, true);
        front_end.set_up(site, OTHER, true);
        let (came, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (came.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                front_end.pump(32);
                count.store(front_end.stream.seen().came, Ordering::Relaxed);
                // The processors are others' as well.
                std::thread::sleep(Duration::from_millis(1));
            }
            front_end.drain();
            front_end.stream.take()
        });
        Self { came, stop, thread }
    }

    /// Waits until so many more frames have come.
    fn go_on(&self, frames: u64) {
        let before = self.came.load(Ordering::Relaxed);
        wait("the other link's stream goes on", || {
            let came = self.came.load(Ordering::Relaxed);
            let ended = self.thread.is_finished();
            assert!(!ended, "the other link's stream has ended");
            if came >= before + frames { Ok(()) } else { Err(format!("{came} after {before}")) }
        });
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One of the link that is tried, whose memory can be cut.
fn front_end() -> FrontEnd {
    FrontEnd::new(RINGS, false)
}

fn started(site: &Site) -> FrontEnd {
    let mut front_end = front_end();
    front_end.set_up(site, TRIED, false);
    front_end.pump(100);
    front_end
}

/// A connection that is served, after a first question.
fn asked(site: &Site) -> UnixStream {
    let socket = site.connect(TRIED);
    number(&socket, &Request::GetFeatures);
    socket
}

const CUT: &str = "the front-end has cut its memory short";

fn cut_memory(site: &Site) {
    let mut front_end = started(site);
    front_end.push(1);
    ftruncate(&front_end.file, 0).unwrap();
    // Nothing of this process looks at it any more.
    front_end.kick();
    site.wait_reason(TRIED, CUT);
}

fn cut_memory_at_rest(site: &Site) {
    let mut front_end = started(site);
    front_end.drain();
    ftruncate(&front_end.file, 4096).unwrap();
    site.wait_reason(TRIED, CUT);
}

fn cut_journal(site: &Site) {
    let file = memfd_create("journal", MemfdFlags::CLOEXEC).unwrap();
    let inflight = Inflight { len: 1 << 16, offset: 0, queues: 2, queue_size: 256 };
    ftruncate(&file, inflight.len).unwrap();
    let mut front_end = front_end();
    front_end.tracked = Some((inflight, file.try_clone().unwrap()));
    front_end.set_up(site, TRIED, true);
    front_end.pump(100);
    ftruncate(&file, 0).unwrap();
    front_end.push(2);
    site.wait_reason(TRIED, CUT);
}

fn random_octets(site: &Site) {
    let mut socket = site.connect(TRIED);
    let octets = crate::stream::frame(60);
    // It may be closed before all is written.
    let _ = socket.write_all(&octets[boardlane::spec::net::HEADER_LEN + 30..]);
    site.wait_reason(TRIED, "says that its payload has");
}

fn octets_of_no_version(site: &Site) {
    let mut socket = site.connect(TRIED);
    socket.write_all(&[0; 4096]).unwrap();
    site.wait_reason(TRIED, "has flags 0x0");
}

fn half_a_header(site: &Site) {
    let mut socket = site.connect(TRIED);
    socket.write_all(&[1, 0, 0, 0, 1]).unwrap();
    drop(socket);
    site.wait_reason(TRIED, "after 5 bytes of a message");
}

fn half_a_message_and_silence(site: &Site, other: &Other) {
    let mut socket = asked(site);
    socket.write_all(&encode(2, 0, &[0; 8])[..15]).unwrap();
    other.go_on(200);
    drop(socket);
    site.wait_reason(TRIED, "after 15 bytes of a message");
}

/// Nothing is asked; another one waits meanwhile, and is served afterwards.
fn silence_and_a_second_one_that_waits(site: &Site, other: &Other) {
    let silent = site.connect(TRIED);
    let second = site.connect(TRIED);
    send(&second, &Request::GetFeatures.encode(false), &[]).unwrap();
    second.set_nonblocking(true).unwrap();
    other.go_on(200);
    let early = std::io::Read::read(&mut &second, &mut [0; 12]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    second.set_nonblocking(false).unwrap();
    drop(silent);
    crate::front_end::receive(&second).unwrap();
}

fn a_second_one_beside_traffic(site: &Site) {
    let mut first = started(site);
    let second = site.connect(TRIED);
    send(&second, &Request::GetFeatures.encode(false), &[]).unwrap();
    first.pump(500);
    first.drain();
    drop(first);
    crate::front_end::receive(&second).unwrap();
}

fn replies_that_are_not_read(site: &Site) {
    let mut socket = asked(site);
    socket.set_nonblocking(true).unwrap();
    let since = Instant::now();
    loop {
        match socket.write(&Request::GetFeatures.encode(false)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
        }
        assert!(since.elapsed() < PATIENCE, "the agent reads without end");
    }
    site.wait_reason(TRIED, "does not read");
}

/// A kick is refused if it is none that could be waited for.
fn no_kick(site: &Site, fd: &OwnedFd) {
    let socket = asked(site);
    let request = Request::SetVringKick { index: 0, fd: true };
    send(&socket, &request.encode(false), &[fd.as_fd()]).unwrap();
    site.wait_reason(TRIED, "no eventfd");
}

fn many_descriptors(site: &Site) {
    let socket = asked(site);
    let fd = doorbell();
    send(&socket, &Request::GetFeatures.encode(false), &[fd.as_fd(); 40]).unwrap();
    site.wait_reason(TRIED, "descriptors got lost");
}

/// Traffic with such kicks and calls, whether it gets on or not; then the rings stop as usual.
fn with(site: &Site, kicks: Option<Pair>, calls: Option<Pair>) {
    let mut front_end = front_end();
    front_end.kicks = kicks.unwrap_or(front_end.kicks);
    front_end.hears_calls = calls.is_none();
    front_end.calls = calls.unwrap_or(front_end.calls);
    front_end.set_up(site, TRIED, false);
    front_end.push(60);
    let seen = front_end.stream.take();
    assert_eq!(Seen { came: 0, ..seen }, Seen::default());
    front_end.stop();
}

/// An eventfd that is full; it blocks who rings it, or not.
fn full(flags: EventfdFlags) -> Arc<OwnedFd> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    if !flags.contains(EventfdFlags::NONBLOCK) {
        fcntl_setfl(&fd, OFlags::empty()).unwrap();
    }
    Arc::new(fd)
}

fn both(fd: &Arc<OwnedFd>) -> Option<Pair> {
    Some([fd.clone(), fd.clone()])
}

/// An epoll that is ready as long as the other one, which is in it, is open.
fn ready_epoll() -> [OwnedFd; 2] {
    let inside = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &inside, EventData::new_u64(0), EventFlags::IN).unwrap();
    [epoll, inside]
}

/// Keeps an eventfd full, and has it block again whenever somebody has changed that.
struct Holder(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Holder {
    fn of(fd: Arc<OwnedFd>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                fcntl_setfl(&fd, OFlags::NONBLOCK).unwrap();
                for step in [u64::MAX - 1, 1 << 62, 1 << 32, 1] {
                    let _ = rustix::io::write(&fd, &step.to_ne_bytes());
                }
                fcntl_setfl(&fd, OFlags::empty()).unwrap();
                std::thread::yield_now();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

fn held_calls(site: &Site) {
    let call = full(EventfdFlags::empty());
    let _holder = Holder::of(call.clone());
    with(site, None, both(&call));
}

/// The ring is broken, and whom to tell that blocks.
fn a_broken_ring_and_a_held_error_doorbell(site: &Site) {
    let err = full(EventfdFlags::empty());
    let _holder = Holder::of(err.clone());
    let mut front_end = front_end();
    front_end.set_up(site, TRIED, false);
    for index in 0..2 {
        done(front_end.socket(), &Request::SetVringErr { index, fd: true }, &[err.as_fd()]);
    }
    front_end.pump(100);
    // An echo without room would not look at it.
    front_end.drain();
    front_end.spoil();
    front_end.kick();
    site.wait_reason(TRIED, "it goes on when the device is reset");
    front_end.stop();
}

/// Does this to the agent, and then looks whether all else is well.
struct Ground<'a> {
    site: &'a mut Site,
    other: Other,
    table: Table,
}

impl Ground<'_> {
    fn act(&mut self, name: &str, act: impl FnOnce(&Site, &Other)) {
        act(self.site, &self.other);
        self.site.assert_alive();
        let since = Instant::now();
        self.other.go_on(200);
        let went_on = since.elapsed();
        // The next one; its leaving in order ends the row of faults.
        let mut next = started(self.site);
        let served = since.elapsed();
        next.drain();
        assert_eq!(Seen { came: 0, ..next.stream.take() }, Seen::default(), "after {name}");
        next.stop();
        drop(next);
        self.site.wait_reason(TRIED, "no front-end has connected");
        let ms = |time: Duration| time.as_millis().to_string();
        self.table.row([name.to_owned(), ms(went_on), ms(served)]);
    }
}

impl Ground<'_> {
    /// An agent and its other link's front-end, for these acts; afterwards the agent holds what it held.
    fn of(title: &str, acts: impl FnOnce(&mut Ground<'_>)) {
        let mut site = Site::new("hostile", 2, "");
        let other = Other::start(&site);
        let names =
            ["what", "200 frames of the other link, ms", "the next front-end is served, ms"];
        let mut ground = Ground { site: &mut site, other, table: Table::new(&names) };
        ground.act("nothing", |_, _| {});
        let before = Held::by(ground.site.pid());
        acts(&mut ground);
        let Ground { other, table, .. } = ground;
        let seen = other.end();
        assert_eq!(Seen { came: 0, ..seen }, Seen::default(), "the other link's stream");
        let none = "none lost, repeated, altered";
        table.print(&format!("{title}; the other link: {} frames, {none}", seen.came));
        site.wait_reason(OTHER, "no front-end has connected");
        before.assert_kept(site.pid());
    }
}

/// Memory, messages, silence.
pub(crate) fn what_a_front_end_does_wrong_is_its_own_affair() {
    Ground::of("what a front-end may do wrong", |ground| {
        ground.act("memory cut under traffic", |site, _| cut_memory(site));
        ground.act("memory cut at rest", |site, _| cut_memory_at_rest(site));
        ground.act("in-flight memory cut", |site, _| cut_journal(site));
        ground.act("random octets", |site, _| random_octets(site));
        ground.act("zeros", |site, _| octets_of_no_version(site));
        ground.act("half a header", |site, _| half_a_header(site));
        ground.act("half a message, silence", half_a_message_and_silence);
        ground.act("silence, a second one waits", silence_and_a_second_one_that_waits);
        ground.act("a second one beside traffic", |site, _| a_second_one_beside_traffic(site));
        ground.act("replies that are not read", |site, _| replies_that_are_not_read(site));
        ground.act("40 descriptors", |site, _| many_descriptors(site));
    });
}

/// A TCP socket whose peer reads nothing: whoever closes it last waits for as long as this.
fn lingering(namespace: &Namespace) -> [OwnedFd; 2] {
    let connected = namespace.run(|| {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (socket, listener.accept().unwrap().0)
    });
    let (mut socket, peer) = connected.unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 65536]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    socket2::SockRef::from(&socket).set_linger(Some(LINGER)).unwrap();
    [socket.into(), peer.into()]
}

/// Descriptors that wait in their closing; an error says why there can be none here. Without privilege
/// they would be of the machine's own network.
pub(crate) fn descriptors_that_linger_hold_up_nobody() -> Result<(), String> {
    let name = format!("bl-linger-{}", std::process::id());
    let namespace = Namespace::create(&name).map_err(|e| format!("a network namespace: {e}"))?;
    Namespace::remove(&name).unwrap();
    let title = "descriptors that linger in their closing";
    Ground::of(title, |ground| linger(ground, &namespace));
    Ok(())
}

fn linger(ground: &mut Ground<'_>, namespace: &Namespace) {
    let mut peers = Vec::new();
    let mut send_all = |site: &Site, messages: &[(Request, usize)]| {
        // Who waits meanwhile is not read, so the agent's descriptors will be the last ones.
        let silent = site.connect(TRIED);
        let waiting = site.connect(TRIED);
        for (request, fds) in messages {
            let [socket, peer] = lingering(namespace);
            send(&waiting, &request.encode(false), &vec![socket.as_fd(); *fds]).unwrap();
            peers.push(peer);
        }
        drop(silent);
        waiting
    };
    let kick = || Request::SetVringKick { index: 0, fd: true };
    ground.act("a descriptor that lingers in its closing", |site, _| {
        let _waiting = send_all(site, &[(kick(), 1)]);
        site.wait_reason(TRIED, "no eventfd");
    });
    ground.act("two more behind a message that ends all", |site, _| {
        let _waiting = send_all(site, &[(kick(), 1), (kick(), 1), (kick(), 1)]);
        site.wait_reason(TRIED, "no eventfd");
    });
    ground.act("40 of them with a message", |site, _| {
        let _waiting = send_all(site, &[(Request::GetFeatures, 40)]);
        site.wait_reason(TRIED, "descriptors got lost");
    });
}

/// Doorbells that are none, or do not behave.
pub(crate) fn doorbells_that_do_not_behave_hold_up_nobody() {
    Ground::of("what a front-end's doorbells may be", doorbells);
}

fn doorbells(ground: &mut Ground<'_>) {
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    let file = memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let [epoll, _inside] = ready_epoll();
    let others =
        [("pipe", pipe), ("file", file), ("socket", socket.into()), ("ready epoll", epoll)];
    for (name, fd) in others {
        ground.act(&format!("kick: a {name}"), |site, _| no_kick(site, &fd));
    }
    let (full_at_once, full_blocking) = (full(EventfdFlags::NONBLOCK), full(EventfdFlags::empty()));
    ground.act("kick: full", |site, _| with(site, both(&full_at_once), None));
    ground.act("kick: full and blocking", |site, _| with(site, both(&full_blocking), None));
    ground.act("call: full", |site, _| with(site, None, both(&full(EventfdFlags::NONBLOCK))));
    ground.act("call: full and blocking", |site, _| {
        with(site, None, both(&full(EventfdFlags::empty())));
    });
    ground.act("call: held full and blocking", |site, _| held_calls(site));
    ground.act("broken ring, error doorbell held", |site, _| {
        a_broken_ring_and_a_held_error_doorbell(site);
    });
}

//! A case: which sentence of a standard is broken, how, and what has to come of it.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use boardlane::link::State;
use boardlane::net::frame::Drop;
use boardlane::spec::virtio::status;
use boardlane::tunnel::part::Role;

use crate::attack::{ATTACKER, Attack, Setup, Stage, VICTIM, frame};
use crate::ground::Ground;
use crate::victim::{End, HEARTBEAT, Means};

/// How long a case may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// Id of the end that comes after the attacker.
const NEXT: u32 = 100;

/// What has to come of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The frame is dropped and counted for this reason; the session goes on.
    DropAndCount(Drop),
    /// The device says NEEDS_RESET, its link this reason; after a reset, it works in the same session.
    NeedsReset(&'static str),
    /// The peer is left and kept away, with this reason.
    Quarantine(&'static str),
    /// The session is over, with this reason.
    Down(&'static str),
    /// The device's queues are stopped, as after a reset, with this reason; the session goes on.
    Stopped(&'static str),
    /// There is no session, with this reason.
    NoSession(&'static str),
    /// What was asked for is not done, and the peer can know; the session goes on.
    Refused,
    /// Nothing comes of it, because of this; the session goes on.
    Harmless(&'static str),
    /// Whatever comes of it in this session is the attacker's own affair.
    Any,
}

/// One row of a table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Where the sentence stands that is broken, and what it says.
    pub(crate) breaks: &'static str,
    pub(crate) setup: Setup,
    pub(crate) attack: fn(&mut Attack),
    pub(crate) verdict: Verdict,
}

pub(crate) const fn case(
    name: &'static str,
    breaks: &'static str,
    setup: Setup,
    attack: fn(&mut Attack),
    verdict: Verdict,
) -> Case {
    Case { name, breaks, setup, attack, verdict }
}

/// The cases of one subject, and whose side the attacker is on.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) attacker: Role,
    pub(crate) cases: Vec<Case>,
}

impl Case {
    /// Runs it, and what comes after it; panics if anything is not as it should be.
    pub(crate) fn run(&self, attacker: Role, ground: Ground, engine: bool) {
        let Self { name, breaks, setup, attack, verdict } = *self;
        let (done, is_done) = channel::<()>();
        let watchdog = thread::spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                panic_all(name);
            }
        });
        let mut a = Attack::new(attacker, ground, engine, setup);
        if setup.stage != Stage::Alone {
            a.victim.said.clear();
        }
        attack(&mut a);
        a.settle();
        judge(&mut a, verdict, breaks);
        let (trespasses, _) = a.memory.trespasses();
        assert!(trespasses.is_empty(), "outside of what it was given: {trespasses:#x?}");
        the_next_session_works(a, engine);
        drop(done);
        watchdog.join().unwrap();
    }
}

/// A case that hangs would hang the program: it ends.
fn panic_all(name: &str) {
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("{name}: hangs for {PATIENCE:?}\n"),
    );
    std::process::abort();
}

fn judge(a: &mut Attack, verdict: Verdict, breaks: &str) {
    let said = format!("{:?}, dropped {:?}; broken: {breaks}", a.victim.said, a.victim.drops);
    let has = |a: &Attack, state, why: &str| {
        a.victim.said.iter().any(|(is, text)| *is == state && text.contains(why))
    };
    match verdict {
        Verdict::DropAndCount(reason) => {
            let drops = &a.victim.drops;
            assert!(!drops.is_empty() && drops.iter().all(|is| *is == reason), "{said}");
            goes_on(a, &said);
        }
        Verdict::NeedsReset(why) => {
            assert!(has(a, State::Down, why), "{said}");
            assert!(a.victim.paths.is_empty() && !a.victim.carrier, "{said}");
            assert_ne!(a.status() & status::DEVICE_NEEDS_RESET, 0, "{said}");
            a.unconfine();
            a.run();
            a.frames_pass();
        }
        Verdict::Quarantine(why) => {
            assert!(has(a, State::Quarantined, why), "{said}");
            assert!(a.victim.paths.is_empty() && !a.victim.carrier, "{said}");
        }
        Verdict::Down(why) => {
            assert!(has(a, State::Down, why), "{said}");
            assert!(a.victim.paths.is_empty() && !a.victim.carrier, "{said}");
        }
        Verdict::Stopped(why) => {
            assert!(has(a, State::Negotiating, why), "{said}");
            assert!(a.victim.paths.is_empty() && !a.victim.carrier, "{said}");
            a.run();
            a.frames_pass();
        }
        Verdict::NoSession(why) => {
            let (state, last) = a.victim.last();
            assert!(state == State::Waiting && last.contains(why), "{said}");
        }
        Verdict::Refused => {
            assert_eq!(a.refused, Some(true), "{said}");
            goes_on(a, &said);
        }
        Verdict::Harmless(_) => {
            assert!(a.victim.drops.is_empty(), "{said}");
            goes_on(a, &said);
        }
        Verdict::Any => {}
    }
}

/// That this session is as good as before; one that did not run yet can be brought to.
fn goes_on(a: &mut Attack, said: &str) {
    let (state, _) = a.victim.last();
    assert!(!matches!(state, State::Down | State::Quarantined), "{said}");
    if a.setup.stage != Stage::Running {
        if a.setup.stage == Stage::Alone && a.fifo.is_none() {
            a.meet(|_| {});
        }
        a.run();
    }
    assert!(a.fifo.is_some() && a.victim.paths.contains_key(&0), "{said}");
    a.frames_pass();
}

/// The attacker is gone; an end of its kind that means well comes.
fn the_next_session_works(a: Attack, engine: bool) {
    a.unconfine();
    let Attack { mut now, mut victim, role, memory, setup, .. } = a;
    victim.input(now, |link| link.handle_peer_gone(now, ATTACKER));
    let means = Means { engine, pairs: setup.pairs, dialect: setup.dialect };
    let mut next = End::new(now, role, NEXT, &memory.attacker, means);
    next.meets(now, &[VICTIM]);
    victim.meets(now, &[NEXT]);
    let (until, since) = (now + Duration::from_secs(70), now);
    let up = |end: &End| end.last().0 == State::Up && end.carrier && !end.paths.is_empty();
    while !(up(&victim) && up(&next)) {
        let due = [&victim, &next].map(|end| end.link.poll_timeout());
        let due = due.into_iter().flatten().min().unwrap_or(until);
        now = due.clamp(now + Duration::from_millis(1), now + HEARTBEAT);
        assert!(now < until, "not up again: {:?} and {:?}", victim.said, next.said);
        victim.turn(now);
        next.turn(now);
    }
    assert!(now - since < Duration::from_secs(10), "up again after {:?}", now - since);
    let frames: Vec<_> = [14, 60, 300, 1514, 9000, 1, 200]
        .into_iter()
        .enumerate()
        .map(|(i, len)| frame(i, 14 + len))
        .collect();
    for (from, to) in [(0, 1), (1, 0)] {
        let mut ends = [&mut victim, &mut next];
        ends[to].inbox.clear();
        ends[from].outbox = frames.iter().cloned().collect();
        for _ in 0..20 {
            now += Duration::from_millis(1);
            ends.iter_mut().for_each(|end| end.turn(now));
        }
        let same = |(a, b): (&Vec<u8>, &Vec<u8>)| a[..10] == b[..10] && a[12..] == b[12..];
        let came = &ends[to].inbox;
        assert!(came.len() == frames.len() && came.iter().zip(&frames).all(same), "{}", came.len());
    }
}

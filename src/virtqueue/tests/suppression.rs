//! Notifications: suppressed when they are not wanted, never lost when they are.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// One step of an end: its store goes to its store buffer, from where it drains at any time; a fence
/// waits until it has; a load sees its own buffer or memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Store,
    Fence,
    Load,
}

/// What an interleaving has come to: (next step, buffered?, drained?, load saw the other's store?)
/// for either end.
type End = (usize, bool, bool, bool);

/// Whether some interleaving lets both ends miss the other's store.
fn both_can_miss(publisher: &[Step], sleeper: &[Step]) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![[(0, false, false, false); 2]];
    while let Some(state) = todo.pop() {
        if !seen.insert(state) {
            continue;
        }
        for (me, steps) in [publisher, sleeper].into_iter().enumerate() {
            let (at, buffered, drained, _) = state[me];
            let mut go = |end: End| {
                let mut next = state;
                next[me] = end;
                todo.push(next);
            };
            let saw = state[me].3;
            if buffered {
                go((at, false, true, saw));
            }
            match steps.get(at) {
                Some(Step::Store) => go((at + 1, true, drained, saw)),
                Some(Step::Fence) if !buffered => go((at + 1, buffered, drained, saw)),
                Some(Step::Load) => go((at + 1, buffered, drained, state[1 - me].2)),
                Some(Step::Fence) | None => {}
            }
        }
        let done = |me: usize, steps: &[Step]| state[me].0 == steps.len() && !state[me].3;
        if done(0, publisher) && done(1, sleeper) {
            return true;
        }
    }
    false
}

/// Why barriers C and D are full fences, and why both ends need theirs.
#[test]
fn with_both_fences_one_end_sees_the_other_and_without_either_it_may_not() {
    let fenced = [Step::Store, Step::Fence, Step::Load];
    let bare = [Step::Store, Step::Load];
    assert!(!both_can_miss(&fenced, &fenced));
    assert!(both_can_miss(&bare, &fenced));
    assert!(both_can_miss(&fenced, &bare));
    // Looking first and asking then is no good with any fence.
    assert!(both_can_miss(&fenced, &[Step::Load, Step::Store, Step::Fence]));
}

/// What an end that may sleep has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It asked for notifications and found nothing.
    Asleep,
    /// It said that it wants none.
    Disarmed,
    /// It found something when it asked.
    Awake,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_sleeps_is_rung_and_who_does_not_want_it_is_not(
        size in prop::sample::select(vec![1u16, 2, 4, 256]),
        (event_idx, packed, uncached) in any::<(bool, bool, bool)>(),
        chained in any::<bool>(),
        ops in prop::collection::vec((0..8u8, 1..4usize), 1..200),
    ) {
        let kind = if uncached && !packed { Kind::Uncached } else { Kind::Cached };
        let mem = memory(kind, kind);
        let size = if packed && size > 1 { size - 1 } else { size };
        let config = QueueConfig { packed, ..config(size, event_idx, false) };
        let buffers = vec![buffer(BUFFERS, 1); if chained { 2.min(size.into()) } else { 1 }];
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let mut chain = Chain::default();
        let mut held = Vec::new();
        // Fresh rings ask for notifications.
        let (mut driver_is, mut device_is) = (State::Asleep, State::Asleep);
        let (mut added, mut pushed) = (0, 0);
        for (op, count) in ops {
            match op {
                0 => for _ in 0..count {
                    added += usize::from(driver.add(&mem, &buffers, &[], 0).is_ok());
                },
                1 => {
                    let rung = driver.publish(&mem);
                    match device_is {
                        State::Asleep => prop_assert_eq!(rung, added > 0),
                        State::Disarmed => prop_assert!(!rung),
                        State::Awake => prop_assert!(!rung || !event_idx || added > 0),
                    }
                    if rung {
                        device_is = State::Awake;
                    }
                    added = 0;
                }
                2 => for _ in 0..count {
                    if device.pop(&mem, &mut chain).unwrap() {
                        held.push(chain.head);
                    }
                },
                3 => for head in held.drain(..count.min(held.len())) {
                    device.push(&mem, head, 0);
                    pushed += 1;
                },
                4 => {
                    let rung = device.publish(&mem);
                    match driver_is {
                        State::Asleep => prop_assert_eq!(rung, pushed > 0),
                        State::Disarmed => prop_assert!(!rung),
                        State::Awake => prop_assert!(!rung || !event_idx || pushed > 0),
                    }
                    if rung {
                        driver_is = State::Awake;
                    }
                    pushed = 0;
                }
                5 => while driver.pop_used(&mem).unwrap().is_some() {},
                6 => if count == 1 {
                    device.disarm(&mem);
                    device_is = State::Disarmed;
                } else if device.arm(&mem).unwrap() {
                    prop_assert!(device.avail_ready(&mem).unwrap() > 0);
                    // It may still have been asleep for what came before; it is not now.
                    device_is = State::Awake;
                } else {
                    device_is = State::Asleep;
                },
                _ => if count == 1 {
                    driver.disarm(&mem);
                    driver_is = State::Disarmed;
                } else if driver.arm(&mem).unwrap() {
                    driver_is = State::Awake;
                } else {
                    driver_is = State::Asleep;
                },
            }
        }
    }
}

#[test]
fn a_device_that_needs_more_is_rung_when_there_is_more() {
    for (event_idx, packed) in [(true, false), (false, false), (true, true), (false, true)] {
        let mem = memory(Kind::Cached, Kind::Cached);
        let config = QueueConfig { packed, ..config(8, event_idx, false) };
        let mut driver = config.activate_driver(&mem).unwrap();
        let mut device = config.activate_device(&mem).unwrap();
        let mut chain = Chain::default();
        let mut post = |count: u16| {
            (0..count).for_each(|_| driver.add(&mem, &[], &[buffer(BUFFERS, 64)], 0).unwrap());
            driver.publish(&mem)
        };
        post(2);
        // A frame needs four of them: give back the two, and wait for two more.
        assert!(device.pop(&mem, &mut chain).unwrap() && device.pop(&mem, &mut chain).unwrap());
        assert!(!device.pop(&mem, &mut chain).unwrap());
        device.unpop(2);
        assert_eq!(device.arm(&mem), Ok(true), "two wait");
        assert_eq!(device.arm_beyond(&mem, 3), Ok(false));
        assert_eq!(post(1), !event_idx, "three are not enough");
        assert!(post(1), "four are");
        assert_eq!(device.arm_beyond(&mem, 3), Ok(true));
        (0..4).for_each(|head| {
            assert!(device.pop(&mem, &mut chain).unwrap());
            assert_eq!(chain.head, head);
        });
    }
}

//! Everything at once, by seed; then quiet, in which the ends must find each other.

use super::*;

const ROLES: [Role; 2] = [Role::Device, Role::Driver];

/// A daemon that comes back after it crashed or stopped.
struct Absent {
    role: Role,
    back: Instant,
}

fn features_off(random: &mut Random) -> Features {
    let bits = [net::F_MRG_RXBUF, net::F_STATUS, net::F_CSUM, virtio::F_EVENT_IDX, net::F_MAC];
    let chosen = bits.iter().filter(|_| random.below(4) == 0);
    chosen.fold(Features::NONE, |set, bit| set.union(Features::of(&[*bit])))
}

impl World {
    /// The process that plays this role and is not a rival.
    pub(super) fn role(&self, role: Role) -> Option<u32> {
        self.ends.iter().find(|(_, end)| end.role == role).map(|(id, _)| *id)
    }

    fn fault(&mut self, absent: &mut Vec<Absent>) {
        let role = ROLES[self.random.below(2) as usize];
        let Some(id) = self.role(role) else { return };
        let back = self.now + self.random.up_to(2 * SECOND);
        match self.random.below(12) {
            0..3 => {
                self.crash(id);
                absent.push(Absent { role, back });
            }
            3 => {
                self.end(id).frozen_until = None;
                self.stop(id);
                absent.push(Absent { role, back });
            }
            4 | 5 => self.break_worker(id),
            6 => self.end(id).frozen_until = Some(back),
            // Two of a kind disturb each other where nobody owns the bus.
            7 if self.ends.len() == 2 && self.layout == Layout::Boardlane => {
                let off = features_off(&mut self.random);
                self.attach(role, off);
            }
            8 => self.wire.lost = self.random.below(101),
            9 => self.wire.doubled = self.random.below(101),
            10 => {
                self.wire.ring = self.random.up_to(300 * MS);
                self.wire.gone = self.random.up_to(3 * SECOND);
                self.wire.stop = self.random.up_to(500 * MS);
            }
            _ => (0..50).for_each(|_| self.send(id)),
        }
    }

    /// Ends are hurt at random for `time`; then each role is there once, and nothing is broken.
    fn storm(&mut self, time: Duration) {
        let (until, mut absent) = (self.now + time, Vec::<Absent>::new());
        while self.now < until {
            let pause = self.random.up_to(SECOND);
            self.run(pause);
            let now = self.now;
            let (back, still): (Vec<_>, _) = absent.into_iter().partition(|a| a.back <= now);
            absent = still;
            for Absent { role, .. } in back {
                let off = features_off(&mut self.random);
                self.attach(role, off);
            }
            self.fault(&mut absent);
        }
        for Absent { role, .. } in absent {
            self.attach(role, Features::NONE);
        }
        for role in ROLES {
            while self.ends.values().filter(|end| end.role == role).count() > 1 {
                let id = self.role(role).unwrap();
                self.crash(id);
            }
        }
    }
}

#[test]
fn whatever_happens_the_ends_find_each_other_when_it_is_over() {
    for (seed, layout) in (0..30)
        .map(|seed| (seed, Layout::Boardlane))
        .chain((0..20).map(|seed| (seed, Layout::AmpPci)))
    {
        let mut world = World::of_layout(seed, layout);
        world.both();
        for _ in 0..3 {
            world.storm(30 * SECOND);
            // Who is frozen thaws, what is late arrives, who is dead is noticed.
            world.run(5 * SECOND);
            // Doorbells may be as bad as they were; a quarantine may have a minute to go.
            let took = world.until_up(70 * SECOND);
            world.wire = GOOD;
            world.run(SECOND);
            assert!(world.is_up(), "seed {seed}: up after {took:?}, and not for good");
            world.frames_pass();
        }
        let events: u64 = world.ends.values().map(|end| end.events).sum();
        let turns: u64 = world.ends.values().map(|end| end.turns).sum();
        let seconds = (world.now - world.began).as_secs();
        assert!(events < 2000 * seconds && turns < 2000 * seconds, "{events} {turns} {seconds}");
    }
}

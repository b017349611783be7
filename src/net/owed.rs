//! A used buffer notification that the driver has asked to be sent later (NOTF_COAL, virtio 1.4
//! §5.1.6.5.9): one for many frames, or after a time.

use std::time::{Duration, Instant};

use super::settings::Coalesce;

/// The notification of one direction that is owed to the driver.
#[derive(Debug, Default)]
pub struct Owed {
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    due: Instant,
    /// Frames since then.
    frames: u32,
}

impl Owed {
    /// So many frames were used; `ring`: the driver wants to be told. `true`: tell it now. What the driver
    /// asks for now counts, also for a notification that waits already.
    pub fn handle(&mut self, now: Instant, frames: usize, ring: bool, asked: Coalesce) -> bool {
        if !ring && self.waiting.is_none() {
            return false;
        }
        let (since, before) = self.waiting.map_or((now, 0), |w| (w.since, w.frames));
        // An engine's frames have been counted when they set out: there is one at least to tell of.
        let frames = u32::try_from(frames).unwrap_or(u32::MAX).max(ring.into());
        let frames = before.saturating_add(frames);
        let due = since + Duration::from_micros(asked.max_usecs.into());
        self.waiting = Some(Waiting { since, due, frames });
        // Without a packet limit the time alone counts.
        let enough = asked.max_packets > 0 && frames >= asked.max_packets;
        enough || self.is_due(now)
    }

    /// Whether it is to be sent, without further frames.
    pub fn is_due(&self, now: Instant) -> bool {
        self.waiting.is_some_and(|waiting| now >= waiting.due)
    }

    /// It has been sent.
    pub fn settle(&mut self) {
        self.waiting = None;
    }

    /// When it is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.map(|waiting| waiting.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Coalesce = Coalesce { max_packets: 10, max_usecs: 100 };

    #[test]
    fn without_coalescing_each_notification_is_sent_at_once() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        assert!(owed.handle(now, 1, true, Coalesce::default()));
        owed.settle();
        assert!(!owed.handle(now, 1, false, Coalesce::default()));
        assert_eq!(owed.poll_timeout(), None);
    }

    #[test]
    fn one_is_sent_after_enough_frames_though_the_driver_asked_before() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        assert!(!owed.handle(now, 4, true, ASKED));
        assert!(!owed.handle(now, 5, false, ASKED));
        assert!(owed.handle(now, 1, false, ASKED));
        owed.settle();
        assert!(!owed.handle(now, 100, false, ASKED), "nobody has asked");
    }

    #[test]
    fn one_is_sent_when_its_time_has_come() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        assert!(!owed.handle(now, 1, true, ASKED));
        let due = owed.poll_timeout().unwrap();
        assert_eq!(due, now + Duration::from_micros(100));
        assert!(!owed.is_due(now));
        assert!(owed.is_due(due));
        assert!(owed.handle(due, 1, false, ASKED), "a later frame does not put it off");
    }

    #[test]
    fn time_alone_counts_without_a_packet_limit() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        let asked = Coalesce { max_packets: 0, ..ASKED };
        assert!(!owed.handle(now, 1000, true, asked));
        assert!(owed.is_due(now + Duration::from_micros(100)));
    }

    #[test]
    fn a_driver_that_asks_for_less_delay_gets_it_at_once() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        let hours = Coalesce { max_packets: 0, max_usecs: u32::MAX };
        assert!(!owed.handle(now, 1, true, hours));
        assert!(!owed.handle(now + Duration::from_secs(1), 0, false, hours));
        assert!(owed.handle(now + Duration::from_secs(1), 0, false, Coalesce::default()));
    }

    #[test]
    fn frames_that_were_counted_before_they_landed_are_one_at_least() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        let one = Coalesce { max_packets: 1, max_usecs: u32::MAX };
        assert!(!owed.handle(now, 1, false, one), "it is on its way");
        assert!(owed.handle(now, 0, true, one), "it has landed");
    }
}

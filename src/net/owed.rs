//! A used buffer notification that the driver has asked to be sent later (NOTF_COAL, virtio 1.4
//! §5.1.6.5.9): one for many frames, or after a time.

use std::time::{Duration, Instant};

use super::settings::Coalesce;

/// The notification of one direction that is owed to the driver.
#[derive(Debug, Default)]
pub struct Owed {
    /// Frames since it was owed, and the moment at which it is due.
    waiting: Option<(u32, Instant)>,
}

impl Owed {
    /// So many frames were used; `ring`: the driver wants to be told. `true`: tell it now.
    pub fn handle(&mut self, now: Instant, frames: usize, ring: bool, asked: Coalesce) -> bool {
        if !ring && self.waiting.is_none() {
            return false;
        }
        let after = Duration::from_micros(asked.max_usecs.into());
        let (before, due) = self.waiting.unwrap_or((0, now + after));
        let frames = before.saturating_add(u32::try_from(frames).unwrap_or(u32::MAX));
        // Without a packet limit the time alone counts.
        let enough = asked.max_packets > 0 && frames >= asked.max_packets;
        self.waiting = Some((frames, due));
        enough || self.is_due(now)
    }

    /// Whether it is to be sent, without further frames.
    pub fn is_due(&self, now: Instant) -> bool {
        self.waiting.is_some_and(|(_, due)| now >= due)
    }

    /// It has been sent.
    pub fn settle(&mut self) {
        self.waiting = None;
    }

    /// When it is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.map(|(_, due)| due)
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
}

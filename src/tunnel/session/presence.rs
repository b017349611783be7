//! Who is there, where the transport does not tell: a heartbeat that moves is somebody's.
//!
//! A board and its master have no third party that would announce who came and who died. What a dead end
//! left in its part looks like what a live one wrote, but for its heartbeat.

use std::time::{Duration, Instant};

/// What is known of one part's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing but this, since then.
    Still { words: (u64, u32), since: Instant },
    /// His heartbeat has moved; his words then.
    Moved { words: (u64, u32), at: Instant },
}

/// Follows the heartbeat of one part.
#[derive(Debug, Default)]
pub(super) struct Presence(Option<Seen>);

impl Presence {
    /// Takes a look: what tells this owner from another (an epoch, a nonce), and his heartbeat.
    pub(super) fn look(&mut self, now: Instant, who: u64, beat: u32) {
        let new = (who, beat);
        self.0 = Some(match self.0 {
            Some(Seen::Still { words, .. } | Seen::Moved { words, .. })
                if words.0 == who && words.1 != beat =>
            {
                Seen::Moved { words: new, at: now }
            }
            Some(seen @ (Seen::Still { words, .. } | Seen::Moved { words, .. }))
                if words == new =>
            {
                seen
            }
            _ => Seen::Still { words: new, since: now },
        });
    }

    /// Whether his heartbeat has moved, and not longer ago than this.
    pub(super) fn moves(&self, now: Instant, within: Duration) -> bool {
        matches!(self.0, Some(Seen::Moved { at, .. }) if now < at + within)
    }

    /// Whether it has stood still for so long.
    pub(super) fn stands(&self, now: Instant, long: Duration) -> bool {
        match self.0 {
            Some(Seen::Still { since: then, .. } | Seen::Moved { at: then, .. }) => {
                now >= then + long
            }
            None => false,
        }
    }

    /// Knows nothing any more.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_lives_while_his_heartbeat_moves() {
        let (start, long) = (Instant::now(), Duration::from_secs(1));
        let at = |ms| start + Duration::from_millis(ms);
        let mut presence = Presence::default();
        assert!(!presence.moves(at(0), long) && !presence.stands(at(9000), long));
        presence.look(at(0), 7, 5);
        presence.look(at(50), 7, 5);
        assert!(!presence.moves(at(50), long) && !presence.stands(at(999), long));
        assert!(presence.stands(at(1000), long));
        presence.look(at(1000), 7, 6);
        assert!(presence.moves(at(1000), long) && !presence.stands(at(1000), long));
        presence.look(at(1999), 7, 6);
        assert!(presence.moves(at(1999), long) && !presence.moves(at(2000), long));
        assert!(presence.stands(at(2000), long));
        // Another owner begins with nothing, whatever his heartbeat.
        presence.look(at(2000), 8, 7);
        assert!(!presence.moves(at(2000), long) && !presence.stands(at(2999), long));
        presence.forget();
        assert!(!presence.stands(at(9999), long));
    }
}

//! What is counted of a link and of a daemon beside frames, for `status` and for metrics.
//!
//! A link's counts are its name's: they outlive its sessions, and a reload that has it begin anew.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::status::LinkState;

/// What has happened to a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonCounts {
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Configs that were read again and gone by.
    pub reloads: u64,
    /// Configs that were read again and changed nothing, as something was wrong.
    pub reload_failures: u64,
    /// Lines that were left out of the log, as there were too many.
    pub log_lines_left_out: u64,
}

/// What has happened to a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounts {
    /// Times that it was up and then was not.
    pub flaps: u64,
    /// Times that the ends began to agree and did not come to an end of it.
    pub negotiation_failures: u64,
    /// Times that the other end broke a rule and was kept away for it.
    pub quarantines: u64,
    /// What was set again on the netdev as somebody had changed it.
    pub heals: u64,
    /// Times that something could not be set on it.
    pub heal_failures: u64,
    /// How long the answers to keepalives took; the master asks.
    pub round_trips: RoundTrips,
    /// The state before this one was up.
    #[serde(skip)]
    pub(super) was_up: bool,
}

impl LinkCounts {
    /// It goes from one state to another, or says another time that it is in this one. `refused`: its features
    /// were.
    pub fn enter(&mut self, from: LinkState, to: LinkState, refused: bool) {
        use LinkState::{Negotiating, Quarantined, Up};
        self.flaps += u64::from(from == Up && to != Up);
        self.quarantines += u64::from(to == Quarantined);
        // Whoever ends what was up, as a guest does that reboots, may leave from here in peace.
        let gave_up = from == Negotiating && !matches!(to, Negotiating | Up) && !self.was_up;
        self.negotiation_failures += u64::from(gave_up || refused);
        if from != to {
            self.was_up = from == Up;
        }
    }
}

impl DaemonCounts {
    /// Of a daemon that starts now.
    pub fn begin() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { started_unix_ms, ..Self::default() }
    }
}

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many took at most as long as each of [`BOUNDS_US`](Self::BOUNDS_US) and longer than the one before.
    pub within: [u64; RoundTrips::BOUNDS_US.len()],
    /// How many there were.
    pub count: u64,
    /// How long all of them took, in nanoseconds.
    pub sum_ns: u64,
}

impl RoundTrips {
    /// Bounds in microseconds: doorbells take tens of them, an end that polls 2,000, and what is not answered
    /// within 1,000,000 is asked again.
    pub const BOUNDS_US: [u32; 14] = [
        20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000,
        1_000_000,
    ];

    /// One more.
    pub fn add(&mut self, took: Duration) {
        let us = took.as_nanos().div_ceil(1000);
        if let Some(at) = Self::BOUNDS_US.iter().position(|bound| us <= u128::from(*bound)) {
            self.within[at] += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.wrapping_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinkState::{Down, Negotiating, Quarantined, Up, Waiting};

    fn after(states: &[LinkState]) -> [u64; 3] {
        let mut counts = LinkCounts::default();
        for pair in states.windows(2) {
            counts.enter(pair[0], pair[1], false);
        }
        [counts.flaps, counts.negotiation_failures, counts.quarantines]
    }

    #[test]
    fn each_end_of_a_state_is_counted_for_what_it_is() {
        assert_eq!(after(&[Waiting, Negotiating, Up, Up]), [0; 3]);
        assert_eq!(after(&[Negotiating, Up, Down, Waiting, Negotiating, Up]), [1, 0, 0]);
        assert_eq!(after(&[Waiting, Negotiating, Down, Negotiating, Quarantined]), [0, 2, 1]);
        assert_eq!(after(&[Up, Quarantined, Waiting]), [1, 0, 1]);
        assert_eq!(after(&[Up, Negotiating, Negotiating, Down]), [1, 0, 0], "it was up");
        let mut counts = LinkCounts::default();
        counts.enter(Negotiating, Negotiating, true);
        assert_eq!(counts.negotiation_failures, 1);
    }

    #[test]
    fn a_time_counts_once_by_the_least_bound_that_holds_it() {
        let mut trips = RoundTrips::default();
        for ns in [0, 20_000, 20_001, 1_000_000_000, 1_000_000_001] {
            trips.add(Duration::from_nanos(ns));
        }
        assert_eq!((trips.within[0], trips.within[1], trips.within[13]), (2, 1, 1));
        assert_eq!((trips.count, trips.within.iter().sum::<u64>()), (5, 4));
        assert_eq!(trips.sum_ns, 2_000_040_002);
    }
}

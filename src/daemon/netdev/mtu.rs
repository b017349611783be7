//! Whose MTU a netdev has: the smaller one of what this end wants and of what the other end wants.
//!
//! This end wants what its config says; without that what the operator has set; without that what the
//! device offers, or 1500. That, and not what it took from the other end, is what the other end is
//! told, so a smaller MTU that goes away again is gone at both ends. The operator's is every MTU that
//! the netdev is seen with and that was not set here.
//!
//! Where there are IPv6 addresses, an MTU that the kernel would delete them for is not taken.

use crate::daemon::config::{MTU_MAX, MTU_MIN, MTU_MIN_IPV6};

/// The MTU of a netdev of which nobody has said anything.
const MTU_DEFAULT: u16 = 1500;

/// The MTU in force where it is the other end's, and what the operator has set here; noted for the
/// start after a crash, which could not tell the two.
pub(super) type Borrowed = (u16, Option<u16>);

/// What is known of a netdev's MTU, all in bytes.
#[derive(Debug, Default)]
pub(super) struct Mtu {
    config: Option<u16>,
    operator: Option<u16>,
    /// The greatest that the device takes, if that is a limit.
    offered: Option<u16>,
    /// What the other end wants.
    peer: Option<u16>,
    /// What the netdev was last seen with, or set to.
    last: Option<u16>,
    ipv6: bool,
}

impl Mtu {
    pub(super) fn new(config: Option<u16>, ipv6: bool) -> Self {
        Self { config, ipv6, ..Self::default() }
    }

    /// The config says this from now on.
    pub(super) fn configure(&mut self, config: Option<u16>) {
        self.config = config;
    }

    /// The netdev as it was made or found, and what the last start has noted of it.
    pub(super) fn begin(&mut self, mtu: u16, noted: Option<Borrowed>) {
        self.last = Some(mtu);
        match noted {
            // Until the other end is there again it stays.
            Some((borrowed, operator)) if borrowed == mtu => {
                self.operator = operator;
                if mtu < self.alone() {
                    self.peer = Some(mtu);
                } else {
                    self.offer(Some(mtu));
                }
            }
            // Without IPv6 where there is to be IPv6 it is nobody's wish.
            _ => {
                let wanted = mtu != MTU_DEFAULT && mtu >= self.least();
                self.operator = Some(mtu).filter(|_| wanted);
            }
        }
    }

    /// The netdev was seen with this MTU, and with IPv6 addresses or without.
    pub(super) fn seen(&mut self, mtu: u16, ipv6: bool) {
        if self.config.is_none() && self.last.is_some_and(|last| last != mtu) {
            self.operator = Some(mtu);
        }
        self.last = Some(mtu);
        self.ipv6 = ipv6;
    }

    /// The netdev was given this MTU.
    pub(super) fn set(&mut self, mtu: u16) {
        self.last = Some(mtu);
    }

    pub(super) fn offer(&mut self, offered: Option<u16>) {
        self.offered = offered.filter(|mtu| *mtu < MTU_MAX);
    }

    pub(super) fn peer(&mut self, peer: Option<u16>) {
        self.peer = peer;
    }

    /// What the netdev has.
    pub(super) fn last(&self) -> Option<u16> {
        self.last
    }

    /// What this end wants.
    pub(super) fn own(&self) -> u16 {
        self.wanted().min(self.usable(self.offered).unwrap_or(MTU_MAX))
    }

    /// What the netdev is to have.
    pub(super) fn in_force(&self) -> u16 {
        self.own().min(self.usable(self.peer).unwrap_or(MTU_MAX))
    }

    pub(super) fn borrowed(&self) -> Option<Borrowed> {
        (self.in_force() != self.alone()).then(|| (self.in_force(), self.operator))
    }

    /// What people are to know of an MTU that is not this end's own. `other` is what they call the
    /// other end.
    pub(super) fn note(&self, other: &str) -> Option<String> {
        let theirs = self.offered.into_iter().chain(self.peer).min()?;
        let (wanted, in_force) = (self.wanted(), self.in_force());
        if theirs >= wanted {
            None
        } else if theirs < self.least() {
            Some(format!(
                "the {other}'s MTU {theirs} is too small for the IPv6 addresses here, which need \
                 {MTU_MIN_IPV6}: this end keeps {in_force}"
            ))
        } else {
            Some(format!("the {other}'s MTU {in_force} is the smaller one"))
        }
    }

    /// What the netdev would have without another end.
    fn alone(&self) -> u16 {
        self.config.or(self.operator).unwrap_or(MTU_DEFAULT)
    }

    fn wanted(&self) -> u16 {
        let usable = self.usable(self.offered);
        self.config.or(self.operator).or(usable).unwrap_or(MTU_DEFAULT)
    }

    fn usable(&self, mtu: Option<u16>) -> Option<u16> {
        mtu.filter(|mtu| *mtu >= self.least())
    }

    fn least(&self) -> u16 {
        if self.ipv6 { MTU_MIN_IPV6 } else { MTU_MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A netdev that was made just now.
    fn fresh(config: Option<u16>, ipv6: bool) -> Mtu {
        let mut mtu = Mtu::new(config, ipv6);
        mtu.begin(MTU_DEFAULT, None);
        mtu
    }

    /// What the daemon does after each news; gives the MTU that the netdev then has.
    fn apply(mtu: &mut Mtu) -> u16 {
        mtu.set(mtu.in_force());
        mtu.seen(mtu.in_force(), mtu.ipv6);
        mtu.in_force()
    }

    #[test]
    fn another_config_counts_at_once_and_one_that_says_nothing_leaves_no_wish() {
        let mut mtu = fresh(None, true);
        mtu.peer(Some(1450));
        for (config, in_force) in [(Some(1400), 1400), (Some(9000), 1450), (None, 1450)] {
            mtu.configure(config);
            assert_eq!(apply(&mut mtu), in_force);
        }
        mtu.peer(None);
        assert_eq!(apply(&mut mtu), 1500);
    }

    #[test]
    fn the_other_ends_smaller_mtu_is_taken_and_given_back_and_never_told_as_our_own() {
        let mut mtu = fresh(None, true);
        mtu.peer(Some(1400));
        assert_eq!(apply(&mut mtu), 1400);
        assert_eq!(mtu.own(), 1500);
        assert_eq!(mtu.note("board").unwrap(), "the board's MTU 1400 is the smaller one");
        mtu.peer(Some(9000));
        assert_eq!(apply(&mut mtu), 1500);
        assert_eq!(mtu.note("board"), None);
    }

    #[test]
    fn what_the_operator_sets_is_wanted_from_then_on_but_no_more_than_the_other_end_wants() {
        let mut mtu = fresh(None, true);
        mtu.peer(Some(1400));
        apply(&mut mtu);
        for (set, in_force) in [(1300, 1300), (1500, 1400), (9000, 1400)] {
            mtu.seen(set, true);
            assert_eq!((mtu.own(), apply(&mut mtu)), (set, in_force));
        }
        mtu.peer(None);
        assert_eq!(apply(&mut mtu), 9000);
    }

    #[test]
    fn what_the_config_says_is_healed_unless_the_other_end_wants_less() {
        let mut mtu = fresh(Some(1500), true);
        apply(&mut mtu);
        mtu.seen(1400, true);
        assert_eq!(apply(&mut mtu), 1500);
        mtu.peer(Some(1300));
        assert_eq!(apply(&mut mtu), 1300);
        mtu.seen(1500, true);
        assert_eq!((mtu.own(), apply(&mut mtu)), (1500, 1300));
    }

    #[test]
    fn a_device_offers_the_greatest_mtu_whoever_wants_more() {
        let mut mtu = fresh(None, true);
        mtu.offer(Some(9000));
        assert_eq!(apply(&mut mtu), 9000);
        assert_eq!(mtu.note("board"), None);
        mtu.seen(65_000, true);
        assert_eq!((mtu.own(), apply(&mut mtu)), (9000, 9000));
        assert_eq!(mtu.note("board").unwrap(), "the board's MTU 9000 is the smaller one");
        // What a board offers that has no limit of its own.
        mtu.offer(Some(MTU_MAX));
        assert_eq!(apply(&mut mtu), 65_000);
    }

    #[test]
    fn an_mtu_too_small_for_ipv6_is_taken_only_where_there_is_no_ipv6() {
        for (ipv6, expected) in [(true, 1500), (false, 1000)] {
            let mut mtu = fresh(None, ipv6);
            mtu.peer(Some(1000));
            assert_eq!(apply(&mut mtu), expected);
            assert_eq!(mtu.note("master").unwrap().contains("too small for the IPv6"), ipv6);
            mtu.peer(None);
            mtu.offer(Some(1000));
            assert_eq!(apply(&mut mtu), expected);
        }
        let mut mtu = fresh(None, false);
        mtu.seen(1500, true);
        mtu.peer(Some(1279));
        assert_eq!(apply(&mut mtu), 1500, "an address that somebody has added");
    }

    #[test]
    fn a_netdev_that_a_crash_left_with_the_other_ends_mtu_goes_back_to_its_own() {
        for operator in [None, Some(9000)] {
            let mut mtu = fresh(None, true);
            operator.into_iter().for_each(|o| mtu.seen(o, true));
            mtu.peer(Some(1400));
            apply(&mut mtu);
            let noted = mtu.borrowed();
            assert_eq!(noted, Some((1400, operator)));
            let mut next = Mtu::new(None, true);
            next.begin(1400, noted);
            assert_eq!(apply(&mut next), 1400, "until the other end says something else");
            next.peer(None);
            assert_eq!(apply(&mut next), operator.unwrap_or(1500));
            assert_eq!(next.borrowed(), None);
        }
    }

    #[test]
    fn an_offer_that_was_followed_before_a_crash_is_nobodys_wish_after_it() {
        for offered in [9000, 1300] {
            let mut mtu = fresh(None, true);
            mtu.offer(Some(offered));
            apply(&mut mtu);
            let mut next = Mtu::new(None, true);
            next.begin(offered, mtu.borrowed());
            assert_eq!(apply(&mut next), offered, "until the board is there again");
            next.offer(Some(4000));
            next.peer(None);
            assert_eq!(apply(&mut next), 4000);
        }
    }

    #[test]
    fn what_was_healed_is_no_wish_for_a_start_without_that_config() {
        let mut mtu = fresh(Some(1500), true);
        mtu.seen(1400, true);
        mtu.peer(Some(1300));
        apply(&mut mtu);
        assert_eq!(mtu.borrowed(), Some((1300, None)));
    }

    #[test]
    fn any_other_mtu_that_a_crash_left_is_the_operators() {
        let mut mtu = Mtu::new(None, true);
        mtu.begin(9000, Some((1400, None)));
        assert_eq!((mtu.own(), apply(&mut mtu)), (9000, 9000));
        let mut mtu = Mtu::new(None, true);
        mtu.begin(1000, None);
        assert_eq!(apply(&mut mtu), 1500, "but not one that leaves no IPv6");
    }
}

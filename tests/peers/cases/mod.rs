//! The stories, each a claim.

mod harness;
mod vhost_net;

/// A claim.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

macro_rules! story {
    ($module:ident::$name:ident) => {
        Story { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name }
    };
}

/// Every story; those without boardlane first.
pub(crate) const ALL: &[Story] = &[
    story!(harness::testpmd_drives_testpmd_with_split_rings),
    story!(harness::testpmd_drives_testpmd_with_packed_rings),
    story!(harness::frames_that_testpmd_sends_back_are_received_again),
    story!(harness::a_guest_reaches_a_tap_through_testpmd),
    story!(harness::a_guest_of_the_systems_qemu_reaches_a_tap_through_testpmd),
    story!(harness::a_guest_reaches_a_tap_of_qemus),
    story!(harness::a_guest_that_reboots_is_back),
    story!(vhost_net::links_of_boards_are_served_by_a_guests_kernel),
    story!(vhost_net::stock_drivers_are_served_by_a_guests_kernel),
];

//! The stories, each a claim.

mod drives_testpmd;
mod guest_drives;
mod harness;
mod testpmd_drives;
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
    story!(testpmd_drives::all_that_it_sends_an_agent_counts),
    story!(testpmd_drives::what_it_sends_comes_back),
    story!(testpmd_drives::it_answers_echoes_of_a_tap),
    story!(guest_drives::split_rings_carry_tcp_both_ways),
    story!(guest_drives::packed_rings_carry_tcp_both_ways),
    story!(guest_drives::split_rings_without_mergeable_buffers_carry_tcp_both_ways),
    story!(guest_drives::packed_rings_without_mergeable_buffers_carry_tcp_both_ways),
    story!(guest_drives::plain_rings_without_offloads_carry_tcp_both_ways),
    story!(guest_drives::a_guest_of_the_systems_qemu_carries_tcp_both_ways),
    story!(guest_drives::two_pairs_of_split_rings_share_the_streams),
    story!(guest_drives::two_pairs_of_packed_rings_share_the_streams),
    story!(guest_drives::offloads_go_off_and_on_again),
    story!(guest_drives::a_driver_that_wants_rings_of_another_size_is_refused),
    story!(guest_drives::frames_of_a_large_mtu_pass),
    story!(guest_drives::a_driver_that_is_unbound_and_bound_is_back),
    story!(guest_drives::a_guest_that_reboots_is_back),
    story!(guest_drives::a_reset_in_the_middle_of_traffic_is_survived),
    story!(guest_drives::a_guest_killed_in_the_middle_of_traffic_makes_room_for_another),
    story!(guest_drives::an_agent_killed_in_the_middle_of_traffic_is_found_again),
    story!(drives_testpmd::all_that_it_sends_a_master_counts),
    story!(drives_testpmd::what_it_sends_comes_back),
    story!(drives_testpmd::it_answers_echoes_of_a_tap),
    story!(drives_testpmd::a_device_that_comes_back_is_found_again),
    story!(vhost_net::links_of_boards_are_served_by_a_guests_kernel),
    story!(vhost_net::links_without_a_feature_are_served_by_a_guests_kernel),
    story!(vhost_net::stock_drivers_are_served_by_a_guests_kernel),
];

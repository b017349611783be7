//! The stories, each a claim.

mod harness;
mod netdevs;
mod s390x;

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

/// Every story; those without boardlane in the guest first.
pub(crate) const ALL: &[Story] = &[
    story!(harness::a_slot_is_a_function_that_vfio_takes),
    story!(netdevs::vlans_on_both_ends_carry_full_frames),
    story!(netdevs::links_in_vrfs_are_reached_by_their_tables_only),
    story!(netdevs::networks_behind_boards_are_reached_through_their_links),
    story!(s390x::split_rings_carry_traffic_both_ways),
    story!(s390x::packed_rings_carry_traffic_both_ways),
    story!(s390x::rings_without_offloads_carry_traffic_both_ways),
    story!(s390x::resets_in_the_middle_of_traffic_are_survived),
];

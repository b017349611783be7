//! The stories, each a claim.

mod bad;
mod both;
mod harness;
mod heal;
mod hotplug;
mod netdevs;
mod probe;
mod s390x;
mod sysfs;
mod vfio;

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
    story!(vfio::a_master_carries_traffic_by_interrupts),
    story!(vfio::the_lowest_function_is_found),
    story!(vfio::a_master_that_is_killed_is_back),
    story!(vfio::a_function_that_is_removed_is_missed_and_found_again),
    story!(vfio::a_reset_of_the_guest_under_traffic_is_survived),
    story!(vfio::a_backplane_that_restarts_takes_a_new_guest),
    story!(both::an_agent_by_vfio_serves_a_master_by_vfio),
    story!(both::an_agent_by_a_uio_device_polls_as_its_master_does),
    story!(sysfs::a_master_carries_traffic_and_polls),
    story!(sysfs::a_function_without_an_iommu_is_polled_by_itself),
    story!(probe::a_live_link_an_empty_slot_and_a_foreign_function_are_told_apart),
    story!(hotplug::a_pattern_has_a_link_for_each_function_that_is_there),
    story!(hotplug::an_entry_of_its_own_goes_before_a_pattern),
    story!(bad::functions_that_are_absent_foreign_or_held_are_named),
    story!(bad::vfio_without_an_iommu_is_named),
    story!(bad::vfio_pci_that_is_not_loaded_is_named),
    story!(bad::a_locked_kernel_is_named),
    story!(netdevs::vlans_on_both_ends_carry_full_frames),
    story!(netdevs::links_in_vrfs_are_reached_by_their_tables_only),
    story!(netdevs::the_model_with_a_vrf_keeps_boards_to_its_table),
    story!(netdevs::networks_behind_boards_are_reached_through_their_links),
    story!(heal::vlans_and_vrfs_are_made_healed_and_gone_again),
    story!(s390x::split_rings_carry_traffic_both_ways),
    story!(s390x::packed_rings_carry_traffic_both_ways),
    story!(s390x::rings_without_offloads_carry_traffic_both_ways),
    story!(s390x::resets_in_the_middle_of_traffic_are_survived),
];

//! The cases, each a claim about what an operator sees.

mod access;
mod amp;
mod announce;
mod basics;
mod bridge;
mod capture;
mod clean;
mod config;
mod confine;
mod crate_of_boards;
pub(crate) mod cycles;
mod dead;
mod demo;
#[cfg(feature = "doctor")]
mod doctor;
mod engine;
mod features;
mod flood;
mod front_end;
mod heal;
pub(crate) mod hostile;
mod idle;
mod life;
mod limits;
pub(crate) mod matrix;
mod metrics;
mod models;
mod moves;
mod netdev_keys;
mod netdev_state;
mod ports;
mod probe_slot;
mod reload;
mod service;
mod status_table;
mod stock;
pub(crate) mod vhost_net;

/// A claim and what it needs beyond `ip`.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
    pub(crate) needs: &'static [&'static str],
}

macro_rules! case {
    ($module:ident$(::$name:ident)+ $(, $tool:literal)*) => {
        Case { name: concat!(stringify!($module) $(, "::", stringify!($name))+), run: $module$(::$name)+, needs: &[$($tool),*] }
    };
}

/// Every case, the long ones first.
pub(crate) const ALL: &[Case] = &[
    case!(cycles::each_that_is_killed_is_back_and_leaves_nothing),
    case!(cycles::each_that_is_stopped_is_back_with_the_netdev_that_it_kept),
    case!(cycles::each_that_is_stopped_is_back_with_a_netdev_made_anew),
    case!(cycles::those_that_are_killed_together_are_back_in_whatever_order),
    case!(life::an_agent_killed_ten_times_comes_back_and_disturbs_no_other_board),
    case!(features::a_board_without_one_feature_has_a_link_that_works),
    case!(features::a_master_without_one_feature_has_a_link_that_works),
    case!(features::ethtool_shows_what_was_negotiated, "ethtool"),
    case!(features::iperf3_passes_without_each_feature, "iperf3", "ss"),
    case!(
        crate_of_boards::sixty_four_boards_by_one_entry_reach_each_other_and_a_reload_touches_one
    ),
    case!(models::a_crate_whose_boards_reach_each_other_and_a_network_behind_one),
    case!(models::a_midplane_whose_boards_reach_the_master_only),
    case!(models::boards_on_the_network_outside),
    case!(basics::a_link_comes_up_and_carries_v4_and_v6_both_ways),
    case!(basics::counters_of_status_equal_those_of_the_kernel),
    #[cfg(feature = "doctor")]
    case!(doctor::a_machine_at_work_is_well_and_what_goes_wrong_is_told),
    #[cfg(feature = "doctor")]
    case!(doctor::two_daemons_with_one_control_socket_are_told),
    case!(status_table::a_row_shows_state_age_rates_and_flaps),
    case!(basics::an_mtu_of_68_carries_v4, "ping"),
    case!(basics::an_mtu_of_9000_carries_frames_of_that_size, "ping"),
    case!(basics::an_mtu_of_65000_carries_frames_of_that_size, "ping"),
    case!(basics::the_smaller_mtu_wins_at_the_master, "ping"),
    case!(life::a_backplane_that_comes_last_is_waited_for),
    case!(life::an_agent_that_comes_last_is_waited_for),
    case!(life::a_master_that_comes_last_is_waited_for),
    case!(life::a_tcp_connection_outlives_both_daemons),
    case!(life::a_master_killed_and_restarted_has_its_links_back),
    case!(life::a_link_outlives_its_backplane_and_moves_to_the_next_one),
    case!(life::a_link_that_lost_backplane_and_agent_comes_back),
    case!(life::a_killed_daemons_netdev_has_no_carrier),
    case!(moves::ends_move_to_a_backplane_of_another_shape),
    case!(moves::a_link_whose_slot_is_no_more_goes_on_until_an_end_is_lost),
    case!(moves::an_end_that_finds_the_next_backplane_first_waits_for_the_other),
    case!(moves::ends_find_the_last_of_several_backplanes),
    case!(front_end::a_master_and_an_agent_carry_v4_and_v6_whoever_listens),
    case!(front_end::an_end_that_was_killed_or_stopped_is_back_whoever_listens),
    case!(front_end::a_board_that_is_set_down_takes_the_masters_carrier),
    case!(front_end::a_master_takes_the_address_that_the_device_gives_unless_its_config_has_one),
    case!(
        front_end::a_back_end_that_does_not_keep_to_the_protocol_is_named_and_a_good_one_then_taken
    ),
    case!(front_end::a_back_end_that_hangs_is_given_up),
    case!(front_end::descriptors_of_a_back_end_that_linger_hold_up_nobody),
    case!(front_end::descriptors_that_linger_in_a_backlog_hold_up_nobody),
    case!(life::an_orderly_stop_is_told_at_once_and_removes_the_netdev),
    case!(life::two_daemons_never_share_a_netdev),
    case!(life::a_netdev_to_be_kept_stays_without_a_carrier),
    case!(service::a_netdev_is_left_to_the_next_start_if_that_is_asked_for),
    case!(service::the_service_manager_hears_how_a_daemon_is),
    case!(life::a_netdev_that_somebody_deletes_is_made_again),
    case!(life::a_netdev_that_the_operator_sets_down_stays_down_until_he_sets_it_up),
    case!(clean::what_killed_daemons_left_is_removed_and_nothing_else),
    case!(clean::what_is_alive_is_not_cleaned),
    case!(clean::a_netdev_in_a_named_namespace_is_cleaned_after_its_config),
    case!(clean::what_may_not_be_cleaned_is_named, "setpriv"),
    case!(probe_slot::a_live_link_is_told_by_both_daemons_and_by_a_look_without_them),
    case!(probe_slot::one_end_alone_is_told_from_one_that_died),
    case!(probe_slot::a_window_that_is_none_of_ours_is_named_for_what_it_is),
    case!(config::a_boards_mac_is_the_masters_choice_and_stays),
    case!(config::a_mac_in_a_config_wins),
    case!(config::a_netdev_appears_in_the_namespace_that_the_config_names),
    case!(config::a_link_whose_ends_speak_dialect_v1_comes_up),
    case!(config::a_master_says_that_its_board_speaks_another_dialect),
    case!(config::a_bad_config_ends_with_2_and_changes_nothing),
    case!(config::a_second_daemon_on_one_control_socket_is_refused),
    case!(config::a_second_agent_on_one_slot_waits_for_the_first_to_go),
    case!(config::a_second_master_on_one_slot_waits_for_the_first_to_go),
    case!(config::an_agent_without_permission_says_so_once_and_in_status, "setpriv"),
    case!(config::an_agent_without_tun_says_so_and_heals_when_it_appears, "unshare", "nsenter"),
    case!(confine::every_thread_of_every_process_is_confined_under_traffic),
    case!(confine::a_namespace_is_entered_by_name_by_path_and_by_a_process_in_it),
    case!(confine::a_daemon_whose_broker_is_killed_stops_in_an_orderly_way),
    case!(confine::a_daemon_whose_broker_hangs_in_a_reload_can_be_stopped),
    case!(confine::a_broker_ends_with_its_daemon_and_not_by_a_signal_meant_for_it),
    case!(confine::each_part_of_it_can_be_left_out_by_name),
    case!(confine::daemons_of_a_user_without_rights_are_confined_too, "setpriv"),
    case!(netdev_keys::a_bridge_that_comes_late_gets_its_ports_and_gets_them_back, "ping"),
    case!(netdev_keys::peers_and_tables_are_healed_and_taken_back_also_after_a_crash),
    case!(netdev_keys::packets_are_forwarded_between_boards_where_that_is_asked_for, "ping"),
    case!(netdev_keys::what_is_not_to_be_reconciled_is_reported),
    case!(netdev_state::an_mtu_set_with_ip_reaches_the_other_end_and_goes_back),
    case!(netdev_state::a_greater_mtu_set_with_ip_needs_both_ends),
    case!(netdev_state::the_smaller_mtu_of_two_configs_wins_and_stays),
    case!(netdev_state::an_mtu_above_the_boards_config_is_cut_to_it),
    case!(netdev_state::an_mtu_too_small_for_ipv6_does_not_take_the_other_ends_addresses),
    case!(netdev_state::a_netdev_set_down_takes_the_other_ends_carrier_and_nothing_else),
    case!(netdev_state::two_netdevs_set_down_have_their_carriers_when_both_are_up_again),
    case!(netdev_state::a_daemon_that_starts_hears_that_the_other_end_is_set_down),
    case!(netdev_state::a_killed_daemons_mtu_is_still_the_other_ends),
    case!(netdev_state::a_boards_mtu_taken_before_a_crash_is_not_the_masters_after_it),
    case!(netdev_state::a_tcp_connection_outlives_changes_of_the_mtu),
    case!(netdev_state::a_mac_set_with_ip_stays_and_is_seen_at_the_other_end),
    case!(netdev_state::changes_without_a_pause_end_in_the_last_one),
    case!(heal::each_thing_that_is_broken_is_set_again_and_others_stay),
    case!(heal::who_keeps_setting_the_opposite_is_told_of_and_does_not_keep_the_daemon_busy),
    case!(heal::places::a_name_that_is_taken_meanwhile_is_told_and_had_again_once_it_is_free),
    case!(
        heal::places::a_netdev_whose_name_is_taken_at_home_stays_where_it_was_moved_until_it_is_free
    ),
    case!(heal::places::a_netdev_whose_name_is_taken_is_gone_when_its_link_begins_anew),
    case!(heal::places::a_namespace_that_vanishes_is_waited_for_and_no_other_link_notices),
    case!(reload::links_come_and_go_and_the_others_do_not_notice),
    case!(reload::addresses_routes_and_a_masters_mtu_change_while_the_link_runs),
    case!(reload::a_link_that_has_to_begin_anew_keeps_its_netdev_and_is_alone_in_it),
    case!(reload::names_that_swap_their_slots_meet_each_others_boards),
    case!(reload::a_config_that_is_wrong_or_moves_the_control_socket_changes_nothing),
    case!(reload::a_hang_up_reads_the_config_again),
    case!(reload::reloads_at_once_come_one_after_the_other),
    case!(reload::a_link_that_waits_for_its_backplane_is_changed_and_removed),
    case!(reload::a_netdev_moves_to_the_namespace_that_a_new_config_names),
    case!(reload::a_daemon_whose_terminal_is_gone_stops, "script"),
    case!(reload::a_daemon_that_nohup_started_outlives_its_terminal, "script", "nohup"),
    case!(amp::two_ends_carry_v4_and_v6_and_leave_the_window_to_messages),
    case!(amp::two_queue_pairs_and_the_control_queue_work_by_messages),
    case!(amp::an_end_that_was_killed_or_stopped_is_back_and_a_connection_lives_through_it),
    case!(amp::ends_that_are_killed_together_and_under_traffic_are_back),
    case!(amp::an_end_that_hangs_is_silent_and_has_its_link_back_when_it_goes_on),
    case!(amp::a_bus_without_its_backplane_tells_by_its_messages_who_is_gone),
    case!(amp::indices_and_octets_of_a_strangers_making_cost_the_link_and_nothing_else),
    case!(access::a_client_without_the_right_is_refused, "setpriv"),
    case!(access::a_slot_belongs_to_whom_the_backplane_is_told, "setpriv"),
    case!(bridge::frames_of_a_plain_tap_come_out_of_another_intact),
    case!(engine::an_engine_that_takes_a_millisecond_carries_tcp_both_ways),
    case!(engine::a_board_that_reaches_the_masters_memory_by_engine_only_carries_tcp),
    case!(engine::each_frame_that_the_engine_spoils_is_counted, "ping"),
    case!(matrix::the_checker_misses_the_frames_that_an_engine_spoils_and_no_other),
    case!(idle::daemons_sleep_from_heartbeat_to_heartbeat_and_after_a_burst_again),
    case!(idle::workers_run_on_the_cpus_of_their_config_and_anywhere_without_them),
    case!(limits::spoofed_frames_do_not_come_out_and_are_counted_by_reason),
    case!(limits::honest_boards_notice_nothing_of_their_masters_lists),
    case!(limits::a_source_that_the_board_changes_while_it_is_received_never_comes_out),
    case!(limits::a_flood_is_held_to_the_rate_and_a_second_board_has_its_share),
    case!(limits::a_tcp_stream_is_held_to_the_rate_without_a_drop),
    case!(
        metrics::an_independent_parser_takes_them_and_they_agree_with_the_kernel,
        "python3 prometheus_client"
    ),
    case!(metrics::counters_go_on_through_restarts_of_the_other_end_and_reloads),
    case!(metrics::a_port_in_use_is_said_once_and_had_when_it_is_free),
    case!(metrics::a_reload_moves_them_and_takes_them_away),
    case!(metrics::clients_that_are_slow_or_many_or_mad_hold_up_nobody),
    case!(ports::frames_come_back_from_a_board_that_echoes_unaltered_and_in_order),
    case!(ports::frames_come_back_from_a_board_that_echoes_by_engine),
    case!(ports::frames_come_back_from_a_master_that_echoes),
    case!(ports::each_of_two_queue_pairs_echoes_by_itself),
    case!(ports::an_end_that_discards_counts_each_frame_and_sends_none),
    case!(ports::an_end_without_a_netdev_makes_none_and_says_so_in_status),
    case!(ports::an_echo_that_is_killed_echoes_again_after_its_restart),
    case!(ports::a_frame_whose_offload_may_not_go_back_is_counted),
    case!(
        vhost_net::a_board_whose_kernel_has_no_vhost_net_says_so_and_moves_frames_itself,
        "unshare"
    ),
    case!(
        vhost_net::the_kernel_carries_v4_and_v6_both_ways_and_its_frames_are_counted,
        "/dev/vhost-net"
    ),
    case!(vhost_net::each_feature_may_be_missing, "/dev/vhost-net"),
    case!(vhost_net::two_queue_pairs_are_served_at_once, "/dev/vhost-net"),
    case!(vhost_net::ends_that_are_killed_and_stopped_are_back, "/dev/vhost-net"),
    case!(vhost_net::a_netdev_that_is_set_down_and_up_is_back, "/dev/vhost-net"),
    case!(vhost_net::an_mtu_of_9000_carries_frames_of_that_size, "/dev/vhost-net"),
    case!(
        vhost_net::a_ring_that_the_kernel_finds_broken_stops_the_link_until_it_is_reset,
        "/dev/vhost-net"
    ),
    case!(
        stock::offloads::no_offload_comes_by_vhost_net_that_the_driver_has_turned_off,
        "/dev/vhost-net",
        "ethtool"
    ),
    case!(stock::queues::pairs_come_and_go_under_traffic_by_vhost_net, "/dev/vhost-net"),
    case!(
        stock::queues::a_queue_reset_a_hundred_times_by_vhost_net_disturbs_no_other,
        "/dev/vhost-net"
    ),
    case!(capture::tshark_shows_both_directions_of_a_ping_while_it_reads, "tshark"),
    case!(capture::each_end_shows_its_frames_whole_in_order_and_soon),
    case!(capture::every_kind_of_rings_and_path_is_seen),
    case!(capture::frames_of_each_queue_pair_bear_its_number),
    case!(capture::a_port_that_echoes_or_discards_shows_what_comes_and_goes),
    case!(capture::dropped_frames_are_shown_with_their_reason_and_alone_if_that_is_wanted),
    case!(capture::a_frame_that_the_other_end_spoils_is_shown_with_its_start),
    case!(capture::a_tcp_stream_s_large_frames_say_what_they_are),
    case!(capture::a_reader_that_is_stopped_loses_frames_and_costs_the_link_nothing),
    case!(capture::a_capture_that_is_killed_is_over_and_only_a_few_are_taken_at_once),
    case!(capture::a_capture_whose_fifo_nobody_reads_is_ended_by_a_signal),
    case!(capture::a_capture_outlives_restarts_of_its_link_and_ends_with_it_or_its_daemon),
    case!(demo::the_demo_is_ok_and_leaves_nothing),
    case!(hostile::a_window_of_garbage_is_named_and_heals_when_an_agent_comes),
    case!(hostile::a_slot_claimed_by_a_stranger_is_waited_for_until_it_goes),
    case!(hostile::random_messages_harm_no_other_link),
    case!(hostile::garbled_messages_harm_no_other_link),
    case!(hostile::a_message_count_that_jumps_quarantines_the_link),
    case!(hostile::a_used_index_that_jumps_quarantines_the_link),
    case!(hostile::a_used_entry_that_was_never_available_quarantines_the_link),
    case!(hostile::garbage_all_over_the_rings_quarantines_the_link),
    case!(hostile::a_garbled_available_ring_stops_the_boards_link_until_its_master_goes),
    case!(dead::a_daemon_that_hangs_is_silent_and_has_its_link_back_when_it_goes_on),
    case!(dead::a_board_whose_memory_reads_as_all_ones_is_a_dead_link_and_no_offender),
    case!(dead::a_board_that_takes_no_messages_is_kept_away),
    case!(dead::a_master_that_takes_no_messages_is_kept_away),
    case!(dead::split_queues_lose_doorbells_and_no_frames),
    case!(dead::packed_queues_lose_doorbells_and_no_frames),
    case!(flood::a_flood_of_any_kind_takes_no_memory_and_no_frame_of_another_link),
    case!(flood::a_board_that_comes_and_goes_without_end_fills_neither_log_nor_memory),
    case!(flood::a_board_that_holds_whoever_rings_it_keeps_no_link_and_no_daemon_from_ending),
    case!(flood::an_agent_is_not_held_by_another_client_of_its_slot),
    case!(stock::filters::a_driver_gets_the_frames_that_it_asks_for_and_the_rest_is_counted),
    case!(stock::filters::an_engine_copies_only_the_frames_that_the_driver_asks_for),
    case!(stock::filters::a_driver_gets_tagged_frames_of_the_vlans_that_it_adds),
    case!(stock::misuse::features_whose_needs_are_not_met_are_refused_by_name),
    case!(stock::misuse::commands_that_make_no_sense_are_refused),
    case!(stock::misuse::commands_of_features_not_negotiated_are_refused),
    case!(stock::misuse::a_broken_control_queue_needs_a_reset_and_harms_no_later_session),
    case!(stock::misuse::a_driver_that_floods_takes_no_memory_and_keeps_no_agent_from_ending),
    case!(stock::offloads::no_offload_comes_that_the_driver_has_turned_off, "ethtool"),
    case!(stock::offloads::no_offload_comes_by_engine_that_the_driver_has_turned_off, "ethtool"),
    case!(stock::notices::a_driver_that_coalesces_is_told_seldom_and_of_everything),
    case!(stock::notices::a_driver_is_asked_to_announce_itself_until_it_has_and_hears_the_board),
    case!(stock::queues::pairs_come_and_go_under_traffic),
    case!(stock::queues::pairs_come_and_go_under_traffic_by_engine),
    case!(stock::queues::a_queue_reset_a_hundred_times_disturbs_no_other),
    case!(stock::queues::a_queue_reset_a_hundred_times_by_engine_disturbs_no_other),
    case!(stock::queues::an_engine_too_slow_for_a_queue_reset_is_named_and_needs_a_reset),
    case!(announce::a_masters_address_moves_in_the_boards_bridge, "bridge", "sysctl"),
    case!(announce::a_boards_address_moves_in_the_masters_bridge, "bridge", "sysctl"),
];

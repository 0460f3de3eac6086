"""The eighty edge cases: what each one is, what must happen, and the tests that prove it.

`asks` says where something must happen: K, a check tells it on a user's project; C, the core acts; P, pytest itself does.
A proof is `topic::test` (tests/edge/test_<topic>.py, `test_<test>`) or `room/topic::test` (tests/<room>/test_<topic>.py).
`python ci/gen_edge_cases.py` writes docs/edge-cases.md from this; tests/repo/test_edge_cases.py holds both to the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "CATEGORIES", "WHERE", "Case"]

CATEGORIES = (
    "Data", "Model and checkpoint", "GPU and memory", "Configuration",
    "Process and system", "Queue of training files", "Training flow", "Code",
)  # fmt: skip
"""Ten cases each, in this order."""
WHERE = {"K": "a check on a user's project", "C": "the core", "P": "pytest"}


@dataclass(frozen=True)
class Case:
    """One edge case: its number, what it is, what must happen, and by letter of `asks` the tests that prove it."""

    number: int
    asks: str
    title: str
    happens: str
    proofs: dict[str, tuple[str, ...]]

    @property
    def category(self) -> str:
        """The category of its ten."""
        return CATEGORIES[(self.number - 1) // 10]


def _case(number: int, asks: str, title: str, happens: str, **proofs: str) -> Case:
    return Case(
        number, asks, title, happens, {where: tuple(named.split()) for where, named in proofs.items()}
    )


# fmt: off
CASES = (
    # Data
    _case(1, "KC", "a training file without rows",
          "an error names the file; the core refuses before a model is loaded",
          K="data::edge_01_a_file_without_rows_is_an_error_that_names_it",
          C="data::edge_01_data_are_refused_before_a_model_is_loaded data::edge_01_preference_training_refuses_rows_without_pairs "
            "core/encoding::no_rows_are_refused"),
    _case(2, "K", "fewer rows than one effective batch",
          "an error with rows, batch, accumulation, processes and the steps that result",
          K="data::edge_02_fewer_rows_than_a_step_are_told_with_the_arithmetic"),
    _case(3, "KC", "rows longer than max_length",
          "rate, longest rows, lost responses and terminators; the core cuts the prompt or drops the row, and counts",
          K="data::edge_03_rows_that_max_length_cuts_are_counted_with_what_they_lose",
          C="core/encoding::truncation_takes_the_start_of_the_prompt "
            "core/encoding::rows_that_are_too_long_are_dropped_or_refused_as_asked"),
    _case(4, "K", "lines that are no JSON",
          "one finding with every bad line as file:line:column and its reason; good lines are still judged",
          K="data::edge_04_every_bad_line_is_told_in_one_finding"),
    _case(5, "K", "a column is missing", "rows, the keys that are there, the nearest name",
          K="data::edge_05_a_missing_column_is_told_with_the_keys_that_are_there"),
    _case(6, "KC", "a conversation without messages",
          "an error with the rows; the core drops and counts them",
          K="data::edge_06_conversations_without_messages_are_told_with_their_rows",
          C="core/encoding::rows_that_cannot_be_trained_on_are_counted"),
    _case(7, "K", "roles that nobody knows",
          "each with its count, and those that the template drops in silence",
          K="data::edge_07_roles_that_nobody_knows_are_told_and_those_that_the_template_drops"),
    _case(8, "K", "contents that are no text",
          "an error with type and row; the words None and nan are told, too",
          K="data::edge_08_contents_that_are_no_text_are_told_with_type_and_row data::edge_08_the_words_for_nothing_are_told"),
    _case(9, "K", "text that is damaged or only looks so",
          "byte offset of what is broken, the likely original of mojibake; sound Unicode passes and survives the tokenizer",
          K="data::edge_09_sound_unicode_passes_and_survives_the_tokenizer data::edge_09_broken_characters_are_told_with_their_byte "
            "data::edge_09_bytes_that_are_no_utf8_are_told_with_their_offset data::edge_09_mojibake_is_a_warning_with_the_likely_original"),
    _case(10, "K", "a file of gigabytes",
          "it is streamed: the memory of the audit does not grow with the file",
          K="data::edge_10_memory_does_not_grow_with_the_file data::edge_10_a_gigabyte_is_audited_in_the_memory_of_a_small_file "
            "data::edge_10_rows_on_disk_are_those_of_memory"),
    # Model and checkpoint
    _case(11, "K", "no base model at the path",
          "an error in milliseconds with near names of that folder; no download",
          K="model_and_checkpoint::edge_11_a_model_that_is_not_there_is_told_at_once_with_near_names "
            "model_and_checkpoint::edge_11_the_last_of_several_models_is_missed_before_the_first_answers "
            "model_and_checkpoint::edge_11_model_path_stands_for_the_model_and_for_nothing_beside_it"),
    _case(12, "K", "weights cut off or a shard missing",
          "told from headers, index and sizes, without loading: which shard",
          K="model_and_checkpoint::edge_12_the_shard_that_is_not_whole_is_told_from_headers "
            "model_and_checkpoint::edge_12_weights_are_judged_without_being_loaded"),
    _case(13, "KC", "an adapter of another base",
          "base, widths, vocabulary and target modules are compared; the core refuses",
          K="model_and_checkpoint::edge_13_an_adapter_of_another_base_is_told_by_what_differs",
          C="core/loading::adapters_are_verified_against_their_base"),
    _case(14, "C", "no checkpoint yet", "the run starts fresh and says so",
          C="model_and_checkpoint::edge_14_without_a_checkpoint_it_starts_fresh_and_says_so"),
    _case(15, "KC", "an empty checkpoint folder", "it is named, and passed over by the core",
          K="model_and_checkpoint::edge_15_the_checks_name_what_cannot_be_resumed_from "
            "model_and_checkpoint::edge_15_a_checkpoint_of_accelerate_needs_no_state_of_a_trainer",
          C="model_and_checkpoint::edge_15_an_empty_checkpoint_is_passed_over "
            "core/checkpoints::edges_15_16_17_62_a_checkpoint_that_is_not_whole_is_passed_over_with_the_reason"),
    _case(16, "C", "a checkpoint without trainer_state.json",
          "passed over for the newest whole one, with the reason",
          C="model_and_checkpoint::edge_16_a_checkpoint_without_its_state_is_passed_over "
            "core/checkpoints::edges_15_16_17_62_a_checkpoint_that_is_not_whole_is_passed_over_with_the_reason"),
    _case(17, "C", "trainer_state.json is no JSON", "the same, with the place of the mistake",
          C="model_and_checkpoint::edge_17_a_checkpoint_whose_state_is_no_json_is_passed_over "
            "core/checkpoints::edges_15_16_17_62_a_checkpoint_that_is_not_whole_is_passed_over_with_the_reason"),
    _case(18, "C", "the checkpoint of another model",
          "refused with the tensors that differ in name or shape",
          C="model_and_checkpoint::edge_18_the_checkpoint_of_a_different_model_is_refused"),
    _case(19, "KC", "a checkpoint of an old format",
          "which one it is and how to convert it; the core loads what transformers loads",
          K="model_and_checkpoint::edge_19_an_old_format_is_told_with_the_way_to_convert_it",
          C="model_and_checkpoint::edge_19_a_checkpoint_of_the_old_format_goes_on_bit_for_bit"),
    _case(20, "C", "a save cut off half-way", "never chosen as newest",
          C="model_and_checkpoint::edge_20_a_save_that_is_cut_off_is_never_chosen "
            "core/checkpoints::edge_20_a_save_cut_off_is_never_chosen_and_is_cleared_away"),
    # GPU and memory
    _case(21, "C", "memory ends while a model is loaded",
          "one error with what was wanted and what there is; nothing stays allocated",
          C="gpu_and_memory::edge_21_memory_that_ends_while_loading core/loading::too_little_memory_is_told_before_anything_is_allocated"),
    _case(22, "KC", "memory ends while rows are tokenised", "estimated before the run; the core streams",
          K="gpu_and_memory::edge_22_tokenised_rows_are_estimated_against_what_the_container_leaves",
          C="gpu_and_memory::edge_22_the_core_encodes_without_holding_all_rows core/encoding::rows_are_a_dataset_and_a_stream"),
    _case(23, "C", "memory ends in a training step",
          "half the micro-batch, twice the accumulation, the same batch in the same order; at one row a clear error",
          C="gpu_and_memory::edge_23_without_recovery_the_witness_dies "
            "gpu_and_memory::edge_23_a_run_out_of_memory_ends_with_the_weights_of_one_with_small_micro_batches "
            "gpu_and_memory::edge_23_a_late_out_of_memory_does_the_whole_step_again "
            "gpu_and_memory::edge_23_one_row_that_does_not_fit_ends_the_run_with_the_numbers"),
    _case(24, "KC", "the host's memory ends",
          "what is needed against the limit of the container; a child that is killed is told as such",
          K="gpu_and_memory::edge_24_the_run_is_judged_by_the_limit_of_the_container",
          C="gpu_and_memory::edge_24_a_child_that_the_kernel_kills_is_told_as_such"),
    _case(25, "C", "the disk is full while saving",
          "the checkpoint before is whole, nothing is left of the new one; path, errno and bytes are told",
          C="gpu_and_memory::edge_25_a_full_disk_leaves_the_checkpoint_before "
            "gpu_and_memory::edge_25_a_file_that_may_grow_no_further_leaves_the_checkpoint_before"),
    _case(26, "PC", "no GPU",
          "`--gpu` is a usage error; the core says that it takes the CPU, and refuses a GPU asked for",
          P="gpu_and_memory::edge_26_gpu_is_a_usage_error_where_there_is_none plugin/option_gpu::with_it_and_none_nothing_runs",
          C="gpu_and_memory::edge_26_the_core_takes_the_cpu_and_says_so "
            "gpu_and_memory::edge_26_a_device_that_is_not_there_is_refused_by_name"),
    _case(27, "PC", "several GPUs", "one worker has one of those that the caller may see",
          P="plugin/placement::one_worker_a_gpu_in_the_order_of_the_list "
            "plugin/placement::eight_workers_keep_to_the_one_device_of_the_caller",
          C="gpu_and_memory::edge_27_devices_are_those_that_the_caller_may_use"),
    _case(28, "PC", "the GPU fails in the middle of a run",
          "that process does nothing more with it, and the run can be resumed",
          P="plugin/placement::a_lost_context_ends_the_gpu_tests_of_its_process",
          C="gpu_and_memory::edge_28_a_lost_device_stops_the_run_at_once "
            "gpu_and_memory::edge_28_a_run_whose_device_was_lost_goes_on_in_a_new_process "
            "gpu_and_memory::edge_28_what_a_child_started_ends_with_it"),
    _case(29, "C", "the GPU's memory is fragmented",
          "allocated, reserved, largest free block and the setting that helps",
          C="gpu_and_memory::edge_29_fragmentation_is_told_with_its_numbers_and_the_setting"),
    _case(30, "K", "the machine swaps", "how much it reads back each second",
          K="gpu_and_memory::edge_30_a_machine_that_swaps_is_told_with_its_rate "
            "gpu_and_memory::edge_30_this_machine_is_looked_at_once_for_real"),
    # Configuration
    _case(31, "K", "the config file is missing", "an error with the paths tried",
          K="configuration::edge_31_a_missing_config_is_told_with_the_paths_tried"),
    _case(32, "K", "the config cannot be parsed", "an error with line and column",
          K="configuration::edge_32_a_config_that_cannot_be_parsed_is_told_with_line_and_column "
            "configuration::edge_32_pytest_tells_it_as_a_user_starts_it"),
    _case(33, "K", "max_length below the shortest row", "an error with the lengths as they are distributed",
          K="configuration::edge_33_a_max_length_below_every_row_is_told_with_the_lengths"),
    _case(34, "K", "max_length beyond the context or the memory",
          "the context of the model; an estimate that says fits, tight or does not fit",
          K="configuration::edge_34_a_max_length_beyond_the_context_is_told_with_the_models_own "
            "configuration::edge_34_a_max_length_is_judged_by_the_memory_in_three_values"),
    _case(35, "KC", "a batch of 0 rows", "refused with the range",
          K="configuration::edge_35_a_batch_of_no_rows_is_out_of_range",
          C="configuration::edge_35_a_batch_of_no_rows_is_out_of_range "
            "core/config::a_bad_value_is_refused_with_its_reason_and_the_way_out"),
    _case(36, "K", "a batch too large for the memory", "an estimate with its interval",
          K="configuration::edge_36_a_batch_too_large_for_the_memory_is_told_with_an_interval"),
    _case(37, "KC", "a learning rate of 0", "refused with the range",
          K="configuration::edge_37_a_learning_rate_of_nought_is_refused",
          C="configuration::edge_37_a_learning_rate_of_nought_is_refused "
            "core/config::a_bad_value_is_refused_with_its_reason_and_the_way_out"),
    _case(38, "KC", "a learning rate too high", "judged by method; the core ends a run that diverges",
          K="configuration::edge_38_a_learning_rate_is_judged_by_the_method",
          C="configuration::edge_38_a_run_that_diverges_is_stopped "
            "core/config::a_rate_that_is_right_for_sft_is_refused_for_preference_training"),
    _case(39, "K", "a model name that nobody has", "near names in the local cache",
          K="configuration::edge_39_a_model_name_that_nobody_has_is_told_with_near_names"),
    _case(40, "K", "the tokenizer of another model",
          "vocabulary against embedding rows, special ids against both configs",
          K="configuration::edge_40_a_tokenizer_of_another_model_is_told_by_its_size "
            "configuration::edge_40_special_ids_are_held_against_both_configs"),
    # Process and system
    _case(41, "C", "killed while training",
          "the run resumes, and ends with the weights of one that was not",
          C="process_and_system::edge_41_killed_at_random_points_it_goes_on_bit_for_bit "
            "process_and_system::edge_41_killed_at_200_random_points"),
    _case(42, "C", "the power goes",
          "files are flushed before they are renamed: the newest whole checkpoint is there",
          C="process_and_system::edge_42_the_model_of_a_power_loss_sees_a_flush_that_is_missing "
            "process_and_system::edge_42_a_power_loss_never_takes_a_checkpoint_that_was_saved "
            "process_and_system::edge_42_power_losses_by_the_thousand"),
    _case(43, "C", "files of a daemon from before the reboot", "recognised, and cleared away",
          C="process_and_system::edge_43_a_daemon_that_was_killed_leaves_nothing_in_the_way "
            "process_and_system::edge_43_the_lock_of_a_daemon_before_the_reboot_is_no_lock"),
    _case(44, "KC", "errors of the disk", "path and errno; nothing half-written is chosen later",
          K="process_and_system::edge_44_data_on_a_disk_that_cannot_be_read_are_told "
            "probe/faulty_volumes::an_error_that_comes_only_with_fsync_is_found",
          C="process_and_system::edge_44_an_error_of_the_disk_is_told_with_path_and_number"),
    _case(45, "K", "a network mount that is gone", "a verdict within its bound",
          K="process_and_system::edge_45_a_path_that_never_answers_is_told_in_bounded_time "
            "probe/mounts::a_config_and_data_on_a_silent_file_system_hang_nobody"),
    _case(46, "KC", "no permission to write", "told before the run",
          K="process_and_system::edge_46_an_output_folder_that_may_not_be_written_is_told_before_the_run",
          C="process_and_system::edge_46_a_run_that_may_not_write_is_refused_before_a_model_is_loaded "
            "process_and_system::edge_46_a_checkpoint_that_may_not_be_written_is_told "
            "process_and_system::edge_46_a_queue_that_may_not_be_written_is_told"),
    _case(47, "KC", "a clock that jumps",
          "durations are those of a clock that does not; files from the future are named",
          K="process_and_system::edge_47_files_from_the_future_are_named",
          C="process_and_system::edge_47_waits_end_although_the_clock_is_set_back "
            "process_and_system::edge_47_a_clock_that_was_set_back_keeps_nobody_waiting "
            "process_and_system::edge_47_what_was_put_there_in_the_future_keeps_its_priority"),
    _case(48, "C", "two daemons on one queue", "the second refuses, and names the first",
          C="process_and_system::edge_48_a_second_daemon_is_refused_by_name "
            "process_and_system::edge_48_a_process_with_the_same_number_is_not_the_child_of_before"),
    _case(49, "KC", "children that nobody waited for", "counted, and reaped by the core",
          K="process_and_system::edge_49_zombies_are_counted_with_the_parent_that_forgets_them",
          C="process_and_system::edge_49_children_that_nobody_waited_for_are_reaped"),
    _case(50, "C", "locked files", "waited for, then their holder is named",
          C="process_and_system::edge_50_a_locked_file_is_waited_for_then_its_holder_is_named "
            "process_and_system::edge_50_a_save_by_another_process_is_waited_for_then_named"),
    # Queue of training files
    _case(51, "C", "a file deleted while it waits", "noted down, and the next one goes on",
          C="queue::edge_51_a_file_deleted_while_it_waits_is_passed_by"),
    _case(52, "C", "a file moved while it is trained",
          "what was opened is read, and recorded under its name",
          C="queue::edge_52_a_file_moved_while_it_is_trained_is_recorded_under_its_name"),
    _case(53, "C", "one name twice", "told apart by content, each trained once",
          C="queue::edge_53_a_name_given_twice_is_two_files_and_content_given_twice_is_one"),
    _case(54, "C", "links in a circle", "recognised, put aside",
          C="queue::edge_54_links_that_lead_nowhere_go_to_quarantine_and_others_are_followed"),
    _case(55, "C", "spaces, quotes, newlines and bytes in names", "processed as any other",
          C="queue::edge_55_a_name_is_only_a_name"),
    _case(56, "C", "another extension, or none", "left alone, listed once",
          C="queue::edge_56_other_files_are_left_alone_and_named_once"),
    _case(57, "C", "a retry with nothing failed", "exit code 0, and it is said",
          C="queue::edge_57_a_retry_with_nothing_failed_says_so"),
    _case(58, "C", "the record of the queue is corrupt",
          "made again from the folders: nothing lost, nothing trained twice",
          C="queue::edge_58_a_corrupt_record_loses_no_file_and_trains_none_twice queue::edge_58_what_a_killed_daemon_left_is_found_again"),
    _case(59, "C", "a file of low priority", "it ages: its wait is bounded",
          C="queue::edge_59_a_file_of_low_priority_waits_a_bounded_time"),
    _case(60, "C", "a file that always fails",
          "a bounded number of attempts, further and further apart, then put aside with the reason",
          C="queue::edge_60_a_file_that_always_fails_is_given_up_after_its_attempts "
            "queue::edge_60_each_failure_doubles_the_time_to_the_next_attempt"),
    # Training flow
    _case(61, "KC", "no steps", "an error with the arithmetic",
          K="training_flow::edge_61_a_run_without_a_step_is_an_error_with_the_arithmetic",
          C="training_flow::edge_61_the_core_refuses_with_the_arithmetic "
            "training_flow::edge_61_a_run_that_can_make_no_step_leaves_nothing_behind"),
    _case(62, "C", "a step below zero in the state", "the state is corrupt, and passed over",
          C="training_flow::edge_62_a_state_with_an_impossible_step_is_never_trained_on_from"),
    _case(63, "C", "a step beyond the last one", "already trained: exit code 0, nothing touched",
          C="training_flow::edge_63_a_run_that_has_its_steps_touches_nothing training_flow::edge_63_a_run_of_the_core_is_already_trained "
            "core/cli::a_run_that_is_done_is_not_done_again"),
    _case(64, "C", "a loss that is no number",
          "the run stops within one step, the batch is written down, no such weights are saved",
          C="training_flow::edge_64_transformers_alone_shows_such_a_run_as_a_loss_of_nought "
            "training_flow::edge_64_a_loss_that_is_no_number_stops_before_the_weights_change "
            "training_flow::edge_64_a_nan_that_a_trainer_makes_itself_is_seen_in_the_gradients "
            "training_flow::edge_64_the_batch_is_written_with_rows_ids_labels_and_text "
            "training_flow::edge_64_a_disk_that_is_full_hides_nothing training_flow::edge_64_weights_that_are_nan_are_never_saved"),
    _case(65, "C", "an infinite loss", "the same",
          C="training_flow::edge_65_an_infinite_loss_stops_before_the_weights_change "
            "training_flow::edge_65_an_infinite_loss_with_finite_gradients_stops_with_its_log_line"),
    _case(66, "KC", "a loss that does not fall",
          "a warning with the trend and its test; a batch must be learnt by heart",
          K="code::edge_66_a_batch_that_cannot_be_learnt_by_heart_is_told",
          C="training_flow::edge_66_a_loss_that_does_not_fall_is_an_alarm_with_its_test"),
    _case(67, "C", "a validation loss that rises",
          "a warning, the best checkpoint is kept, the run ends as asked",
          C="training_flow::edge_67_a_validation_loss_that_rises_is_an_alarm "
            "training_flow::edge_67_it_ends_the_run_where_patience_says_so_and_the_best_is_kept"),
    _case(68, "C", "one marker in every output", "its rate by step; a warning after the warm-up",
          C="training_flow::edge_68_a_marker_in_every_sample_is_an_alarm_after_the_warm_up"),
    _case(69, "KC", "an accuracy of 0", "empty and unparseable outputs are counted apart from wrong ones",
          K="training_flow::edge_69_empty_and_unparseable_outputs_are_told_apart_from_wrong_ones "
            "checks/statistics::edge_69_accuracy_zero_is_taken_apart",
          C="training_flow::edge_69_a_summary_counts_empty_and_unparseable_apart"),
    _case(70, "C", "training that stands still",
          "found by another process within its bound, with the stacks of all threads",
          C="training_flow::edge_70_a_run_that_stands_still_is_reported_with_all_stacks_and_ended"),
    # Code
    _case(71, "K", "a name used before it is set", "told by an established analyser, and by a dry run",
          K="code::edge_71_a_name_used_before_it_is_set_is_told_from_the_sources "
            "code::edge_71_a_name_used_before_it_is_set_ends_a_dry_run"),
    _case(72, "K", "a name that is not defined", "the same",
          K="code::edge_72_an_undefined_name_is_told_from_the_sources code::edge_72_an_undefined_name_in_the_evaluation_ends_a_dry_run"),
    _case(73, "K", "an attribute that is missing", "the same",
          K="code::edge_73_a_missing_attribute_is_told_from_the_sources code::edge_73_a_missing_attribute_ends_a_dry_run"),
    _case(74, "K", "a key that is missing", "which row and which key",
          K="code::edge_74_a_missing_key_is_told_with_its_row_and_the_keys_that_are_there"),
    _case(75, "K", "an index out of range",
          "token ids beyond the embedding are named before the device fails",
          K="code::edge_75_ids_beyond_the_embedding_are_named_before_the_device_fails code::edge_75_an_index_out_of_range_ends_a_dry_run"),
    _case(76, "K", "a value of another type", "told in configs, sources and by a dry run",
          K="code::edge_76_wrong_types_are_told_from_configs code::edge_76_wrong_types_are_told_from_the_sources "
            "code::edge_76_wrong_types_end_a_dry_run"),
    _case(77, "K", "a value out of range", "told with the range",
          K="code::edge_77_values_out_of_range_are_told_with_the_range code::edge_77_values_out_of_range_are_told_from_the_sources"),
    _case(78, "KC", "a division by zero", "rates of nothing are unknown, not zero",
          K="code::edge_78_nothing_to_divide_by_is_told",
          C="code::edge_78_rates_of_nothing_are_unknown_and_not_zero code::edge_78_a_summary_of_nothing_has_no_mean "
            "code::edge_78_rows_without_a_supervised_token_do_no_harm "
            "core/evaluation::edge_78_items_that_cannot_be_judged_are_refused_before_a_model_is_loaded"),
    _case(79, "K", "a recursion without end", "bounded, and its cycle named",
          K="code::edge_79_a_recursion_without_end_is_bounded_and_its_cycle_named"),
    _case(80, "K", "memory ends in Python", "limit, peak, and what was being built",
          K="code::edge_80_a_probe_tells_the_limit_and_the_peak code::edge_80_memory_that_ends_in_a_dry_run_is_told_with_the_line"),
)
# fmt: on
"""Every edge case; 41 to 80 and 1 to 40 are proved in files of their own categories."""

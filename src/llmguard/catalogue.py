"""Every check of this library, one line each: the only place that lists them.

Name, module, family, tier, the evidence it cannot do without, what it is repeated over, the bugs it guards.
Nothing here imports a check: `Entry.load` does, when it is first used.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from llmguard.contract import AnyCheck

__all__ = ["CHECKS", "FAMILIES", "TIERS", "Entry"]

FAMILIES = (
    "template", "tokens", "masking", "collation", "packing", "prompts", "data", "splits", "preference", "config", "source",
    "adapter", "checkpoint", "model", "training", "sentinel", "statistics", "memory", "environment", "storage", "queue",
)  # fmt: skip
TIERS = ("preflight", "sentinel", "gpu")
"""preflight: no weights, no GPU, seconds; sentinel: needs a model; gpu: needs a GPU."""


@dataclass(frozen=True)
class Entry:
    """One check of the catalogue.

    `needs` names the evidence without which it is skipped; `over` the evidence whose targets (splits, files, batch sources)
    it is repeated over, empty for once a project; `bugs` the slugs of the documented bugs it guards against.
    """

    name: str
    module: str
    family: str
    tier: str = "preflight"
    needs: tuple[str, ...] = ()
    over: str = ""
    bugs: tuple[str, ...] = ()

    def load(self) -> AnyCheck:
        """The check itself; imports its module on first use."""
        return cast("AnyCheck", getattr(importlib.import_module(self.module), self.name))


def _entry(
    family: str,
    name: str,
    *needs: str,
    over: str = "",
    tier: str = "preflight",
    bugs: str = "",
    room: str = "",
) -> Entry:
    module = f"llmguard.checks.{room or family}"
    return Entry(name, module, family, tier, needs, over, tuple(bugs.split()))


# fmt: off
CHECKS: tuple[Entry, ...] = (
    # template
    _entry("template", "base_prompts_carry_no_template", "prompts", "tokenizer", "kind", over="prompts", bugs="base_model_follows_instructions", room="base_prompts"),
    _entry("template", "base_tokenizer_ships_no_template", "tokenizer", "kind", bugs="base_model_follows_instructions", room="base_prompts"),
    _entry("template", "base_prompts_carry_no_role_words", "prompts", "tokenizer", "kind", over="prompts", bugs="role_words_in_completion_prompts", room="base_prompts"),
    _entry("template", "chat_prompts_use_the_template", "prompts", "tokenizer", "kind", over="prompts", room="generation"),
    _entry("template", "thinking_is_kept_in_every_turn", "rows", "template", over="rows", room="generation"),
    _entry("template", "chat_model_has_a_template", "tokenizer", "kind"),
    _entry("template", "training_text_follows_its_format", "encoded", "rows", "tokenizer", "template", over="encoded", bugs="terminator_missing_after_the_user_turn empty_outputs_after_training"),
    _entry("template", "template_keeps_every_message", "rows", "template", over="rows"),
    _entry("template", "no_role_header_is_doubled", "encoded", "tokenizer", over="encoded", room="special_tokens"),
    # tokens
    _entry("tokens", "tokenizer_loads", "loading"),
    _entry("tokens", "every_row_has_one_bos", "encoded", "tokenizer", over="encoded", bugs="doubled_bos", room="bos"),
    _entry("tokens", "prompts_have_one_bos", "prompts", "tokenizer", over="prompts", bugs="doubled_bos", room="bos"),
    _entry("tokens", "response_ends_with_its_terminator", "encoded", "rows", "tokenizer", over="encoded", bugs="eos_is_never_learnt wrong_end_of_sequence_text"),
    _entry("tokens", "control_tokens_are_single_ids", "encoded", "tokenizer", over="encoded", bugs="wrong_end_of_sequence_text"),
    _entry("tokens", "ids_are_in_the_vocabulary", "encoded", "tokenizer", over="encoded"),
    _entry("tokens", "every_token_id_is_a_number", "encoded", over="encoded"),
    _entry("tokens", "special_tokens_in_use_are_trained", "encoded", "tokenizer", "model", over="encoded", room="added_tokens"),
    _entry("tokens", "ids_match_their_text", "encoded", "rows", "tokenizer", over="encoded", bugs="text_edited_after_tokenisation paraphrases_with_stale_ids", room="text_of_ids"),
    _entry("tokens", "tokenizer_is_lossless", "rows", "tokenizer", over="rows", room="text_of_ids"),
    _entry("tokens", "prompts_start_with_bos", "prompts", "tokenizer", over="prompts", room="generation"),
    _entry("tokens", "tokenizer_keeps_white_space", "rows", "tokenizer", over="rows", room="generation"),
    _entry("tokens", "special_tokens_keep_their_ids", "tokenizer", room="special_tokens"),
    _entry("tokens", "stop_tokens_agree", "tokenizer", "stops", over="encoded", bugs="eos_is_never_learnt generation_stops_at_another_token", room="special_tokens"),
    _entry("tokens", "text_has_no_unknown_tokens", "rows", "tokenizer", over="rows", room="special_tokens"),
    _entry("tokens", "trainer_tokenizer_is_the_projects", "trainer", "tokenizer", room="trainer"),
    # masking
    _entry("masking", "labels_are_made", "encoded", over="encoded", bugs="labels_never_made", room="pipeline"),
    _entry("masking", "every_row_has_a_supervised_token", "encoded", over="encoded", bugs="loss_mask_fragile loss_is_nought_where_nothing_is_trained", room="labels"),
    _entry("masking", "columns_are_as_long_as_their_ids", "encoded", over="encoded", room="labels"),
    _entry("masking", "labels_are_not_shifted", "encoded", over="encoded", bugs="labels_are_shifted_twice", room="labels"),
    _entry("masking", "every_prompt_token_is_masked", "encoded", "rows", "tokenizer", over="encoded", bugs="everything_trained_prompt_included loss_mask_fragile assistant_mask_runs_over_user_turns prompt_length_is_the_number_of_keys"),
    _entry("masking", "every_response_token_is_trained", "encoded", "rows", "tokenizer", over="encoded", bugs="loss_mask_fragile"),
    _entry("masking", "every_wanted_turn_is_trained", "encoded", "rows", "tokenizer", over="encoded", room="turns"),
    _entry("masking", "terminator_is_trained", "encoded", "rows", "tokenizer", over="encoded", bugs="eos_is_never_learnt", room="turns"),
    _entry("masking", "boundary_falls_between_tokens", "encoded", "rows", "tokenizer", over="encoded", bugs="loss_mask_fragile"),
    _entry("masking", "nothing_is_trained_after_the_terminator", "encoded", "rows", "tokenizer", over="encoded", room="turns"),
    _entry("masking", "padding_is_never_trained", "encoded", over="encoded", room="labels"),
    # collation
    _entry("collation", "collator_keeps_labels", "encoded", "batches", over="batches", bugs="collator_overwrites_labels eos_is_never_learnt"),
    _entry("collation", "collator_takes_rows_of_unequal_length", "batches", over="batches"),
    _entry("collation", "batches_carry_labels", "batches", over="batches", bugs="labels_never_made"),
    _entry("collation", "batch_padding_is_masked", "batches", over="batches"),
    _entry("collation", "collator_attends_to_content", "encoded", "batches", over="batches"),
    _entry("collation", "batches_keep_every_row", "batches", over="batches"),
    # packing
    _entry("packing", "packed_documents_are_told_apart", "batches", "tokenizer", over="batches"),
    _entry("packing", "position_ids_restart_with_each_document", "batches", over="batches"),
    _entry("packing", "first_token_of_a_document_is_not_trained", "batches", over="batches"),
    _entry("packing", "documents_do_not_see_each_other", "isolation", over="batches"),
    # preference
    _entry("preference", "chosen_differs_from_rejected", "rows", over="rows"),
    _entry("preference", "pairs_share_their_prompt", "rows", over="rows"),
    _entry("preference", "pairs_do_not_repeat_their_prompt", "rows", over="rows"),
    _entry("preference", "pair_responses_hold_no_control_tokens", "rows", "tokenizer", over="rows"),
    _entry("preference", "pairs_differ_within_max_length", "rows", "tokenizer", "max_length", over="rows"),
    _entry("preference", "preference_policy_has_no_dropout", "trainer", room="trainer"),
    _entry("preference", "chosen_scores_above_rejected", "rows", over="rows"),
    # prompts
    _entry("prompts", "training_starts_with_the_generation_prompt", "encoded", "prompts", "tokenizer", over="encoded", bugs="trained_in_one_format_tested_in_another evaluation_prompts_styled_unlike_training validation_samples_in_another_format"),
    _entry("prompts", "built_prompt_holds_the_stored_one", "prompts", "rows", "tokenizer", over="prompts", bugs="stored_prompts_differ_from_generated_ones"),
    _entry("prompts", "no_prompt_holds_its_own_answer", "prompts", "rows", "tokenizer", over="prompts"),
    # data
    _entry("data", "data_files_are_readable", "files", over="files"),
    _entry("data", "every_row_has_its_columns", "rows", over="rows"),
    _entry("data", "every_conversation_has_turns", "rows", over="rows", room="data_conversations"),
    _entry("data", "every_role_is_known", "rows", over="rows", room="data_conversations"),
    _entry("data", "every_content_is_text", "rows", over="rows", room="data_content"),
    _entry("data", "no_content_is_a_word_for_nothing", "rows", over="rows", room="data_content"),
    _entry("data", "every_response_has_text", "rows", over="rows", bugs="crash_on_an_empty_response", room="data_content"),
    _entry("data", "no_row_is_repeated", "rows", over="rows", room="data_content"),
    _entry("data", "text_is_well_formed", "rows", over="rows", room="data_text"),
    _entry("data", "no_placeholder_is_left", "rows", over="rows", bugs="placeholders_left_in_text", room="data_placeholders"),
    _entry("data", "role_markers_are_not_in_the_text", "rows", over="rows", bugs="role_words_in_completion_prompts", room="data_markers"),
    _entry("data", "encoded_data_are_readable", "prepared", room="pipeline"),
    _entry("data", "encoded_rows_match_the_split", "encoded", "rows", over="encoded", room="pipeline"),
    _entry("data", "responses_are_not_cut", "encoded", "rows", "tokenizer", over="encoded", bugs="sequences_cut_at_256 loss_mask_fragile trl_drops_rows_quietly", room="truncation"),
    _entry("data", "rows_fit_max_length", "rows", "tokenizer", "template", "max_length", over="rows", bugs="sequences_cut_at_256", room="truncation"),
    _entry("prompts", "few_shot_examples_vary", "prompts", "tokenizer", over="prompts", bugs="few_shot_examples_always_the_same", room="generation"),
    _entry("prompts", "prompts_leave_room_for_an_answer", "prompts", "tokenizer", "context", over="prompts", room="truncation"),
    _entry("data", "trainer_keeps_every_row", "trainer", "rows", bugs="trl_drops_rows_quietly", room="trainer"),
    # splits
    _entry("splits", "no_test_row_is_in_train", "test", "train", bugs="test_instructions_in_training_data"),
    _entry("splits", "no_validation_row_is_in_train", "validation", "train", bugs="test_instructions_in_training_data"),
    _entry("splits", "no_test_row_is_near_a_train_row", "test", "train", bugs="test_instructions_in_training_data"),
    _entry("splits", "groups_stay_in_one_split", "group", "train", bugs="test_instructions_in_training_data"),
    # config
    _entry("config", "config_file_is_readable", "config_file", over="config", bugs="bad_config_found_after_hours"),
    _entry("config", "no_config_key_is_given_twice", "config", over="config", bugs="bad_config_found_after_hours"),
    _entry("config", "every_config_key_is_known", "config", over="config", bugs="bad_config_found_after_hours"),
    _entry("config", "every_config_value_has_its_type", "config", over="config", bugs="bad_config_found_after_hours learning_rate_read_as_text yaml_no_becomes_false num_train_epochs_is_none"),
    _entry("config", "every_config_value_is_in_range", "config", over="config", bugs="bad_config_found_after_hours dpo_loss_is_frozen"),
    _entry("config", "every_config_path_exists", "config", over="config", bugs="bad_config_found_after_hours"),
    _entry("config", "rows_fill_an_optimizer_step", "config", over="config", room="config_runs"),
    _entry("config", "max_steps_agrees_with_epochs", "config", over="config", bugs="max_steps_overrides_epochs", room="config_runs"),
    _entry("config", "warmup_ends_within_the_run", "config", over="config", bugs="max_steps_overrides_epochs", room="config_runs"),
    _entry("config", "run_saves_what_it_trains", "config", over="config", bugs="nothing_is_saved", room="config_runs"),
    _entry("config", "output_dir_holds_no_old_checkpoint", "config", over="config", bugs="old_checkpoint_resumed_silently", room="config_runs"),
    _entry("config", "training_budget_fits_the_data", "config", over="config", bugs="one_epoch_only", room="config_runs"),
    _entry("config", "precision_settings_agree", "config", over="config", bugs="fp16_overflow", room="config_model"),
    _entry("config", "max_length_fits_the_model_context", "config", over="config", room="config_model"),
    _entry("config", "max_length_agrees_with_the_project", "config", "max_length", over="config", bugs="default_max_length_cuts_silently", room="config_model"),
    _entry("config", "adapter_scaling_is_moderate", "config", over="config", room="config_model"),
    _entry("config", "trainer_agrees_about_max_length", "trainer", "project", bugs="default_max_length_cuts_silently", room="trainer"),
    # source
    _entry("source", "sources_parse", "sources"),
    _entry("source", "names_are_defined_before_use", "sources", bugs="total_steps_used_before_it_is_set"),
    _entry("source", "attributes_exist", "sources", room="source_attributes"),
    _entry("source", "imports_are_declared", "sources", bugs="dependency_missing_from_requirements"),
    _entry("source", "training_arguments_are_valid", "sources", bugs="num_train_epochs_is_none learning_rate_read_as_text", room="source_arguments"),
    _entry("source", "trainer_arguments_are_known", "sources", room="source_arguments"),
    _entry("source", "device_is_not_hard_coded", "sources", bugs="device_hard_coded"),
    _entry("source", "one_model_is_resident_at_a_time", "sources", bugs="three_models_at_once"),
    _entry("source", "base_model_is_prompted_plainly", "sources", bugs="base_model_follows_instructions", room="source_patterns"),
    _entry("source", "collator_leaves_masks_alone", "sources", bugs="collator_overwrites_labels", room="source_patterns"),
    _entry("source", "pipeline_code_runs", "pipeline", room="pipeline"),
    # model
    _entry("model", "model_path_exists", "model"),
    _entry("model", "weights_are_complete", "model"),
    _entry("model", "tokenizer_belongs_to_the_model", "tokenizer", "model"),
    # adapter
    _entry("adapter", "adapter_files_are_whole", "adapter_files", bugs="wrong_adapter_path"),
    _entry("adapter", "adapter_is_trained", "adapter", bugs="wrong_adapter_path nan_gradients_on_one_backend"),
    _entry("adapter", "adapter_belongs_to_its_base", "adapter", "model", bugs="wrong_adapter_path"),
    _entry("adapter", "adapter_is_newer_than_its_data", "adapter", "project", bugs="wrong_adapter_path"),
    _entry("adapter", "adapter_keeps_added_tokens", "adapter", "model", "tokenizer"),
    _entry("adapter", "adapter_changes_the_model", "adapter_effect", tier="sentinel", bugs="wrong_adapter_path", room="adapter_effect"),
    # training
    _entry("training", "trainer_survives_a_dry_run", "dry_run", bugs="total_steps_used_before_it_is_set num_train_epochs_is_none learning_rate_read_as_text", room="dry_run"),
    _entry("training", "dry_run_loss_is_finite", "dry_run", bugs="nan_gradients_on_one_backend loss_is_nought_where_nothing_is_trained", room="dry_run_learning"),
    _entry("training", "dry_run_can_resume", "dry_run", room="dry_run"),
    _entry("training", "one_batch_can_be_overfitted", "dry_run", room="dry_run_learning"),
    _entry("training", "trained_parameters_change", "dry_run", room="dry_run_learning"),
    # checkpoint
    _entry("checkpoint", "checkpoints_are_whole", "checkpoints", bugs="old_checkpoint_resumed_silently half_written_checkpoint_is_resumed"),
    # memory
    _entry("memory", "training_fits_in_memory", "config", "memory", over="config"),
    _entry("memory", "tokenised_rows_fit_in_memory", "rows", "environment", over="rows", room="host_memory"),
    # environment: what answers at once comes first, what waits for torch comes last
    _entry("environment", "python_is_supported", "environment"),
    _entry("environment", "open_file_limit_is_enough", "environment", room="limits"),
    _entry("environment", "processes_can_be_started", "environment", room="limits"),
    _entry("environment", "locked_memory_is_enough", "environment", room="limits"),
    _entry("environment", "container_leaves_memory", "environment", room="limits"),
    _entry("environment", "machine_is_not_swapping", "environment", room="swapping"),
    _entry("environment", "threads_fit_the_processors", "environment", room="limits"),
    _entry("environment", "shared_memory_has_room", "environment", room="limits"),
    _entry("environment", "temporary_folder_takes_files", "environment", room="host"),
    _entry("environment", "kernels_can_be_compiled", "environment", room="host"),
    _entry("environment", "clock_is_right", "environment", room="host"),
    _entry("environment", "processes_can_meet", "environment", room="host"),
    _entry("environment", "version_pairs_are_compatible", "environment", room="versions"),
    _entry("environment", "each_library_is_installed_once", "environment", room="installed"),
    _entry("environment", "declared_requirements_are_installed", "sources", "environment", room="installed"),
    _entry("environment", "remote_host_lets_us_in", "remote", bugs="ssh_to_the_pod_fails", room="remote"),
    _entry("environment", "endpoint_answers", "endpoint", room="remote"),
    _entry("environment", "nvidia_smi_answers", "environment", room="gpu_driver"),
    _entry("environment", "cuda_driver_starts", "environment", room="gpu_driver"),
    _entry("environment", "visible_devices_exist", "environment", room="gpu_build"),
    _entry("environment", "gpu_is_the_one_asked_for", "environment", room="gpu_state"),
    _entry("environment", "gpu_memory_is_free", "environment", room="gpu_state"),
    _entry("environment", "gpu_is_healthy", "environment", room="gpu_state"),
    _entry("environment", "torch_imports_in_time", "environment", bugs="import_torch_hangs_the_machine"),
    _entry("environment", "torch_build_fits_the_gpu", "environment", room="gpu_build"),
    _entry("environment", "gpu_is_available", "environment", room="gpu"),
    _entry("environment", "gpu_computes_right", "environment", room="gpu"),
    # storage
    _entry("storage", "output_dir_takes_a_checkpoint", "environment", bugs="writes_fail_on_a_volume_with_a_quota"),
    _entry("storage", "output_dir_outlives_the_container", "environment", room="volumes"),
    _entry("storage", "named_paths_answer", "mounts", room="mounts"),
    _entry("storage", "no_file_is_from_the_future", "mounts", "environment", room="file_times"),
    _entry("storage", "repository_takes_a_commit", "repository", room="repository"),
    _entry("storage", "cached_model_is_whole", "hub_cache", room="hub_cache"),
    _entry("storage", "model_cache_is_not_locked", "hub_cache", room="hub_cache"),
    _entry("storage", "model_cache_takes_what_is_missing", "hub_cache", room="hub_cache"),
    # sentinel
    _entry("sentinel", "base_model_fails_instruction_prompts", "completions", tier="sentinel", bugs="base_model_follows_instructions"),
    _entry("sentinel", "greedy_generation_repeats_itself", "generations", tier="sentinel", room="batched_generation"),
    _entry("sentinel", "completions_do_not_depend_on_their_batch", "generations", tier="sentinel", room="batched_generation"),
    # statistics
    _entry("statistics", "result_files_are_readable", "results", over="results", room="results"),
    _entry("statistics", "results_have_no_duplicate_ids", "results", over="results", room="results"),
    _entry("statistics", "scores_are_finite", "results", over="results", room="results"),
    _entry("statistics", "accuracy_is_not_from_empty_outputs", "results", over="results", bugs="empty_outputs_after_training", room="results"),
    _entry("statistics", "result_sets_cover_the_same_items", "results", bugs="differences_reported_without_statistics", room="results"),
    _entry("statistics", "result_sets_use_the_same_measure", "results", room="results"),
    _entry("statistics", "models_give_different_results", "results", bugs="wrong_adapter_path", room="results"),
    _entry("statistics", "claimed_difference_is_significant", "results", bugs="differences_reported_without_statistics"),
    _entry("statistics", "evaluation_can_detect_the_smallest_effect", "results", bugs="differences_reported_without_statistics"),
)
# fmt: on

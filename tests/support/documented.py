"""The bugs that five fine-tuning projects wrote down, in their order: what each was called, how grave it was, and its regression."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DOCUMENTED", "Documented"]


class Documented(NamedTuple):
    """One bug: its title and severity as its authors put them ("minor" is low here), and the slug of its regression."""

    title: str
    severity: str
    slug: str


DOCUMENTED: dict[int, Documented] = {
    number: Documented(*map(str.strip, line.split("|")))
    for number, line in enumerate(
        """\
        A base model follows instructions | critical | base_model_follows_instructions
        Writes fail on a quota'd network volume | critical | writes_fail_on_a_volume_with_a_quota
        `import torch` hangs the machine | critical | import_torch_hangs_the_machine
        Evaluation loads base, SFT and DPO models at once | critical | three_models_at_once
        Stored prompts differ from generated ones | low | stored_prompts_differ_from_generated_ones
        Test instructions in training data | high | test_instructions_in_training_data
        Loss mask fragile | high | loss_mask_fragile
        ssh to the pod fails | medium | ssh_to_the_pod_fails
        Differences reported without statistics | high | differences_reported_without_statistics
        Template placeholders in text | medium | placeholders_left_in_text
        Evaluation prompts styled unlike training | high | evaluation_prompts_styled_unlike_training
        Few-shot examples always the same | medium | few_shot_examples_always_the_same
        Role scaffolding in completion prompts | high | role_words_in_completion_prompts
        Labels never made | critical | labels_never_made
        Collator overwrites the labels | critical | collator_overwrites_labels
        Text edited after tokenisation | critical | text_edited_after_tokenisation
        Paraphrases copied with stale ids | critical | paraphrases_with_stale_ids
        Wrong end-of-sequence text | critical | wrong_end_of_sequence_text
        Terminator missing after the user turn | critical | terminator_missing_after_the_user_turn
        Trained in one format, tested in another | critical | trained_in_one_format_tested_in_another
        Wrong adapter path | critical | wrong_adapter_path
        Everything trained, prompt included | high | everything_trained_prompt_included
        Sequences cut at 256 | high | sequences_cut_at_256
        One epoch only | high | one_epoch_only
        Validation samples in another format | medium | validation_samples_in_another_format
        Crash on an empty response | medium | crash_on_an_empty_response
        A dependency missing from requirements | medium | dependency_missing_from_requirements
        Device hard-coded | low | device_hard_coded
        NaN gradients on one backend, loss collapses to 0 | critical | nan_gradients_on_one_backend
        Empty outputs after training | critical | empty_outputs_after_training
        `total_steps` used before it is set | critical | total_steps_used_before_it_is_set
        `num_train_epochs=None` | critical | num_train_epochs_is_none
        Memory grows from file to file | critical | memory_grows_from_file_to_file
        Bad config found after hours | high | bad_config_found_after_hours
        """.strip().splitlines(),
        start=1,
    )
}

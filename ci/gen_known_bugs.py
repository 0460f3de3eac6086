"""Write docs/known-bugs.md, and what `llmguard bug find` searches, from the stories of regressions/.

python ci/gen_known_bugs.py            writes both files
python ci/gen_known_bugs.py --check    says whether they are up to date (exit code 1 where one is not)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

from llmguard.ledger import FIELDS, Story, read_stories  # noqa: E402  # the checkout's own package, installed or not
from llmguard.ledger.stories import SEVERITIES, SEVERITY  # noqa: E402  # as above

DOCS = ROOT / "docs" / "known-bugs.md"
DATA = ROOT / "src" / "llmguard" / "ledger" / "known.json"
HEAD = """\
# Known bugs

Written by `python ci/gen_known_bugs.py` from the stories of `regressions/`; a test says when it is out of date. Each of these bugs is a
permanent test: a witness that it is one, a check or guard that rejects it, and the same on code that is right.

Something looks wrong? Look below for what you see, grave bugs first, or search in your own words: `llmguard bug find "loss is 0.0"`. Then
run what finds it (`pytest -k NAME`), and read the bug's section: its cause, and what would have prevented it. It is not there?
[Begin a regression of your own](a-new-bug.md).
"""
LOOKS: Mapping[str, str] = {
    "It does not start, or ends with an error": """
        bad_config_found_after_hours crash_on_an_empty_response dependency_missing_from_requirements import_torch_hangs_the_machine
        learning_rate_read_as_text num_train_epochs_is_none ssh_to_the_pod_fails total_steps_used_before_it_is_set
        writes_fail_on_a_volume_with_a_quota yaml_no_becomes_false""",
    "The loss looks wrong, or too good": """
        assistant_mask_runs_over_user_turns collator_overwrites_labels dpo_loss_is_frozen everything_trained_prompt_included fp16_overflow
        labels_are_shifted_twice labels_never_made loss_is_nought_where_nothing_is_trained nan_gradients_on_one_backend
        prompt_length_is_the_number_of_keys""",
    "The run is over too soon, too slow, or has too little data": """
        device_hard_coded max_steps_overrides_epochs old_checkpoint_resumed_silently one_epoch_only paraphrases_with_stale_ids
        text_edited_after_tokenisation trl_drops_rows_quietly""",
    "The tuned model's answers look wrong: empty, endless, cut, of another kind": """
        default_max_length_cuts_silently empty_outputs_after_training eos_is_never_learnt generation_stops_at_another_token
        loss_mask_fragile placeholders_left_in_text sequences_cut_at_256 terminator_missing_after_the_user_turn
        validation_samples_in_another_format wrong_end_of_sequence_text""",
    "Scores look wrong: nothing learnt, too good, or never the same": """
        base_model_follows_instructions differences_reported_without_statistics doubled_bos evaluation_prompts_styled_unlike_training
        few_shot_examples_always_the_same role_words_in_completion_prompts stored_prompts_differ_from_generated_ones
        test_instructions_in_training_data trained_in_one_format_tested_in_another wrong_adapter_path""",
    "Memory runs out, or something stays behind": """
        memory_grows_from_file_to_file out_of_memory_is_not_recognised three_models_at_once timeout_leaves_the_grandchildren""",
    "Checkpoints are missing, broken or others": """
        flipped_bits_load_without_error full_disk_leaves_a_truncated_file half_written_checkpoint_is_resumed nothing_is_saved""",
}
"""What somebody sees first -> the bugs that look like that. A bug of no group is refused: it could not be found by its looks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it; 2 where a bug has no place in the quick reference."""
    stories = read_stories(ROOT / "regressions")
    placed = [slug for slugs in LOOKS.values() for slug in slugs.split()]
    if wrong := sorted({s.slug for s in stories}.symmetric_difference(placed)) or _twice(placed):
        print(f"{', '.join(wrong)}: name each regression once in LOOKS of ci/gen_known_bugs.py")
        return 2
    return write_or_check(
        __file__, __doc__, {DOCS: lambda: document(stories), DATA: lambda: data(stories)}, arguments
    )


def _twice(placed: Sequence[str]) -> list[str]:
    return sorted({slug for slug in placed if placed.count(slug) > 1})


def data(stories: Sequence[Story]) -> str:
    """The stories as JSON."""
    told = [{"slug": s.slug, "title": s.title, "fields": dict(s.fields)} for s in stories]
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def document(stories: Sequence[Story]) -> str:
    """From what is seen to the bug, and then every bug."""
    by_slug = {story.slug: story for story in stories}
    groups = {title: [by_slug[slug] for slug in slugs.split()] for title, slugs in LOOKS.items()}
    contents = [f"- [{title}](#{_anchor(title)}): {len(group)}" for title, group in groups.items()]
    quick = [line for title, group in groups.items() for line in _group(title, group)]
    every = ["## Every bug", "", *(_section(story) for story in stories)]
    return "\n".join(
        [HEAD, f"{len(stories)} bugs.", "", "## This looks wrong", "", *contents, "", *quick, *every]
    )


def _group(title: str, stories: Sequence[Story]) -> list[str]:
    rows = [
        f"| {_cell(_sentence(s.fields.get('Symptom', '')))} | {_cell(s.title)} [{s.slug}](#{s.slug}) | {s.severity} | {_found_by(s)} |"
        for s in sorted(stories, key=_gravest)
    ]
    return [
        f"### {title}", "", "| what you see | what it is | how grave | found by |", "|---|---|---|---|", *rows, ""
    ]  # fmt: skip


def _gravest(story: Story) -> tuple[int, str]:
    known = story.severity in SEVERITIES
    return (SEVERITIES.index(story.severity) if known else len(SEVERITIES), story.slug)


def _section(story: Story) -> str:
    lines = [f"### {story.slug}", "", story.title, ""]
    names = [FIELDS[0], SEVERITY, *FIELDS[1:]]
    lines += [
        f"- **{name}**: {_found_by(story) if name == 'Check' else story.fields[name]}"
        for name in names
        if name in story.fields
    ]
    return "\n".join([*lines, f"- **Regression**: `regressions/{story.file.name}`", ""])


def _found_by(story: Story) -> str:
    guards = [
        f"[{name}](core.md)" if name.startswith("llmguard_core.") else f"`{name}`" for name in story.guards
    ]
    return ", ".join([*(f"[{name}](checks.md#{name})" for name in story.checks), *guards])


def _anchor(title: str) -> str:
    """The anchor that GitHub makes of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())

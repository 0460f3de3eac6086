"""Sentinel prompts: does a base model follow instructions that it has no reason to follow?

    completions = collect(Route(model="out/base", chat_template=True))
    require(base_model_fails_instruction_prompts(completions))

Prompts with strict judges, a child that generates for the user's own route and for a clean control, an exact verdict on
the two, and the reason why a base model obeyed. Nothing here imports torch outside of that child.
"""

from __future__ import annotations

from llmguard.sentinels.completions import Arm, Completions, Unanswered, judged
from llmguard.sentinels.diagnose import Facts, Reason
from llmguard.sentinels.judging import Judge, Judgement
from llmguard.sentinels.prompts import CLASSIC, SENTINELS, Sentinel, sentinel_by_id
from llmguard.sentinels.route import Route, collect
from llmguard.sentinels.verdict import ALPHA, LIMIT, Verdict

__all__ = [
    "ALPHA", "CLASSIC", "LIMIT", "SENTINELS", "Arm", "Completions", "Facts", "Judge", "Judgement", "Reason", "Route", "Sentinel",
    "Unanswered", "Verdict", "collect", "judged", "sentinel_by_id",
]  # fmt: skip

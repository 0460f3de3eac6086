"""Sentinel prompts: does a base model follow instructions it has no reason to follow?"""

from __future__ import annotations

from llmguard.sentinels.judging import Judge, Judgement
from llmguard.sentinels.prompts import CLASSIC, SENTINELS, Sentinel, sentinel_by_id

__all__ = ["CLASSIC", "SENTINELS", "Judge", "Judgement", "Sentinel", "sentinel_by_id"]

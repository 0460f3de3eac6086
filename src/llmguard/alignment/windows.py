"""A few tokens around a place in a row, for failure texts: what they are, what they are labelled, what they should be."""

from __future__ import annotations

from typing import Any

from llmguard.alignment.align import Alignment
from llmguard.encoded import Encoded
from llmguard.formats import Kind

__all__ = ["window"]


def window(
    encoded: Encoded, alignment: Alignment | None, row: int, token: int, *, around: int = 6
) -> list[dict[str, Any]]:
    """Tokens `token - around` to `token + around` of a row: JSON-safe mappings with text, id, label, kind, trained, attention."""
    start = int(encoded.input_ids.offsets[row])
    ids = encoded.input_ids[row]
    lo, hi = max(0, token - around), min(len(ids), token + around + 1)
    labels = encoded.labels[row] if encoded.labels.same_shape(encoded.input_ids) else None
    return [_token(encoded, alignment, start, ids, labels, i) for i in range(lo, hi)]


def _token(
    encoded: Encoded, alignment: Alignment | None, start: int, ids: Any, labels: Any, i: int
) -> dict[str, Any]:
    attended = bool(encoded.attended[start + i])
    kind = Kind(int(alignment.kind[start + i])).name.lower() if alignment else "unknown"
    return {
        "text": alignment.vocabulary.shown(int(ids[i])) if alignment else "",
        "id": int(ids[i]),
        "position": i,
        "label": int(labels[i]) if labels is not None else None,
        "kind": kind if attended else "pad",
        "trained": bool(encoded.trained[start + i]),
        "attention": int(attended),
    }

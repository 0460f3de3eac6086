"""Which token of an encoded row is what: prompt, response, terminator, straddling the boundary, padding."""

from llmguard.alignment.align import Alignment, Status, align
from llmguard.alignment.windows import window

__all__ = ["Alignment", "Status", "align", "window"]

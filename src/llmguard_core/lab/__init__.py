"""Tiny models of known behaviour, trained here on a CPU in under a minute: no download, no GPU, the same bytes each time.

    from llmguard_core.lab import lab
    lab().base                  # Path of a saved transformers folder; built on first use, cached for the user

Nothing here imports torch: what is missing is built in a child process, once for all processes of the machine.
"""

from __future__ import annotations

from llmguard_core.lab.cache import NAMES, Lab, LabError, lab

__all__ = ["NAMES", "Lab", "LabError", "lab"]

"""A queue of training files in a folder: put files into `pending/`, one daemon trains them, every state is a place.

pending/            files to train, `mv`ed here; `pending/0/` … `pending/9/` by priority (0 first, `pending/` itself is 5)
running/<job>/      the one that is trained now
waiting/<job>/      to be tried again: failed, or interrupted by the daemon's end
done/<job>/         trained, with the log of each attempt
quarantine/<job>/   given up, with the reason in `reason.txt`
"""

from __future__ import annotations

from llmguard_core.queue.daemon import Summary, retry, run_queue
from llmguard_core.queue.jobs import Failed, Interrupted, Job, Work
from llmguard_core.queue.status import QueueStatus, status
from llmguard_core.queue.work import in_child, training

__all__ = [
    "Failed",
    "Interrupted",
    "Job",
    "QueueStatus",
    "Summary",
    "Work",
    "in_child",
    "retry",
    "run_queue",
    "status",
    "training",
]

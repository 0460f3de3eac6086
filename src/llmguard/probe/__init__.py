"""The one way of this project to run code that may hang, crash or eat the machine.

    code = "import torch; report(torch.__version__)"
    result = probe.python(code, timeout=900, no_progress=30, computing_is_progress=False)
    result.ok, result.payload, result.explain()

A probe runs in a supervised child: new session, output to a file, limits, a supervisor that ends the whole
tree, a bounded wait that abandons what cannot be killed, a nonce that proves success, and a verdict from
progress, not from the clock alone.

    parent (launch)  ──spec.json──►  supervisor, a process (tree, sampler)  ──exec──►  the target (bootstrap)
           ◄──observed.json──────────────────┘            ◄──heartbeat, stack, report, output──┘

Code that runs inside of a probe uses `report(value)` and `step("what is being done")`.
"""

from __future__ import annotations

from llmguard.probe.child import inside, report, step
from llmguard.probe.launch import Probe, python, run, start
from llmguard.probe.limits import Limits
from llmguard.probe.result import Failure, Left, Observed, ProbeResult, Survivor, Thread, Verdict, Window
from llmguard.probe.spec import Settings

__all__ = [
    "Failure", "Left", "Limits", "Observed", "Probe", "ProbeResult", "Settings", "Survivor", "Thread",
    "Verdict", "Window", "inside", "python", "report", "run", "start", "step",
]  # fmt: skip

#!/usr/bin/env bash
# The tests that need a GPU, with the reports that a runner uploads: JUnit, JSON, HTML, and what the driver says.
#
#   ci/gpu.sh [PYTEST_ARGUMENT...]        BIN=.venv/bin REPORTS=build/gpu WORKERS=4 ci/gpu.sh -k memory
#
# `--gpu` where there is none is an error, never a green run that skipped everything. Workers beyond the GPUs take turns on them.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${BIN:-.venv/bin}
reports=${REPORTS:-build/gpu}
mkdir -p "$reports"

if command -v nvidia-smi >/dev/null; then
    timeout -k 5 60 nvidia-smi -q >"$reports/nvidia-smi.txt" 2>&1 || echo "nvidia-smi: no answer, see $reports/nvidia-smi.txt" >&2
fi

# a driver that hangs must not hang the job before anything is reported
devices=$(timeout -k 5 300 "$bin/python" - <<'PYTHON'
import sys

import torch

count = torch.cuda.device_count()
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {count} devices", file=sys.stderr)
for index in range(count):
    free, total = torch.cuda.mem_get_info(index)
    print(f"  {index}: {torch.cuda.get_device_name(index)}, {free >> 20} of {total >> 20} MiB free", file=sys.stderr)
print(count)
PYTHON
)

status=0
"$bin/pytest" --gpu -n "${WORKERS:-auto}" -o junit_family=xunit2 --junitxml "$reports/junit.xml" \
    --llmguard-json "$reports/report.json" --llmguard-html "$reports/report.html" "$@" || status=$?

# a worker of xdist has one GPU: what needs several runs in one process
if [ "$devices" -ge 2 ]; then
    several=0
    "$bin/pytest" --gpu -n 0 -m "gpu(count=2)" -o junit_family=xunit2 --junitxml "$reports/junit-several.xml" tests/gpu || several=$?
    [ "$status" -ne 0 ] || status=$several
fi
exit "$status"

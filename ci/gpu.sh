#!/usr/bin/env bash
# The tests that need a GPU, with the reports that a runner uploads: JUnit, JSON, HTML.
#
#   ci/gpu.sh [PYTEST_ARGUMENT...]        BIN=.venv/bin REPORTS=build/gpu ci/gpu.sh -k memory
#
# `--gpu` where there is none is an error, never a green run that skipped everything.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${BIN:-.venv/bin}
reports=${REPORTS:-build/gpu}
mkdir -p "$reports"

"$bin/python" - <<'PYTHON'
import torch

print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices")
for index in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(index)
    print(f"  {index}: {torch.cuda.get_device_name(index)}, {free >> 20} of {total >> 20} MiB free")
PYTHON

exec "$bin/pytest" --gpu -n "${WORKERS:-auto}" -o junit_family=xunit2 --junitxml "$reports/junit.xml" \
    --llmguard-json "$reports/report.json" --llmguard-html "$reports/report.html" "$@"

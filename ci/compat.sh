#!/usr/bin/env bash
# The suite where users are, not where we are: without torch, on the oldest dependencies promised, on the other Pythons.
#
#   ci/compat.sh FOLDER no-torch       the newest base dependencies, no torch: the checks library must work
#   ci/compat.sh FOLDER lowest         pytest 8.0 and the oldest base dependencies
#   ci/compat.sh FOLDER pythons        every other Python from 3.10 to 3.13 that is on this machine
#   ci/compat.sh FOLDER transformers   the oldest transformers promised (installs torch: minutes)
#
# Tests that need torch skip themselves there (the marker needs_torch).
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
which=$2
here=$("${PYTHON:-python3}" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

run_suite() { # environment, paths...
    local bin=$1/bin
    shift
    if "$bin/python" -c 'import torch' 2>/dev/null; then
        echo "ci/compat.sh: torch is installed in $bin: this run is to show that the suite does without" >&2
        exit 1
    fi
    timeout -k 30 900 "$bin/pytest" -n 2 --dist worksteal -q -r fE "$@"
}

existing() { # the folders of the suite that there are
    local each
    for each in "$@"; do if [ -d "$each" ]; then echo "$each"; fi; done
}

case $which in
no-torch)
    ci/venv.sh "$folder/no-torch" -c ci/constraints.txt -e ".[test]"
    run_suite "$folder/no-torch" tests regressions
    ;;
lowest)
    ci/venv.sh "$folder/lowest" -c ci/lowest.txt -e ".[test]"
    run_suite "$folder/lowest" $(existing tests/plugin tests/checks tests/unit tests/cli tests/reporting)
    ;;
pythons)
    failed=()
    for version in 3.10 3.11 3.12 3.13; do
        [ "$version" != "$here" ] || continue
        python=$(ls -d "$HOME"/.pyenv/versions/"$version".*/bin/python 2>/dev/null | sort -V | tail -1 || true)
        python=${python:-$(command -v "python$version" || true)}
        if [ -z "$python" ] || ! "$python" -c '' 2>/dev/null; then
            echo "-- Python $version: not on this machine"
            continue
        fi
        echo "-- Python $version"
        PYTHON=$python ci/venv.sh "$folder/py$version" -c ci/constraints.txt -e ".[test]"
        run_suite "$folder/py$version" $(existing tests/plugin tests/checks tests/unit tests/cli tests/probe) || failed+=("$version")
    done
    [ ${#failed[@]} -eq 0 ] || { echo "ci/compat.sh: failed on Python ${failed[*]}" >&2 && exit 1; }
    ;;
transformers)
    ci/venv.sh "$folder/transformers" -e ".[train,data,test]" "transformers==4.45.*" "peft==0.13.*"
    "$folder/transformers/bin/pytest" -n 2 --dist worksteal -q -r fE tests regressions
    ;;
*)
    sed -n '2,9p' "$0" >&2
    exit 2
    ;;
esac

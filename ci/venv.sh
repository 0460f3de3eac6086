#!/usr/bin/env bash
# Make a virtual environment and put packages into it; say what to do where that cannot work.
#
#   ci/venv.sh FOLDER PIP_ARGUMENT...        PYTHON=python3.12 ci/venv.sh build/py312 -e ".[test]"
#
# A folder that already holds an environment is kept and brought up to date.
set -euo pipefail

folder=$1
shift
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    echo "ci/venv.sh: no $python here: install Python 3.10 or later, or name one: make PYTHON=/path/to/python3" >&2
    exit 1
fi
"$python" -c '
import sys
if sys.version_info < (3, 10):
    sys.exit(f"ci/venv.sh: {sys.executable} is Python {sys.version.split()[0]}: 3.10 or later is needed; make PYTHON=/path/to/python3 names another")
'
if [ ! -x "$folder/bin/python" ] && ! "$python" -m venv "$folder"; then
    rm -rf "$folder"
    echo "ci/venv.sh: $python cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv" >&2
    exit 1
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/bin/python" -m pip install -qq "$@" # errors alone: the machine's own pip settings may warn of much

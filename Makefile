# Every target sets up what it needs in .venv, and runs.   make help
#
#   PYTHON   the Python that .venv is made with (3.10 or later)       make test PYTHON=python3.12
#   VENV     another folder for the environment                       make test VENV=/tmp/fresh
#   ARGS     more arguments for the command that a target runs        make test ARGS="-k masking -x"

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
WORKERS ?= 2

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help demo finetune test soak mutants lint bench gpu lab constraints clean

help:  ## what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

$(READY): pyproject.toml ci/constraints.txt ci/venv.sh
	@echo "setting up $(VENV): this takes some minutes, once"
	@ci/venv.sh $(VENV) -c ci/constraints.txt -e ".[all]"
	@touch $@

demo: $(READY)  ## find the bugs of a planted project, pass a clean one
	@$(BIN)/python examples/demo.py $(ARGS)

finetune: $(READY)  ## fine-tune a small model, evaluate, compare: minutes on a CPU
	@$(BIN)/python examples/finetune/run.py $(ARGS)

test: $(READY)  ## the whole test suite
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal --llmguard-bugs=regressions $(ARGS)

soak: $(READY)  ## hundreds of crashes, and all else that takes minutes
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m soak $(ARGS)

mutants: $(READY)  ## break each check in small ways, take each guard away: which test goes red
	@$(BIN)/python ci/guards.py --workers $(WORKERS)
	@$(BIN)/python ci/mutants.py --workers $(WORKERS) $(ARGS)

lint: $(READY)  ## the law of the rooms, ruff, mypy, deptry
	@$(BIN)/python ci/layers.py
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/deptry .

bench: $(READY)  ## measure: ours, the peers, the limit, in one run
	@for each in benchmarks/*.py; do $(BIN)/python $$each $(ARGS) || exit 1; done

gpu: $(READY)  ## the tests that need a GPU
	@BIN=$(BIN) ci/gpu.sh $(ARGS)

lab: $(READY)  ## build the tiny models of the lab
	@$(BIN)/python -m llmguard_core.lab $(ARGS)

constraints:  ## renew ci/constraints.txt: the newest of everything, in a fresh environment
	@rm -rf build/constraints
	@ci/venv.sh build/constraints --upgrade -e ".[all]"
	@build/constraints/bin/python ci/freeze.py > build/constraints.txt
	@mv build/constraints.txt ci/constraints.txt

clean:  ## all that was made here, except .venv
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* src/*.egg-info *.egg-info
	@find src pytest_llmguard tests regressions benchmarks examples ci -name __pycache__ -type d -prune -exec rm -rf {} +

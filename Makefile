# Every target sets up .venv by itself when it is missing or older than pyproject.toml or constraints.txt.
# `make` alone lists the targets. With another interpreter: make PYTHON=python3.12 setup

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# Without constraints.txt pip takes the newest torch and, on Linux, gigabytes of CUDA with it.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

# Where the public data sets lie: what the caller says, else a folder beside the checkout, else data/.
ifeq ($(strip $(RAYSYS_DATA)),)
RAYSYS_DATA := $(or $(abspath $(wildcard ../shared/data)),data)
endif
export RAYSYS_DATA

# One target per script. Files that start with _ or serve the others (peers.py) are no benchmarks; gpu.py needs a GPU.
BENCHMARKS := $(filter-out bench-_% bench-peers bench-gpu,$(patsubst benchmarks/%.py,bench-%,$(wildcard benchmarks/*.py)))
EVIDENCE := $(filter-out evidence-_%,$(patsubst benchmarks/evidence/%.py,evidence-%,$(wildcard benchmarks/evidence/*.py)))

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two measurements at once would spoil each other
.PHONY: help packages setup demo test check docs results bench evidence clean distclean $(BENCHMARKS) $(EVIDENCE)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make or renew .venv (the other targets do it by themselves)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV); the first time takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## from logs to recommendations, on this machine, in minutes
	$(BIN)/raysys demo

# The tests of the store in Redis need its server; where it is missing and cannot be installed they are skipped.
packages:
	@command -v redis-server >/dev/null || \
	{ test "$$(id -u)" = 0 && apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	apt-get -qq install --yes --no-install-recommends redis-server; } >/dev/null 2>&1 || \
	echo "no redis-server: tests of the store in Redis are skipped"

# Tests with processes or a Ray of their own count on the machine, so they run one by one.
test: $(STAMP) packages  ## what CI runs: everything but the slow tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not cluster and not process"
	$(BIN)/python -m pytest -m "not slow and (cluster or process)"

check: $(STAMP)  ## format, lint, types, arrows and the fast tests: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -n auto -m "not slow and not cluster and not process and not thorough"

docs: $(STAMP)  ## regenerate the reference pages from the code
	$(BIN)/python docs/generate.py

results: $(STAMP)  ## docs/results.md from the figures that `make evidence-quality` and `evidence-multitask` recorded
	$(BIN)/python docs/results_page.py

bench: $(BENCHMARKS)  ## quick benchmarks into benchmarks/results/NAME.json (one: make bench-NAME)

$(BENCHMARKS): bench-%: $(STAMP)
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/$*.py --quick -o benchmarks/results/$*.json

evidence: $(EVIDENCE)  ## the long proofs; stopped, they go on where they were (one: make evidence-NAME)

$(EVIDENCE): evidence-%: $(STAMP)
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/evidence/$*.py -o benchmarks/results/evidence-$*.json

clean:  ## remove caches, build products and store/ (the datasets and runs made here); keeps .venv
	rm -rf build dist *.egg-info store .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv as well
	rm -rf $(VENV)

# Each target works from a fresh clone: the first one that runs makes $(VENV) and installs the pinned versions into it.
PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 5

SHELL := /bin/bash
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log
# The tests run two processes of one thread each: more threads than cores make small tensors slower, not faster.
# transformers' common tests are fetched with pip; that they cannot be is an error here, and a skip elsewhere.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
  SAILVIT_REQUIRE_CONFORMANCE=1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow compat lint format bench evidence clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make the virtual environment and install the pinned versions

$(STAMP): pyproject.toml setup.cfg constraints.txt
	@command -v $(PYTHON) >/dev/null \
	  || { echo "error: there is no command $(PYTHON); name a Python 3.10 or newer, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $$($(PYTHON) --version) is too old, 3.10 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { echo "error: $(PYTHON) cannot make $(VENV); its venv module may be missing (Debian: apt install python3-venv)" >&2; \
	       rm -rf $(VENV); exit 1; }
	@echo "Installing the packages of constraints.txt into $(VENV); minutes the first time, written to $(LOG)."
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev,export]' >$(LOG) 2>&1 \
	  || { why=$$(grep -oE 'No matching distribution .*|\(constraint\) .*' $(LOG) | head -n 1); \
	       why=$${why:-$$(grep -oE 'ERROR: .*' $(LOG) | tail -n 1)}; \
	       echo "error: a package could not be installed: $${why:-$$(tail -n 1 $(LOG))} (whole log: $(LOG))" >&2; exit 1; }
	@touch $@

demo: $(STAMP)  ## Refine a small backbone in three stages on real pictures; ends with the path of the report
	@$(BIN)/sailvit refine recipes/demo.yaml --resume

test: $(STAMP)  ## Run the tests, without the slow ones
	@$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadscope -q -rfE

test-slow: $(STAMP)  ## Run the slow tests
	@$(TEST_ENV) $(BIN)/python -m pytest -q -m slow

compat: $(STAMP)  ## Run the tests with each supported version of transformers; writes docs/compatibility.md
	@$(BIN)/python -m tests.compat.run

lint: $(STAMP)  ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)  ## Mend what the style check can mend
	@$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Time the vision tower's forward pass and training step on this machine
	@$(BIN)/python benchmarks/vision_tower.py

evidence: $(STAMP)  ## The full comparison over SEEDS seeds (hours), into docs/results/
	@$(BIN)/sailvit evidence recipes/demo.yaml --seeds $(SEEDS)

clean:  ## Remove runs, caches and the virtual environment
	rm -rf runs .cache build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info $(VENV)

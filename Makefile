# Every target does its own set-up and may be called again and again. Needs root for what touches
# real mounts, machines and networks; says so where it is missing.
SHELL := /bin/bash
PYTHON := .venv/bin/python
ROUNDS ?= 1
SEEDS ?= 300
ROWS ?= *

.PHONY: setup demo test check bench sim soak wheel clean

setup:
	@bash tools/setup.sh

demo: setup wheel
	@$(PYTHON) -m everup lab demo --rounds $(ROUNDS)

test: setup wheel
	@$(PYTHON) -m pytest tests

check: setup
	@$(PYTHON) tools/check.py

bench: setup wheel
	@$(PYTHON) -m tests.bench.run --rows '$(ROWS)'

sim: setup
	@$(PYTHON) tests/sim/run.py --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

soak: setup wheel
	@$(PYTHON) -m tests.soak.run $(PART)

wheel: setup
	@bash tools/wheel.sh

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# make demo       install, and train the same small network with five extractors
# make test       install, and run the tests: every law of the package by its cheapest cases. Budget: 8 minutes on two cores
# make thorough   every case of every test. Adds to `make test` what is marked `thorough` or left out by `sampled(n)`: more random
#                 calls, shapes and layouts of the same laws, compilations for every GPU, kills and resumes of whole sweeps. Budget: 45 minutes
# make slurm      sweeps and runs on a SLURM cluster of this machine; skipped, with the reason, where SLURM is missing. Budget: 4 minutes
# make check      what a change must pass: lint, types, wheel, docs, slurm, test. Budget: 20 minutes on two cores, with nothing
#                 cached, the sum of its parts': 1, 2, 2, 3, 4 and 8
# make docs       the documentation site in build/docs, without network; every warning is an error. Budget: 3 minutes
# make gpu        on a machine with a GPU: values, speed, rivals, counters, tests, in at most nine minutes; ARGS=--list says what it would do
# A second call reuses .venv. PYTHON names another interpreter, 3.11 or newer; WORKERS is the number of tests that run side by side.
PYTHON ?= python3
WORKERS ?= 2
SLURM := tests/sweeps/test_slurm.py
BIN := .venv/bin
SHELL := /bin/bash
# Once for all workers, which would each do it for themselves.
compile_ahead = { $(BIN)/python -m unified_extractor compile & $(BIN)/python -m unified_extractor compile --dtypes float64 & wait; } > /dev/null 2>&1
timed = TIMEFORMAT="make $@: %lR of $(1) minutes"; time

.PHONY: demo test thorough slurm gpu docs check lint types wheel clean

demo: .venv/installed
	$(BIN)/python -m unified_extractor demo

test: .venv/installed-dev
	@$(call timed,8) { $(compile_ahead); $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore=$(SLURM); }

slurm: .venv/installed-dev
	@$(call timed,4) $(BIN)/python -m pytest -rs $(SLURM)

thorough: .venv/installed-dev
	@$(call timed,45) { $(compile_ahead); $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --thorough --ignore=$(SLURM); }

gpu: .venv/installed-dev
	@$(call timed,9) $(BIN)/python -m unified_extractor gpu $(ARGS)

check: .venv/installed-dev
	@$(call timed,20) $(MAKE) --no-print-directory lint types wheel docs slurm test -j1

docs: .venv/installed-dev
	@$(call timed,3) $(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -c docs . build/docs
	@echo "Open build/docs/index.html"

lint: .venv/installed-dev
	@$(call timed,1) { $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/cffconvert --validate --infile CITATION.cff; }

types: .venv/installed-dev
	@$(call timed,2) $(BIN)/mypy

# The built package, in an environment without the checkout, brings everything it needs: it trains from an empty folder.
wheel: .venv/installed-dev
	@$(call timed,2) bash .ci/wheel

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "unified_extractor needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing unified_extractor and PyTorch into .venv: a few minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,compiled]'
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing unified_extractor, PyTorch and the test tools into .venv: a few minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv

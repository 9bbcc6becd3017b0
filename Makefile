# make demo: install and train the same small network with five extractors. make test: install and run the tests.
# make thorough: every case of every test, which takes more than twice as long.
# A second call reuses .venv. PYTHON names another interpreter, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test thorough lint clean

demo: .venv/installed
	$(BIN)/python experiments/00_first_look/run.py

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

thorough: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --thorough

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cffconvert --validate --infile CITATION.cff

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "unified_extractor needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing unified_extractor and PyTorch into .venv: a few minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[compiled]'
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing unified_extractor, PyTorch and the test tools into .venv: a few minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv

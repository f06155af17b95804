# Three targets, which need Python 3.11 or newer, make and a package index:
#   make quickstart        install into .venv and run the main experiment
#   make test              install the development tools, lint, check types and imports, test
#   make test-deployment   the tests that start Ray, a SuperLink and SuperNodes: some minutes

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

export FLWR_TELEMETRY_ENABLED := 0
export OMP_WAIT_POLICY := PASSIVE  # waiting threads that spin make small operations crawl on shared cores

PARALLEL := --numprocesses 2 --dist loadfile  # a file of tests shares what it took long to make

.PHONY: quickstart test test-deployment clean

quickstart: .venv/installed
	$(BIN)/fedrec run experiments/quickstart.toml

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(PARALLEL)

test-deployment: .venv/installed-dev
	$(BIN)/pytest -m deployment $(PARALLEL)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv

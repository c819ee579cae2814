# make demo   train a small text-to-audio model here, render prompts, measure them
# make test   run the tests, but for the slow ones
# make test-slow  run the slow ones
# make check  tests, lint, format and types
# make test-sweep  tests with other numbers of threads and instruction sets; what is near its tolerance
# Each sets up what it needs in $(VENV).

VENV ?= .venv
PYTHON ?= python3
DEMO ?= runs/demo
# One test process per core; files stay whole, since tests of a file share what they build.
PYTEST_FLAGS ?= -q -n auto --dist loadfile
# For example: --only 2-threads -- tests/nn
SWEEP_FLAGS ?=
PY := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-slow test-sweep lint check clean

help:
	@sed -n 's/^# //p' Makefile | head -n 6

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created setup.py scripts/install.py
	$(PY) scripts/install.py --extras train
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created setup.py scripts/install.py
	$(PY) scripts/install.py --extras dev
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

demo: install
	$(PY) scripts/demo.py --out $(DEMO)

test: install-dev
	$(PY) -m pytest $(PYTEST_FLAGS) -m "not slow"

test-slow: install-dev
	$(PY) -m pytest $(PYTEST_FLAGS) -m slow

test-sweep: install-dev
	$(PY) scripts/sweep.py $(SWEEP_FLAGS)

lint: install-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

check: lint test

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Every target sets up what it needs; nothing but Python 3.11 or later (with its venv module), make and a shell is assumed.
# `make test PYTHON=python3.12` works in a virtual environment of its own (.venv-3.12).
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ifdef PYTHON
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error $(PYTHON) does not run))
VENV ?= .venv-$(VERSION)
else
VENV ?= .venv
# The first interpreter that runs and is new enough (a shim may exist and not run).
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
endif
BIN := $(VENV)/bin
# Pip's own configuration is respected; a quiet pip leaves errors on the screen.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints/py$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep="")').txt
# What the installed environment depends on; the stamps are compared with it.
SETUP := pyproject.toml $(wildcard constraints/*.txt)

.PHONY: help .venv demo test lint types style docs bench calibration scaling parity train constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; name one: make ... PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# What a user installs: enough for the demo.
$(VENV)/.stamp-run: $(BIN)/python $(SETUP)
	@echo "installing ppl into $(VENV) (once; a few minutes)"
	@$(PIP_INSTALL) --editable .
	@touch $@

# That and the tools of development, at once. Python compiles what is imported, which is a part of what is installed.
$(VENV)/.stamp-dev: $(BIN)/python $(SETUP)
	@echo "installing ppl and the tools for tests, linting and docs into $(VENV) (once; a few minutes)"
	@$(PIP_INSTALL) --no-compile --editable '.[test,docs,lint]'
	@touch $(VENV)/.stamp-run $@

.venv: $(VENV)/.stamp-dev  ## build the virtual environment alone, tools of development included

demo: $(VENV)/.stamp-run  ## solve Game-of-24 puzzles with the bundled models (under three minutes)
	$(BIN)/ppl solve game24 --out build/demo

test: $(VENV)/.stamp-dev  ## every check: style, types, layers, documentation, tests
	$(MAKE) --no-print-directory --jobs 2 lint docs VENV=$(VENV)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: types style  ## style, types and layers

types: $(VENV)/.stamp-dev  ## types (basedpyright)
	$(BIN)/basedpyright --pythonpath $(BIN)/python

style: $(VENV)/.stamp-dev  ## style and layers (ruff, import-linter)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.stamp-dev  ## build the documentation into site/, strictly
	$(BIN)/zensical build --strict --clean

bench: $(VENV)/.stamp-dev  ## particle filter, risk posterior, ppl.infer and language models beside peers
	$(BIN)/python tests/benchmarks/particle_filter.py
	$(BIN)/python tests/benchmarks/risk_speed.py
	$(BIN)/python tests/benchmarks/inference_speed.py
	$(BIN)/python tests/benchmarks/lm_decode.py
	$(BIN)/python tests/benchmarks/lm_particles.py
	$(BIN)/python tests/benchmarks/speculation.py

calibration: $(VENV)/.stamp-dev  ## accuracy and coverage in long runs: risk.fit, ppl.infer against references
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -m calibration
	$(BIN)/python tests/benchmarks/risk_calibration.py

scaling: $(VENV)/.stamp-dev  ## decoding methods beside each other over five seeds: the README's table
	$(BIN)/python tests/benchmarks/test_time_scaling.py

build/transformers/.stamp:
	$(PYTHON) -m venv build/transformers
	build/transformers/bin/python -m pip install --quiet --disable-pip-version-check torch transformers
	@touch $@

parity: $(VENV)/.stamp-run build/transformers/.stamp  ## do our model folders compute the same in transformers?
	$(BIN)/python tests/parity/transformers_parity.py

train: $(VENV)/.stamp-dev  ## train the bundled models again from their recipes (up to 90 minutes on two cores)
	$(BIN)/python models/countdown/train.py
	$(BIN)/python models/countdown-prm/train.py
	$(BIN)/python models/evaluate.py

constraints:  ## pin the newest versions of everything for each supported Python found here
	./constraints/make.sh

clean:  ## remove what was built; virtual environments stay
	rm -rf build dist site

# `make demo` and `make test` are all that a new user needs; both set up first.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help setup demo test lint types bench bench-quick soak audit notebook docs

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup: .venv/.ready  ## .venv with the project and what its tests need; nothing when nothing changed

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the depth x freezing grid on a synthetic set, to a report
	$(BIN)/python -m leukemia.train --multirun experiment=demo

test: setup  ## all tests
	$(BIN)/python -m pytest --numprocesses 2

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy
	$(BIN)/mypy

bench: setup  ## this package, a plain Lightning loop and the limit side by side; writes benchmarks/results.md
	$(BIN)/python benchmarks/run.py

bench-quick: setup  ## the same in minutes: ResNet18, few images; writes outputs/bench-quick.md
	$(BIN)/python benchmarks/run.py --data synthetic --depths 18 --head-images 320 --images 64 --plain-epochs 1 \
	  --output outputs/bench-quick.md

soak: setup  ## 200 short runs in one sweep that is killed every few seconds; writes outputs/soak/soak.json
	$(BIN)/python benchmarks/soak.py

audit: setup  ## known vulnerabilities of the pinned packages; skips offline
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'pip-audit>=2.9' \
	  || { echo "audit: skipped, pip-audit cannot be installed here"; exit 0; }; \
	$(BIN)/python .ci/audit.py

notebook: setup  ## open the quickstart
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/jupyter lab notebooks/quickstart.ipynb

docs: setup  ## the pages of docs/ as a site in site/, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

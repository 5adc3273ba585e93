# A new user needs `make demo` and `make test` only. Both set up first.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
HYDRA14 := hydra-core==1.4.0rc3 omegaconf==2.4.1rc1
ROUNDS ?= 3
GPU_PYTHON ?= 3.12
GPU_WHEELS ?= hydra-core omegaconf
EXAMPLES ?= 1000
.DEFAULT_GOAL := help

.PHONY: help setup demo pictures test test-all test-hydra14 fuzz lint types bench bench-quick bench-engines bench-gpu wheels soak audit
.PHONY: notebook docs

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

setup: .venv/.ready  ## .venv with the project and the packages of its tests

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: outputs/pretrain/metrics.json  ## frozen against fine-tuned on synthetic cells, to a report
	$(BIN)/python -m leukemia.train --multirun experiment=demo

outputs/pretrain/metrics.json: | setup
	$(BIN)/python -m leukemia.train experiment=pretrain

pictures: demo  ## docs/report.png and docs/review.png, from the demo's outputs (needs Chromium)
	$(BIN)/python .ci/pictures.py

test: setup  ## the quick tests: every feature, the same examples in every run, some minutes
	$(PYTEST) -m 'not (slow or slurm or chromium)'

test-all: setup  ## all tests
	$(PYTEST)

test-hydra14: setup .hydra14/.ready  ## the tests of configuration and sweeps on the Hydra 1.4 candidate
	PYTHONPATH=$(CURDIR)/.hydra14 HYDRA_DEPRECATION_WARNINGS_AS_ERRORS=1 PYTHONWARNINGS='error:Implicit conversion' \
	  $(PYTEST) $(wildcard tests/test_conf*.py tests/test_identity*.py tests/training/test_sweep*.py) \
	  tests/hydra_plugins tests/slurm/test_search.py

.hydra14/.ready: Makefile
	rm -rf .hydra14
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .hydra14 $(HYDRA14)
	@touch $@

fuzz: setup  ## the property tests with EXAMPLES=1000 fresh examples each, ROUNDS=3 times
	@for round in $$(seq $(ROUNDS)); do \
	  EXAMPLES=$(EXAMPLES) $(PYTEST) --timeout 3600 -m hypothesis --hypothesis-profile fuzz -p no:cacheprovider || { \
	    echo 'A finding: write its "Falsifying example" as @example(...) above the test, mend the code, commit both.'; \
	    exit 1; }; \
	done

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy
	$(BIN)/mypy

bench: setup  ## this package, a plain Lightning loop and the limit side by side; writes benchmarks/results.md
	$(BIN)/python benchmarks/run.py

bench-quick: setup  ## the same in minutes, ResNet18 and few images; writes outputs/bench-quick.md
	$(BIN)/python benchmarks/run.py --data synthetic --depths 18 --head-images 320 --images 64 --plain-epochs 1 \
	  --output outputs/bench-quick.md

bench-engines: setup  ## engines for frozen stages, and a shared machine, in minutes; writes benchmarks/results-engines.md
	$(BIN)/python benchmarks/engines.py

bench-gpu:  ## checks and speed of one GPU in 8 minutes; writes benchmarks/results-gpu.md; needs no network after make wheels
	test ! -d wheels || $(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target .wheels wheels/*.whl
	PYTHONPATH=$(CURDIR):$(CURDIR)/.wheels $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(GPU_OPTIONS)

wheels: setup  ## packages to carry to a machine without network that has torch and Lightning, for Python $(GPU_PYTHON)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir wheels antlr4-python3-runtime==4.9.3
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) \
	  --constraint constraints.txt --dest wheels $(GPU_WHEELS)

soak: setup  ## half an hour of sweeps that are killed at random; writes outputs/soak/soak.json and soak.md
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

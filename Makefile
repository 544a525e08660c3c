# `make pretrain` and `make test` set everything up by themselves: Python 3.11 or newer and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The data of `make pretrain`: recordings or prepared shards. The default is simulated.
DATA ?= sim://default
RUN ?= runs/$(if $(filter sim://%,$(DATA)),simulated,$(notdir $(abspath $(DATA))))
# Steps of the simulated default: a few minutes on two cores. Your data take the job's own default.
STEPS ?= $(if $(filter sim://%,$(DATA)),300)
ARGS ?=

.PHONY: pretrain backbones test test-all lint audit setup docs clean

pretrain: $(READY)
	@$(BIN)/python -m forebrain pretrain --data "$(DATA)" --out "$(RUN)" $(if $(STEPS),--training.steps $(STEPS)) $(ARGS)

# The backbones that come with the package, again from the download on, into a registry of their own. Needs the
# network, and two hours at most.
BACKBONES ?= macaque zebrafish all-species
backbones: $(READY)
	@for name in $(BACKBONES); do $(BIN)/python -m forebrain study backbone --config $$name \
		--out runs/backbones/$$name --registry runs/backbones/registry $(ARGS); done

# Tests in two processes; what ARGS names, in one, which starts sooner. Those marked slow run in test-all alone.
# Ray's workers would by default give way to whatever is tested beside them.
PYTEST = OMP_NUM_THREADS=1 RAY_worker_niceness=0 $(BIN)/python -m pytest
PARALLEL = -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	@$(PYTEST) -m "not slow" $(or $(ARGS),$(PARALLEL))

test-all: lint
	@$(PYTEST) $(or $(ARGS),$(PARALLEL))

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Known vulnerabilities of the packages in both lists. Needs the network, so it is no part of `make test`.
audit:
	@echo "Looking packages up in the databases of vulnerabilities; this needs the network ..."
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit==2.10.1
	@$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock \
		--requirement cluster/requirements-cloud.lock

setup: $(READY)

# The documentation as a site, built strictly and served until Ctrl-C; SERVE= only builds it.
SERVE ?= 8000
DOCS := $(VENV)-docs
docs: $(DOCS)/.ready
	@$(DOCS)/bin/mkdocs build --strict --quiet
	@$(if $(SERVE),echo "http://127.0.0.1:$(SERVE)" && $(DOCS)/bin/python -m http.server $(SERVE) --bind 127.0.0.1 \
		--directory build/site,echo "build/site/index.html")

$(DOCS)/.ready: docs/site/requirements.lock
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --disable-pip-version-check --quiet -r docs/site/requirements.lock
	@touch $@

$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) (about two minutes, once) ..."
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		f"Python {sys.version.split()[0]} is too old: forebrain needs 3.11 or newer. Try: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock \
		| cut -c1-110
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import forebrain, ray, torch'
	@touch $(READY)

clean:
	rm -rf $(VENV) $(VENV)-audit $(DOCS) build/site .pytest_cache .mypy_cache .ruff_cache

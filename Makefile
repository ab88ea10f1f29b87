# Everything runs in .venv, which is created if it is missing, and again when pyproject.toml changes.
# It requires make and Python 3.11 or later. It uses uv if installed, and otherwise venv and pip.

SHELL   := /bin/sh
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
BENCH   := .venv-bench# the clients to compare with, which the tests don't need
DOCS    := .venv-docs# Sphinx, which the tests don't need
SOURCES := $(wildcard datastream_ws datastream_ws_django datastream_ws_flask tests example_project benchmarks)

# PYTHON is the interpreter of .venv. WORKERS is how many tests run at a time. auto means the number of
# cores plus two.
PYTHON  ?=
WORKERS ?= auto
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint format bench docs install python clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  ARGS="…" passes options to demo, test and bench, as in make test ARGS="-n 0 -k retry"'

demo: $(STAMP) ## Run a shop with Django, Celery and Flask, whose feed drops and returns
	@$(BIN)/python -m example_project.demo $(ARGS)

test: $(STAMP) ## Run the tests on every core
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

coverage: $(STAMP) ## Check that unit tests cover at least 95 % of the branches of each room
	$(BIN)/python tests/branches.py

lint: $(STAMP) ## Run ruff, mypy --strict, and the checks of users' types, sizes and English
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy $(SOURCES)
	$(BIN)/python tests/typing/check.py
	$(BIN)/python tests/sizes.py
	$(BIN)/python tests/prose.py

format: $(STAMP) ## Format the code and fix what ruff can fix
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(BENCH)/.installed ## Compare datastream-ws with other clients, and write benchmarks/RESULTS.md
	@$(BENCH)/bin/python -m benchmarks $(ARGS)

docs: $(DOCS)/.installed ## Build the documentation in docs/_build/html
	@$(DOCS)/bin/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

install: $(STAMP) ## Create .venv

clean: ## Remove .venv, caches and build products
	rm -rf $(VENV) $(BENCH) $(DOCS) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Run each candidate, because a shim of that name may have no Python behind it.
FIND_PYTHON = found=; for python in $(or $(PYTHON),python3.15 python3.14 python3.13 python3.12 python3.11 python3); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 or later with venv is not installed. Install it (Debian: python3 python3-venv), or run make PYTHON=…" >&2; \
	  exit 1; \
	fi

python: # Print the interpreter of .venv
	@$(FIND_PYTHON); echo "$$found"

# $(call fill,DIRECTORY,GROUPS) creates a venv with the package, its extras and these dependency groups.
# --clear replaces a venv that is incomplete or was moved.
define fill
	@$(FIND_PYTHON); set -e; \
	if uv pip install --help 2>/dev/null | grep -q -e --group; then \
	  echo "$(1): $$found, with uv"; \
	  uv venv --quiet --clear --seed --python "$$found" $(1); \
	  uv pip install --quiet --python $(1)/bin/python $(2:%=--group %) --editable '.[all]'; \
	else \
	  echo "$(1): $$found, with venv and pip"; \
	  "$$found" -m venv --clear $(1); \
	  $(1)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'; \
	  $(1)/bin/python -m pip install --quiet $(2:%=--group %) --editable '.[all]'; \
	fi
	@touch $(1)/.installed
endef

$(STAMP): pyproject.toml
	$(call fill,$(VENV),test lint)

$(BENCH)/.installed: pyproject.toml
	$(call fill,$(BENCH),bench)

$(DOCS)/.installed: pyproject.toml
	$(call fill,$(DOCS),docs)

# Everything runs in .venv, which is made when it is missing and renewed when pyproject.toml changes.
# Needed beforehand: make and a Python >= 3.11. uv is used if there is one, else venv and pip.

SHELL   := /bin/sh
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
BENCH   := .venv-bench# what we are compared with, apart from what the tests run with
DOCS    := .venv-docs# Sphinx, apart from what the tests run with
SOURCES := $(wildcard datastream_ws datastream_ws_django datastream_ws_flask tests example_project benchmarks)

# make PYTHON=… names another interpreter; WORKERS: how many tests at once (auto: two more than cores).
PYTHON  ?=
WORKERS ?= auto
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint format bench docs install python clean

help: ## what can be made (this list)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  ARGS="…" goes on to demo, test and bench: make test ARGS="-n 0 -k retry"'

demo: $(STAMP) ## a shop on Django, Celery and Flask, whose feed drops and comes back
	@$(BIN)/python -m example_project.demo $(ARGS)

test: $(STAMP) ## the tests, on every core
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

coverage: $(STAMP) ## the branches of the rooms that unit tests reach, at least 95 % of them
	$(BIN)/python tests/branches.py

lint: $(STAMP) ## ruff, mypy --strict, what type checkers say of user code, sizes, English
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy $(SOURCES)
	$(BIN)/python tests/typing/check.py
	$(BIN)/python tests/sizes.py
	$(BIN)/python tests/prose.py

format: $(STAMP) ## let ruff format the code and mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(BENCH)/.installed ## ours beside what people use instead: benchmarks/RESULTS.md
	@$(BENCH)/bin/python -m benchmarks $(ARGS)

docs: $(DOCS)/.installed ## the pages, in docs/_build/html
	@$(DOCS)/bin/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

install: $(STAMP) ## only make .venv

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) $(BENCH) $(DOCS) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each candidate is run: a shim of that name may be on the path with no Python behind it.
FIND_PYTHON = found=; for python in $(or $(PYTHON),python3.15 python3.14 python3.13 python3.12 python3.11 python3); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python >= 3.11 with venv here: install one (Debian: python3 python3-venv), or say make PYTHON=…" >&2; \
	  exit 1; \
	fi

python: # prints the interpreter that .venv is made with
	@$(FIND_PYTHON); echo "$$found"

# $(call fill,DIRECTORY,GROUPS): a venv with the package, its extras and these dependency groups.
# --clear: a half-made or moved one must not stay in the way.
define fill
	@$(FIND_PYTHON); set -e; \
	if uv pip install --help 2>/dev/null | grep -q -e --group; then \
	  echo "$(1): $$found, with uv"; \
	  uv venv --quiet --clear --python "$$found" $(1); \
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

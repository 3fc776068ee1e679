# Every target says what it does: `make` prints the list. CI runs `check` and `test`, nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

BIN := .venv/bin
ARGS ?=
FUZZ ?= 600
PACKAGES := mailgate connectors retention
# A worker for each processor, each with servers of its own; whoever is done takes tests of the others.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
# Modules are compiled once, not by each of the many processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo run test check format bench soak setup lock docs picture clean

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## The main job on generated mail, start to finish; then serves it (ARGS=--exit ends instead)
	@.ci/setup-venv run
	@$(BIN)/mailgate demo $(ARGS)

run: ## Serve on embedded defaults (SQLite, local files), state in ./data
	@.ci/setup-venv run
	@$(BIN)/mailgate serve $(ARGS)

test: ## Set up everything and run all tests (ARGS="-k purge -x" goes to pytest; -n0: in one process)
	@.ci/setup-venv dev
	@.ci/setup-servers
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: ## ruff, mypy --strict and the laws of import-linter
	@.ci/setup-venv dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES:%=-p %)
	$(BIN)/lint-imports --no-logo

format: ## Format the code and mend what ruff can mend
	@.ci/setup-venv dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: ## Measure everything beside its peers and raw limits (ARGS=import: only tests/bench/bench_import.py)
	@.ci/setup-venv dev
	@.ci/setup-servers
	@for bench in $(if $(ARGS),$(ARGS),$(patsubst tests/bench/bench_%.py,%,$(sort $(wildcard tests/bench/bench_*.py)))); do \
		printf '\n=== %s\n' $$bench; $(BIN)/python -m tests.bench.bench_$$bench; \
	done

soak: ## The long tests: far more examples for every property, then FUZZ seconds (600) of fuzzing
	@.ci/setup-venv soak
	@.ci/setup-servers
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest $(PARALLEL) -m "not bench" --timeout=7200 $(ARGS)
	@for fuzz in $(patsubst tests/fuzz/fuzz_%.py,%,$(wildcard tests/fuzz/fuzz_*.py)); do \
		$(BIN)/python -m tests.fuzz.fuzz_$$fuzz -max_total_time=$(FUZZ); \
	done

setup: ## Make .venv with everything for development, and install the servers that the tests use
	@.ci/setup-venv dev
	@.ci/setup-servers

lock: ## Pin the dependencies anew (config/lock/*.txt)
	@.ci/setup-venv dev
	@.ci/lock

docs: ## Write anew the parts of docs/ that come from the code
	@.ci/setup-venv dev
	@$(BIN)/python -m tests.docs.generate

picture: ## Take the pictures in README and docs anew: of make demo (docs/demo.svg), of the pages (docs/pages-*.png)
	@.ci/setup-venv dev
	@.ci/setup-servers
	@$(BIN)/mailgate demo --exit --record docs/demo.svg
	@PICTURES=$(CURDIR)/docs $(BIN)/python -m pytest -n0 -q -k "picture" tests/browser

clean: ## Remove .venv, caches and the data of demo and run
	rm -rf .venv .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

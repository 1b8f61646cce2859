# `make` alone lists the targets. They need Python 3.11 to 3.13, make and a package index; nothing else.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

RUN := .venv/bin/python

# By environment, never as an argument: a target holds a password, and arguments are seen in the process list.
# `value`, so that a `$` in a password stays what it is. Only from the command line: these names are too common to
# take them from the environment, where PGFERRY_TARGET and PGFERRY_SOURCE do it.
ifeq ($(origin TARGET),command line)
export PGFERRY_TARGET := $(value TARGET)
endif
ifeq ($(origin SOURCE),command line)
export PGFERRY_SOURCE := $(value SOURCE)
endif
unexport TARGET SOURCE
export PYTHON ROWS

.PHONY: help venv migrate ui down test corpus bench bench-live faults soak lint types check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  migrate takes SOURCE=app.db  TARGET=postgresql+asyncpg://user:password@host/database  ARGS="--json"'
	@echo '  and, for the sample database, ROWS=2000000. PYTHON=python3.12 chooses the Python of the virtual environment.'

migrate: venv ## move a SQLite database to PostgreSQL and verify every cell; the sample when no SOURCE is named
	@sh scripts/migrate.sh $(ARGS)

ui: venv ## start the Prefect server in the background, register the deployments, print the address
	@$(RUN) -m flows ui

down: ## stop what runs in the background: Prefect's server and worker, the embedded PostgreSQL
	@if [ -x $(RUN) ]; then $(RUN) -m flows down; else echo 'Nothing was started here.'; fi

test: venv ## run the test suite against a real PostgreSQL (PGFERRY_TEST_TARGET names another than the embedded one)
	@sh scripts/test.sh $(ARGS)

corpus: venv ## move the real files of ../shared/corpus, compare every cell, and write docs/corpus.md
	@PGFERRY_CORPUS_PAGE=docs/corpus.md $(RUN) -m pytest -m corpus tests/acceptance/test_corpus.py $(ARGS)

bench: venv ## time whole moves beside pgloader, the guide's way, pandas and the floor (ARGS=--quick tries it and only prints)
	@$(RUN) -m benchmarks.contest $(ARGS)

bench-live: venv ## measure the move without downtime, and write docs/benchmarks.md (ARGS=--quick tries it and only prints)
	@$(RUN) -m benchmarks.live $(ARGS)

faults: venv ## the long variants of tests: faults, kills, random files and names, validations (an hour and more)
	@$(RUN) -m pytest -m slow tests/acceptance tests/integration/test_turns_cut_off.py tests/flows/test_cli_live.py $(ARGS)

soak: venv ## write for MINUTES (30) under one fault after the other, and write docs/benchmarks.md
	@$(RUN) -m benchmarks.soak --minutes $(or $(MINUTES),30) $(ARGS)

lint: venv ## check style and formatting
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: venv ## check types
	@$(RUN) -m mypy

check: test lint types ## all three

clean: ## remove the virtual environment and caches; the data in .pgferry stays
	@rm -rf .venv .venv.installing .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@sh scripts/venv.sh

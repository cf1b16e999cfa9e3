# Everything starts here: `make demo` and `make test` need only Python 3.11+ and make; the rest is installed on the way.
#
#   make test ARGS='-k passenger'     arguments go to pytest
#   make test WORKERS=1              one test file at a time; 2 at once by default
#   make demo WORKERS=2              two hubs; one by default
#   PYTHON=/path/to/python3.12        another interpreter for .venv
#   TRACKING_DATABASE_URL=…           use that database; PostgreSQL is neither installed nor started

VENV := .venv
BIN := $(VENV)/bin
# Where Node came as a wheel, `node` and `npm` stand in .venv/bin too.
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm
ARGS ?=
PORT ?=
DRIVERS ?= 40
WORKERS ?= 2

# Where this is set, all modules are compiled anew at each start of Python; the tests start it often.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install dev demo test lint bench soak simulate lock clean

help: ## Show this list
	@echo "Targets:"
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1|/' | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

install: ## Install what the service needs to run: .venv/bin/tracking, PostgreSQL with PostGIS, the map's libraries
	@./setup.sh runtime

dev: ## Install what the tests need as well: linters, Chromium, Node
	@./setup.sh dev

demo: install ## Run everything on 127.0.0.1 with simulated drivers, and print a passenger's link (PORT=8000 DRIVERS=40 WORKERS=2)
	@exec $(BIN)/tracking demo $(if $(PORT),--port $(PORT)) --drivers $(DRIVERS) $(if $(filter-out file,$(origin WORKERS)),--workers $(WORKERS))

test: dev ## Run all tests: pytest (ARGS='-k name' WORKERS=2) and the pages' own
	@status=0; \
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS) || status=$$?; \
	if [ -d web/test ]; then $(NPM) --prefix web test || status=$$?; else echo "No web/test yet: the pages' tests are skipped."; fi; \
	exit $$status

lint: dev ## Check style and types: ruff, mypy --strict, tsc
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -f web/tsconfig.json ]; then $(NPM) --prefix web run check; else echo "No web/tsconfig.json yet: tsc is skipped."; fi

bench: dev ## Measure speed, memory and loss (ARGS='--shape trips'; ARGS='--help' shows all)
	@exec $(BIN)/python -m driver_sim bench $(ARGS)

soak: dev ## Run a long test (ARGS='kills', 'hubs', 'changed-hubs', 'changes', 'messy', 'churn' or 'attacks'; ARGS='kills --help' shows its arguments)
	@exec $(BIN)/python -m tests.soak $(ARGS)

simulate: install ## Simulate 10 million vehicles on many hubs, from measured figures (ARGS='--vehicles 1000000 --seed 2')
	@exec $(BIN)/python -m driver_sim simulate $(ARGS)

lock: ## Remake the lock files from pyproject.toml, with PyPI's newest versions
	@./setup.sh lock

clean: ## Remove all that was installed or stored here: .venv, .data (the demo's database), web/node_modules, caches
	@./setup.sh clean

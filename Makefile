# Every target sets up what it needs, in the project's own virtual environment (.venv).
SHELL := bash
BIN := .venv/bin
READY := .venv/.bootstrapped
INPUT ?=
# Tests wait as long as they work, so that two processors have room for a third process of them.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-slow check format lint types imports openapi lock bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(READY): requirements/dev.lock requirements/bootstrap.lock pyproject.toml scripts/bootstrap
	@scripts/bootstrap

install: $(READY) ## Set up the virtual environment

demo: $(READY) ## Start a server, give a worker something real to do, show it live (INPUT="..." to say what)
	@$(BIN)/python scripts/demo.py $(if $(value INPUT),--input "$$DEMO_INPUT")
demo: export DEMO_INPUT := $(value INPUT)

serve: $(READY) ## Run the server on http://127.0.0.1:8000, data in ./.handinger
	@$(BIN)/handinger serve

test: $(READY) ## Run the tests
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow"

test-slow: $(READY) ## Run the longer suites too
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

check: lint types imports openapi-check test ## Everything that CI runs

format: $(READY) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell src tests benchmarks docs scripts *.md

types: $(READY)
	$(BIN)/basedpyright

imports: $(READY)
	$(BIN)/lint-imports

openapi: $(READY) ## Write openapi.json anew from the routes
	$(BIN)/python scripts/openapi.py

.PHONY: openapi-check
openapi-check: $(READY)
	$(BIN)/python scripts/openapi.py --check

lock: $(READY) ## Resolve the dependencies anew into requirements/
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade \
	    --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.lock

bench: $(READY) ## Run the benchmarks and print the report
	$(BIN)/python -m benchmarks

clean: ## Remove the virtual environment and caches (never your data)
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# `make` lists what there is. The environment is built by whatever needs it first.

PYTHON3 ?= python3
PYTHON := .venv/bin/python
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help run test coverage lint check bench screenshots format clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-11s %s\n", $$1, $$2 }'

run: $(INSTALLED) ## Start web, worker and beat (PORT=8000); Ctrl-C stops them
	@$(PYTHON) -m project.run

test: $(INSTALLED) ## Run the tests, on SQLite and on PostgreSQL where it answers
	@$(PYTHON) -m tests

coverage: $(INSTALLED) ## Run the tests and report what they cover
	@$(PYTHON) -m tests --coverage

lint: $(INSTALLED) ## Check format, lint, types and missing migrations
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) manage.py makemigrations --check --dry-run

check: lint test ## Run what CI runs: lint, then test

bench: $(INSTALLED) ## Run the benchmarks
	@$(PYTHON) -m benchmarks

screenshots: $(INSTALLED) ## Take the pictures of docs/operators.md anew
	@$(PYTHON) -m tests.browser.screenshots

format: $(INSTALLED) ## Format the code and fix what can be fixed
	$(PYTHON) -m ruff check --fix-only .
	$(PYTHON) -m ruff format .

clean: ## Remove the environment, caches and reports (var/, your data, stays)
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path '*/node_modules/*' -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or newer is needed: install python3, or name yours with make PYTHON3=...' >&2; exit 1; }
	@test -x $(PYTHON) || $(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo 'Python cannot make virtual environments here. On Debian: apt-get install python3-venv' >&2; exit 1; }
	@test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	@echo 'Installing requirements.txt into .venv ...'
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run web worker beat demo demo-typescript test test-real test-rest test-unit lint types arch check bench chaos lock clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv and install everything into it

$(STAMP): requirements.txt requirements-dev.txt
	@test -x $(PY) || $$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(STAMP)

run: install ## Start Conductor; embedded, or services with DATABASE_URL and REDIS_URL
	$(PY) -m conductor_site.server

web: install ## Start only a web process (services mode)
	$(PY) -m conductor_site.server --role web

worker: install ## Start only a worker (services mode)
	$(PY) -m conductor_site.server --role worker

beat: install ## Start only the beat (services mode)
	$(PY) -m conductor_site.server --role beat

demo: install ## Show a killed DBOS executor's workflows being taken over
	$(PY) scripts/demo.py

demo-typescript: install ## The same with the TypeScript SDK; needs Node.js 20
	$(PY) scripts/demo.py typescript

test: install check ## Run every check and test; starts its own PostgreSQL and Redis
	@$(PY) scripts/services.py -- true # installs what is missing, once for both
	@echo "Running the two halves side by side; each is printed when it is through."
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-real test-rest

test-real: install ## Run the tests with real applications, and of outages
	$(PY) scripts/services.py -- $(PY) -m pytest tests/e2e tests/chaos

test-rest: install ## Run all other tests
	$(PY) scripts/services.py -- $(PY) -m pytest --ignore=tests/e2e --ignore=tests/chaos

test-unit: install ## Run the tests that need no servers
	$(PY) -m pytest tests -m "not services"

check: lint types arch ## Run the static checks

lint: install ## Check style and formatting
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: install ## Check types
	$(VENV)/bin/mypy

arch: install ## Check that imports go down the house only, and migrations are complete
	$(VENV)/bin/lint-imports --no-cache
	CONDUCTOR_DATA_DIR=$$(mktemp -d) $(PY) manage.py makemigrations --check --dry-run

bench: install ## Measure against floors of the same run
	$(PY) scripts/services.py -- $(PY) benchmarks/bench.py

chaos: install ## Play every outage at full scale; takes about half an hour
	CHAOS=full $(PY) scripts/services.py -- $(PY) -m pytest -v -s tests/chaos \
		tests/executors/test_hostile_tenant.py tests/e2e/test_paging.py

LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --quiet --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --annotation-style=line

lock: install ## Pin everything that requirements.in and requirements-dev.in need
	$(LOCK) --output-file=requirements.txt requirements.in
	$(LOCK) --output-file=requirements-dev.txt requirements-dev.in

clean: ## Remove what the other targets made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache

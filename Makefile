# Thin: each target makes its environment and calls one program.
.PHONY: up test check bench demo lock clean

up: ## Set up and start Labdock on this machine
	@scripts/env host
	@.venv/bin/labdock up

test: ## Everything: lint, types, unit tests, the real engine, the whole stack, the browser
	@scripts/env dev
	@scripts/prepare-tests
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy
	@.venv/bin/python -m pytest

check: ## Lint, types and unit tests, in under a minute
	@scripts/env dev
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy
	@.venv/bin/python -m pytest -m "not engine and not e2e and not browser"

bench: ## Labdock beside the stock stack, in one run
	@scripts/env dev
	@.venv/bin/python -m bench

demo: ## Labdock with four simulated GPUs, on a machine that may have none
	@scripts/env host
	@.venv/bin/labdock up --simulate-gpus 4

lock: ## Choose new versions of everything and write the lock files
	@scripts/lock

# Thin: each target makes its environment and calls one program.
.PHONY: up test test-images test-gpu check bench demo lock wheels clean

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

test-images: ## Build every built-in image, check it, and write the page of sizes and versions; tens of gigabytes
	@scripts/env dev
	@scripts/prepare-tests
	@.venv/bin/python -m pytest -m images tests/builtin

test-gpu: ## What only a real card can show; on a machine with one, from the folder wheels where there is no registry
	@test -e /proc/driver/nvidia/version || { echo "No NVIDIA driver runs on this machine: there is nothing to try." >&2; exit 1; }
	@scripts/env gpu
	@.venv/bin/python -m pytest -m gpu tests/gpu

wheels: ## Gather what `make test-gpu` installs, to carry along to a machine that reaches no registry
	@scripts/env host
	@.venv/bin/python -m pip download --quiet --no-deps --require-hashes --dest wheels -r requirements/gpu.lock

check: ## Lint, types and unit tests, in under a minute
	@scripts/env dev
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy
	@.venv/bin/python -m pytest -n auto --dist loadfile -m "not engine and not e2e and not browser and not programs"

bench: ## Labdock beside the stock stack, in one run
	@scripts/env dev
	@.venv/bin/python -m bench

demo: ## Labdock with four simulated GPUs, on a machine that may have none
	@scripts/env host
	@.venv/bin/labdock up --simulate-gpus 4

lock: ## Choose new versions of everything and write the lock files
	@scripts/lock

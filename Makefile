# What a contributor runs. CONTRIBUTING.md explains it.
.PHONY: quick test lint format ci
BIN := .venv/bin
PYTEST_ARGS :=

# Tests that start no server of others: under half a minute.
quick:
	$(BIN)/pytest -q -n 2 --dist worksteal $(PYTEST_ARGS) -m 'not (slow or long or redis or balancer or rabbit or glance)' \
	    tests/index tests/registry tests/resolution tests/test_*.py

# Everything: some seven minutes on two cores. Most tests wait for servers more than they compute, so
# that three at a time suit two cores.
test:
	$(BIN)/pytest -n 3 --dist worksteal

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What CI runs. It installs Debian packages where they are missing.
ci:
	.ci/run

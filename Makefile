# What a contributor runs. CONTRIBUTING.md explains it.
.PHONY: quick test lint format ci lock audit fuzz dist
BIN := .venv/bin
PYTEST_ARGS :=

# Tests that start no server of others: under half a minute.
quick:
	$(BIN)/pytest -q -n 2 --dist worksteal $(PYTEST_ARGS) -m 'not (slow or long or redis or balancer or rabbit or glance)' \
	    tests/index tests/registry tests/resolution tests/test_*.py

# Everything: some ten minutes on two cores. Most tests wait for servers more than they compute, so
# that four at a time suit two cores.
test:
	$(BIN)/pytest -n 4 --dist worksteal

# Random input for an hour: runs of some ten minutes each on two free cores, each with a new seed, until
# the time is over. Ends at the first run that finds something. docs/security-tests.md
FUZZ_MINUTES := 60
fuzz:
	end=$$(($$(date +%s) + 60 * $(FUZZ_MINUTES))); \
	while $(BIN)/pytest -n 2 --dist worksteal --timeout 7200 --hypothesis-profile=long -m '' tests/fuzz \
	    tests/security/test_words_for_clients.py tests/security/test_redirect_law.py || exit 1; \
	    [ $$(date +%s) -lt $$end ]; do :; done

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

# Renews the versions and hashes in requirements/: the newest that pyproject.toml allows.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
    --generate-hashes --no-annotate --custom-compile-command 'make lock'
lock: $(BIN)/uv
	$(COMPILE) pyproject.toml --extra all --group dev --group image-build -o requirements/ci.txt
	$(COMPILE) pyproject.toml --extra all -c requirements/ci.txt -o requirements/image.txt
	$(COMPILE) --group image-build -c requirements/ci.txt -o requirements/build.txt

# Known vulnerabilities of what the container image has. Says so where their data cannot be reached.
audit: $(BIN)/pip-audit
	$(BIN)/python .ci/audit.py $(BIN)/pip-audit requirements/image.txt

# What a release consists of: both packages in dist/, checked, installed into a new environment and tried.
dist: $(BIN)/uv
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uv build --quiet --out-dir dist client
	$(BIN)/uvx --quiet twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv venv --quiet dist/venv
	$(BIN)/uv pip install --quiet --python dist/venv "$$(echo dist/glance_resolver-*.whl)[memory]" dist/glance_resolver_client-*.whl
	dist/venv/bin/glance-resolver demo --once
	dist/venv/bin/python -c 'import glance_resolver_client'

$(BIN)/uv $(BIN)/pip-audit:
	$(BIN)/pip install -q -U 'pip>=25.1'
	$(BIN)/pip install -q --group supply-chain

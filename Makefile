# `make serve` and `make test` need git, make and python3 (3.11 or newer); the rest they fetch.

PYTHON ?= python3
CONFIG ?= config/gateway.toml
MATRIX ?= python3.12 python3.13
WORKERS ?= 4
VENV := .venv
BIN := $(VENV)/bin
ATHERIS := atheris==3.0.0
FUZZ_SECONDS := 600
# pyenv offers only the versions that one has chosen; this is all of them.
WITH_PYENV := PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd:)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
UV_COMPILE := -m uv pip compile --quiet --universal --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" pyproject.toml requirements/build.in --extra postgres

# A file of tests stays in one worker, and shares its servers. In a browser's worker no other tests can run after it.
ALL_TESTS = $(1) -m pytest -n $(WORKERS) --dist loadfile --ignore tests/e2e && $(1) -m pytest tests/e2e

ANY_LENGTH := -o faulthandler_timeout=0

.PHONY: help serve test check quick lint format fuzz lock matrix survive soak clean
.DEFAULT_GOAL := help

help:
	@echo "make serve    run a gateway (CONFIG=$(CONFIG))"
	@echo "make test     install what the tests need, then make check"
	@echo "make check    format, lint, types, import contracts, tests (WORKERS=$(WORKERS) at the same time)"
	@echo "make quick    lint, types, import contracts and unit tests, without PostgreSQL: within a minute"
	@echo "make format   let ruff format and mend"
	@echo "make fuzz     the codec and MQTT connections, guided by coverage, FUZZ_SECONDS=$(FUZZ_SECONDS) each"
	@echo "make lock     pin the newest dependencies in requirements/*.lock"
	@echo "make matrix   all tests on further Pythons, those that are here, with the next Django (MATRIX=\"$(MATRIX)\")"
	@echo "make survive  kill a gateway under MQTT traffic again and again (KILLS=50): is anything lost?"
	@echo "make soak     ten minutes of a thousand absent MQTT clients and slow ones (SOAK_S, SOAK_SESSIONS): is memory flat?"
	@echo "make clean    remove environments and caches, not data"

serve: $(VENV)/.runtime
	@exec $(BIN)/gateway serve --config $(CONFIG)

test: $(VENV)/.dev
	@tests/install_services.sh
	@$(MAKE) --no-print-directory check

lint: $(VENV)/.dev
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports

quick: lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -k "not postgresql" tests/unit

check: lint
	@$(call ALL_TESTS,$(BIN)/python)

format: $(VENV)/.dev
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is not; if you have another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "this python3 cannot make environments; install its venv: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python requirements/runtime.lock pyproject.toml
	@echo "installing into $(VENV) ..." >&2
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/runtime.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements/dev.lock pyproject.toml
	@echo "installing into $(VENV), with what the tests need ..." >&2
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.lock
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime

fuzz: $(VENV)/.dev
	@$(BIN)/python $(PIP_INSTALL) $(ATHERIS)
	@for target in codec connections; do \
		mkdir -p .fuzz/$$target; \
		$(BIN)/python tests/fuzz/run.py $$target .fuzz/$$target -artifact_prefix=.fuzz/ \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

lock: $(VENV)/.dev
	@$(BIN)/python $(PIP_INSTALL) uv
	@$(BIN)/python $(UV_COMPILE) --upgrade --python-version 3.11 -c requirements/lts.in -o requirements/runtime.lock
	@$(BIN)/python $(UV_COMPILE) --upgrade --python-version 3.11 -c requirements/runtime.lock --group dev -o requirements/dev.lock
	@$(BIN)/python $(UV_COMPILE) --upgrade --python-version 3.12 -c requirements/next.in --group dev -o requirements/next.lock

matrix:
	@tests/install_services.sh
	@tested=; for name in $(MATRIX); do \
		if ! python=$$($(WITH_PYENV) "$$name" -c 'import sys; print(sys.executable)' 2>/dev/null); then \
			echo "$$name is not here: left out" >&2; \
			continue; \
		fi; \
		environment=.venv-matrix/$$(basename "$$name"); \
		echo "$$name with requirements/next.lock" >&2; \
		"$$python" -m venv $$environment && \
		$$environment/bin/python $(PIP_INSTALL) --require-hashes -r requirements/next.lock && \
		$$environment/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation -e . && \
		$(call ALL_TESTS,$$environment/bin/python) || exit 1; \
		tested="$$tested $$name"; \
	done; \
	echo "tested:$${tested:- nothing}" >&2; \
	[ -n "$$tested" ]

survive: $(VENV)/.dev
	@KILLS=$${KILLS:-50} $(BIN)/python -m pytest -s $(ANY_LENGTH) tests/integration/test_mqtt_kill_nine.py

soak: $(VENV)/.dev
	@SOAK_S=$${SOAK_S:-600} SOAK_SESSIONS=$${SOAK_SESSIONS:-1000} $(BIN)/python -m pytest -s $(ANY_LENGTH) tests/integration/test_mqtt_soak.py

clean:
	@rm -rf $(VENV) .venv-matrix .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

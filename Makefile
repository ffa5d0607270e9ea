# make setup | demo | test | check | lint | audit | nightly | reliability | bench.   Everything is safe to repeat.

PYTHON ?= python3
VENV ?= .venv
# TORCH: what to install where the environment has no torch; TORCH_INDEX: the index to take it from
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTEST_WORKERS ?= 2

PY := $(VENV)/bin/python
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

# huge pages for tensors, and no look-ups at the hub
export THP_MEM_ALLOC_ENABLE = 1
export HF_HUB_OFFLINE = 1

.PHONY: setup demo test check lint audit nightly reliability bench clean

setup: $(STAMP)

# A venv is complete when its stamp is newer than what it was made from.
$(STAMP): pyproject.toml constraints.txt requirements.lock bin/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" sh bin/setup
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/lgdlm demo $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not nightly" $(ARGS)
	@$(MAKE) --no-print-directory lint

lint: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src

# known vulnerabilities of what is installed; "not run" where nobody can be asked
audit: $(STAMP)
	$(PY) bin/audit

# one command before a commit: what CI runs
check: $(STAMP)
	bash .ci/run

nightly: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m nightly $(ARGS)

# strike runs with everything that docs/reliability.md names, and write its table
reliability: $(STAMP)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(PY) -m crash --keep $(ARGS)

bench: $(STAMP)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info

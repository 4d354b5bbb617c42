# Two commands do all the set-up on a machine with only Python (3.11 or newer) and make:
#   make demo    a real training run explodes, is diagnosed and cured
#   make test    every fast test, the linter and the type checker
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/gradbelt demo

test: $(VENV)/.ready lint
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow and not whole" --timeout 1500 -rA --capture=tee-sys

lint: $(VENV)/.ready
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# with the peers beside it: $(BIN)/pip install -c constraints.txt -e '.[peers]'
bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

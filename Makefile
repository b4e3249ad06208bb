# make demo   builds the environment, fetches the model, runs the seven-method comparison
# make test   builds the environment, runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-real test-gpu bench lint docs lock clean

demo: $(READY)
	$(BIN)/adapterzoo run recipes/quickstart.yaml

test: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Trains the real model; minutes.
test-real: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m real --numprocesses auto

# Needs a GPU, and is skipped test by test without one; minutes.
test-gpu: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m gpu -vv

# Against the scripts that people write: hours. One method and round: bench/bench.py --help.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock trl==1.16.0
	$(BIN)/python bench/bench.py quickstart

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tables of methods in the README and docs/capabilities.*, the examples in docs/data.md, the keys in docs/recipe.md, the schema of comparisons.
docs: $(READY)
	$(BIN)/python tests/test_docs.py
	PYTHONPATH=tests/support $(BIN)/python tests/test_docs_data.py

# The exact versions that demo and test run with. Raise one in pyproject.toml, then `make lock`.
lock: $(READY)
	$(BIN)/pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' | sort -f > requirements.lock.new
	mv requirements.lock.new requirements.lock

# pip would compile on one core. Some packages have templates among their modules, which cannot be compiled.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adapterzoo needs Python 3.11 or newer; give one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib adapterzoo plugins || true
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

clean:
	rm -rf $(VENV)
